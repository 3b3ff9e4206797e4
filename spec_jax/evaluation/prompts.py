"""Prompt files: Spec-Bench and HumanEval rows, plain texts, bundles.

A `*.jsonl` file has one object per line, with `turns` (Spec-Bench: a list of
texts, each asked after the answer to the one before) or with `prompt`
(HumanEval, bundles). Any other file is one prompt. No chat template is applied.
"""

from collections.abc import Sequence
import dataclasses
import hashlib
import json
import os
import pathlib
from typing import Any

import jax.numpy as jnp
import numpy as np

from spec_jax.executors import decoding

# What stands between an answer and the next turn.
TURN_SEPARATOR = "\n\n"
_EXPECTED = ('expected an object with "turns" (a list of texts) or "prompt"'
             " (a text)")
# Widths are these times a power of two, so that few shapes are compiled.
_BUCKET = 64


@dataclasses.dataclass(frozen=True)
class Conversation:
  """One or more texts, each following the answer to the one before.

  Attributes:
    name: says where it is from.
    category: for tables; the file's name where the row has none.
    turns: texts, none of them empty.
  """

  name: str
  category: str
  turns: tuple[str, ...]


def from_texts(texts: Sequence[str], category: str
               ) -> tuple[Conversation, ...]:
  """One conversation of one turn per text.

  Raises:
    ValueError: for an empty text.
  """
  return tuple(_conversation(f"{category}[{i}]", category, [text])
               for i, text in enumerate(texts))


def read(path: str | os.PathLike) -> tuple[Conversation, ...]:
  """Reads a prompt file.

  Raises:
    ValueError: names the file, the line and what was expected there.
  """
  path = pathlib.Path(path)
  try:
    text = path.read_text(encoding="utf-8")
  except UnicodeDecodeError as error:
    raise ValueError(f"{path}: not UTF-8 text: {error}") from error
  except OSError as error:
    raise ValueError(
        f"{path}: cannot be read, expected a prompt file: {error.strerror}."
        ) from error
  if path.suffix != ".jsonl":
    return (_conversation(str(path), path.stem, [text]),)
  rows = tuple(_row(f"{path}, line {number}", path.stem, line)
               for number, line in enumerate(text.splitlines(), 1)
               if line.strip())
  if not rows:
    raise ValueError(f"{path}: no rows, expected one JSON object per line.")
  return rows


def _row(where: str, stem: str, line: str) -> Conversation:
  try:
    row = json.loads(line)
  except json.JSONDecodeError as error:
    raise ValueError(f"{where}: not JSON ({error}), {_EXPECTED}.") from error
  if not isinstance(row, dict) or not {"turns", "prompt"} & row.keys():
    found = sorted(row) if isinstance(row, dict) else type(row).__name__
    raise ValueError(f"{where}: found {found}, {_EXPECTED}.")
  turns = row["turns"] if "turns" in row else [row["prompt"]]
  name = str(row.get("question_id", row.get("task_id", where)))
  return _conversation(name, str(row.get("category", stem)), turns, where)


def _conversation(name: str, category: str, turns: Any, where: str = ""
                  ) -> Conversation:
  where = where or name
  if not isinstance(turns, list) or not turns or not all(
      isinstance(turn, str) for turn in turns):
    raise ValueError(f"{where}: found {turns!r:.60}, {_EXPECTED}.")
  for turn in turns:
    if not turn.strip():
      raise ValueError(f"{where}: the prompt is empty, expected some text.")
  return Conversation(name, category, tuple(turns))


def digest(conversations: Sequence[Conversation]) -> str:
  """SHA-256 of the texts, their order included."""
  turns = json.dumps([c.turns for c in conversations])
  return hashlib.sha256(turns.encode()).hexdigest()


def room(max_positions: int, max_new_tokens: int) -> int:
  """Prompt tokens that fit beside the new ones.

  Raises:
    ValueError: if none does.
  """
  left = max_positions - max_new_tokens
  if max_new_tokens < 1 or left < 1:
    raise ValueError(
        f"max_new_tokens={max_new_tokens}, expected between 1 and"
        f" {max_positions - 1}: the model has {max_positions} positions.")
  return left


def fit(tokens: Sequence[int], limit: int) -> tuple[list[int], int]:
  """Keeps the last `limit` tokens; returns them and how many were dropped."""
  dropped = max(0, len(tokens) - limit)
  return list(tokens[dropped:]), dropped


def batch(rows: Sequence[Sequence[int]], limit: int) -> decoding.Prompts:
  """Token lists as a right-padded batch, of one of few widths.

  Args:
    rows: none of them empty, none longer than `limit`.
    limit: no width is larger.
  """
  longest, width = max(map(len, rows)), _BUCKET
  while width < longest:
    width *= 2
  tokens = np.zeros((len(rows), max(longest, min(width, limit))), np.int32)
  for i, row in enumerate(rows):
    tokens[i, :len(row)] = row
  return decoding.Prompts(
      jnp.asarray(tokens), jnp.asarray([len(row) for row in rows], jnp.int32))
