"""Phrases that a model likes to write, by the token they follow.

The model-dependent database of Hierarchy Drafting (Cho et al. 2025): n-grams
of the model's own earlier answers, counted over answers, the frequent kept.
"""

import collections
from collections.abc import Iterable
from collections.abc import Sequence
import dataclasses
import os
import pathlib
from typing import Any
import zipfile

import numpy as np

_HOW = "; build one with python -m experiments.build_history"
_NAMES = ("phrases", "vocab_size")


@dataclasses.dataclass(frozen=True, eq=False)
class History:
  """An opened history.

  Attributes:
    phrases: by key, the most frequent first; all of one length.
    size: tokens of a phrase.
    vocab_size: of the tokenizer.
  """

  phrases: dict[int, list[tuple[int, ...]]]
  size: int
  vocab_size: int

  def lookup(self, key: int) -> list[tuple[int, ...]]:
    return self.phrases.get(key, [])


def count(answers: Iterable[Sequence[int]], vocab_size: int, level: int = 5,
          most: int = 100_000, per_key: int = 7) -> History:
  """Counts the n-grams of answers.

  Args:
    answers: token ids.
    vocab_size: of the tokenizer.
    level: n, the key included.
    most: n-grams kept, over all keys; of equally frequent ones the smaller.
    per_key: of them, phrases of one key.

  Raises:
    ValueError: the answers are too short to have an n-gram.
  """
  if level < 2:
    raise ValueError(f"level={level}, expected >= 2: a key and a token.")
  counts = collections.Counter()
  for answer in answers:
    grams = zip(*(answer[i:] for i in range(level)))
    counts.update(set(grams))  # Once per answer.
  if not counts:
    raise ValueError(f"no answer has {level} tokens, expected some text.")
  ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:most]
  phrases = collections.defaultdict(list)
  for (key, *phrase), _ in ranked:
    if len(phrases[key]) < per_key:
      phrases[key].append(tuple(phrase))
  return History(dict(phrases), level - 1, vocab_size)


def save(path: str | os.PathLike, history: History) -> None:
  """One compressed file; rows are keys and their phrases, best first."""
  rows = [(key, *phrase) for key, phrases in sorted(history.phrases.items())
          for phrase in phrases]
  np.savez_compressed(
      path, phrases=np.asarray(rows, np.uint32),
      vocab_size=np.asarray(history.vocab_size))


def load(path: str | os.PathLike, size: int | None = None,
         vocab_size: int | None = None) -> History:
  """Reads what `save` wrote.

  Args:
    path: of the file.
    size: tokens its phrases must have, or None.
    vocab_size: that it must have, or None.

  Raises:
    ValueError: there is no such file, or it is broken, or it does not fit.
  """
  path = pathlib.Path(path)
  arrays = _read(path)
  rows, found = arrays["phrases"], int(arrays["vocab_size"])
  if rows.ndim != 2 or rows.shape[1] < 2 or rows.max() >= found:
    raise ValueError(f"{path}: phrases of shape {rows.shape} with ids up to"
                     f" {rows.max(initial=0)}, expected rows of a key and its"
                     f" phrase below {found}" + _HOW + ".")
  if size is not None and rows.shape[1] - 1 != size:
    raise ValueError(f"{path}: phrases of {rows.shape[1] - 1} tokens, expected"
                     f" {size}" + _HOW + ".")
  if vocab_size is not None and found != vocab_size:
    raise ValueError(f"{path}: a vocabulary of {found} tokens, the target has"
                     f" {vocab_size}" + _HOW + ".")
  phrases = collections.defaultdict(list)
  for key, *phrase in rows.tolist():
    phrases[key].append(tuple(phrase))
  return History(dict(phrases), rows.shape[1] - 1, found)


def _read(path) -> dict[str, Any]:
  try:
    with np.load(path) as file:
      return {name: file[name] for name in _NAMES}
  except OSError as error:
    raise ValueError(f"{path}: no history there"
                     f" ({error.strerror or error})" + _HOW + ".") from error
  except (KeyError, ValueError, TypeError, AttributeError, EOFError,
          zipfile.BadZipFile) as error:
    raise ValueError(f"{path}: not a history ({error})" + _HOW + ".") from error
