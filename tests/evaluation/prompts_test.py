"""Prompt files of every kind, and what is said about broken ones."""

import json

import pytest

from spec_jax.evaluation import prompts


def _write(tmp_path, *lines, name="p.jsonl"):
  path = tmp_path / name
  path.write_text("\n".join(lines))
  return path


def test_spec_bench_rows_keep_their_turns(tmp_path):
  path = _write(tmp_path, json.dumps(
      {"question_id": 81, "category": "writing", "turns": ["One.", "Two."]}))
  assert prompts.read(path) == (
      prompts.Conversation("81", "writing", ("One.", "Two.")),)


def test_human_eval_rows(tmp_path):
  path = _write(tmp_path, '{"task_id": "HumanEval/0", "prompt": "def f():"}',
                "", '{"prompt": "x"}', name="humaneval.jsonl")
  first, second = prompts.read(path)
  assert first == prompts.Conversation(
      "HumanEval/0", "humaneval", ("def f():",))
  assert second.name == f"{path}, line 3"


def test_any_other_file_is_one_prompt(tmp_path):
  path = _write(tmp_path, "two", "lines", name="prompt.py")
  (row,) = prompts.read(path)
  assert row.turns == ("two\nlines",) and row.category == "prompt"


@pytest.mark.parametrize("line,message", [
    ("{", "line 2: not JSON"),
    ("[1]", "line 2: found list, expected an object with"),
    ('{"text": "a"}', "line 2: found ['text'], expected an object with"),
    ('{"turns": []}', "line 2: found [], expected"),
    ('{"turns": "a"}', "line 2: found 'a', expected"),
    ('{"turns": ["a", 1]}', "line 2: found ['a', 1], expected"),
    ('{"prompt": 3}', "line 2: found [3], expected"),
    ('{"prompt": " "}', "line 2: the prompt is empty")])
def test_bad_rows_name_file_and_line(tmp_path, line, message):
  path = _write(tmp_path, '{"prompt": "fine"}', line)
  with pytest.raises(ValueError) as error:
    prompts.read(path)
  assert f"{path}, {message}" in str(error.value)


@pytest.mark.parametrize("name,message", [
    ("empty.jsonl", "no rows, expected"), ("empty.txt", "the prompt is empty"),
    ("none.jsonl", "cannot be read"), (".", "cannot be read")])
def test_bad_files(tmp_path, name, message):
  _write(tmp_path, "", name="empty.jsonl")
  _write(tmp_path, "", name="empty.txt")
  with pytest.raises(ValueError, match=message):
    prompts.read(tmp_path / name)


def test_not_text(tmp_path):
  (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00")
  with pytest.raises(ValueError, match="not UTF-8"):
    prompts.read(tmp_path / "a.txt")


def test_digest_depends_on_texts_and_order():
  a, b = (prompts.from_texts(texts, "c") for texts in (["x", "y"], ["y", "x"]))
  same = prompts.from_texts(["x", "y"], "other name")
  assert prompts.digest(a) != prompts.digest(b)
  assert prompts.digest(a) == prompts.digest(same)


def test_fit_keeps_the_last_tokens():
  assert prompts.fit([1, 2, 3, 4], 3) == ([2, 3, 4], 1)
  assert prompts.fit([1, 2], 3) == ([1, 2], 0)


@pytest.mark.parametrize("new", [0, 16, 99])
def test_room_for_nothing(new):
  with pytest.raises(ValueError, match=f"max_new_tokens={new}, expected"):
    prompts.room(16, new)


@pytest.mark.parametrize("longest,limit,width", [
    (1, 900, 64), (64, 900, 64), (65, 900, 128), (600, 900, 900), (5, 7, 7)])
def test_batches_have_few_widths(longest, limit, width):
  batch = prompts.batch([[1], [2] * longest], limit)
  assert batch.tokens.shape == (2, width)
  assert batch.length.tolist() == [1, longest]
  assert int(batch.tokens[1].sum()) == 2 * longest
