"""The edits are real ones, and the same for the same files."""

import re

import pytest

from spec_jax.evaluation import edits

PIECE = '''def area(radius, scale):
  """Of a circle."""
  if radius < 0:
    raise ValueError(radius)
  radius = radius * scale
  total = 3.14 * radius * radius
  total = total * scale
  return total
'''
FILES = [("a.py", "import math\n\n\nclass Shape:\n"
          + "".join(f"  {line}\n" for line in PIECE.splitlines())),
         ("b.py", "def broken(:\n"), ("c.py", "x = 1\n")]


def test_each_turn_changes_one_name_of_the_version_before():
  conversation, = edits.conversations(FILES)
  assert conversation.name == "edits:a.py:5"
  assert conversation.category == "edits"
  piece, comment = conversation.turns[0].split("\n\n\n")
  assert piece == PIECE.rstrip("\n")
  asked = [comment, *conversation.turns[1:]]
  for turn in asked:
    old, new, first = re.fullmatch(
        r"# Now (\w+) is called (\w+)\.\n(.*)\n", turn).groups()
    assert re.search(rf"\b{old}\b", piece) and not re.search(
        rf"\b{new}\b", piece)
    piece = re.sub(rf"\b{old}\b", new, piece)
    assert piece.splitlines()[0] == first
  assert len(asked) == 3


def test_equal_files_give_equal_prompts_in_any_order():
  more = FILES + [("d.py", PIECE)]
  assert edits.conversations(more) == edits.conversations(more[::-1])
  assert len(edits.conversations(more)) == 2
  assert len(edits.conversations(more, count=1)) == 1


def test_what_cannot_be_made_is_said():
  with pytest.raises(ValueError, match="none of 2 files has a function of 6"):
    edits.conversations(FILES[1:])
  with pytest.raises(ValueError, match="num_edits=0, expected >= 1"):
    edits.conversations(FILES, num_edits=0)
