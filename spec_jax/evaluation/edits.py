"""Repeated edits of one file: the workload of a coding agent, in small.

A conversation shows a piece of code, then asks for it again and again, each
time with another name changed. Most of every answer stands in the text already,
which is what drafters that copy live from. Made from files, by no chance: equal
files give equal prompts.
"""

import ast
import collections
from collections.abc import Sequence
import hashlib
import keyword
import re

from spec_jax.evaluation import prompts as prompts_lib

NAME = "edits"
_IDENTIFIER = re.compile(r"\b[A-Za-z_]\w{2,}\b")
_NEW_NAMES = ("value", "item", "result", "target", "source", "current",
              "buffer", "entry", "record", "context")


def conversations(files: Sequence[tuple[str, str]], count: int = 16,
                  num_edits: int = 3, max_lines: int = 16, min_lines: int = 6
                  ) -> tuple[prompts_lib.Conversation, ...]:
  """Conversations of `num_edits` turns over pieces of different files.

  Args:
    files: names and texts of Python files.
    count: conversations at most; fewer if the files have not enough pieces.
    num_edits: turns of each.
    max_lines: of a piece.
    min_lines: of a piece.

  Raises:
    ValueError: no file has a piece of that size with enough names to change.
  """
  if count < 1 or num_edits < 1:
    raise ValueError(f"count={count}, num_edits={num_edits}, expected >= 1.")
  found = []
  for name, text in sorted(files, key=lambda file: _mix(file[0])):
    for first, piece in _pieces(text, min_lines, max_lines):
      turns = _turns(piece, num_edits)
      if turns:
        found.append(prompts_lib.Conversation(
            f"{NAME}:{name}:{first}", NAME, turns))
        break
    if len(found) == count:
      break
  if not found:
    raise ValueError(
        f"none of {len(files)} files has a function of {min_lines} to"
        f" {max_lines} lines with {num_edits} names to change.")
  return tuple(found)


def _mix(text: str) -> str:
  """An order without a pattern."""
  return hashlib.sha256(text.encode()).hexdigest()


def _pieces(text, min_lines, max_lines):
  """Functions of the right size: first line and text."""
  try:
    nodes = list(ast.walk(ast.parse(text)))
  except (SyntaxError, ValueError):
    return
  lines = text.splitlines()
  for node in nodes:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
      size = node.end_lineno - node.lineno + 1
      if min_lines <= size <= max_lines:
        piece = lines[node.lineno - 1:node.end_lineno]
        indent = len(piece[0]) - len(piece[0].lstrip())
        yield node.lineno, "\n".join(line[indent:] for line in piece)


def _turns(piece: str, num_edits: int) -> tuple[str, ...]:
  """The prompts, each ending with the first line of the next version."""
  turns, taken = [], set(_NEW_NAMES) & set(_IDENTIFIER.findall(piece))
  for number in range(num_edits):
    old = _most_used(piece)
    new = next((name for name in _NEW_NAMES if name not in taken), None)
    if old is None or new is None:
      return ()
    taken |= {old, new}
    before = piece + "\n\n\n" if number == 0 else ""
    piece = re.sub(rf"\b{old}\b", new, piece)
    first_line = piece.splitlines()[0]
    turns.append(f"{before}# Now {old} is called {new}.\n{first_line}\n")
  return tuple(turns)


def _most_used(piece):
  """The name that occurs most often, at least twice; not a new one."""
  counts = collections.Counter(
      name for name in _IDENTIFIER.findall(piece)
      if not keyword.iskeyword(name) and name not in _NEW_NAMES)
  usable = [(-times, name) for name, times in counts.items() if times > 1]
  return min(usable)[1] if usable else None
