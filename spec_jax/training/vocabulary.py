"""Which tokens a draft needs to know: the ones that occur most."""

from collections.abc import Iterable

import numpy as np


def most_frequent(tokens: np.ndarray, vocab_size: int, size: int,
                  always: Iterable[int] = ()) -> np.ndarray:
  """`i32[size]`, the most frequent ids, ascending; ties go to the lower id.

  Args:
    tokens: `u16[...]`, text.
    vocab_size: V.
    size: how many.
    always: ids that are taken whatever their count.

  Raises:
    ValueError: if more are wanted than there are, or fewer than `always`.
  """
  always = np.unique(np.asarray(list(always), np.int64))
  if not max(1, len(always)) <= size <= vocab_size:
    raise ValueError(
        f"size={size} tokens, expected from {max(1, len(always))} to the"
        f" vocabulary's {vocab_size}.")
  counts = np.bincount(np.asarray(tokens).ravel(), minlength=vocab_size)
  counts[always] = np.iinfo(counts.dtype).max
  return np.sort(np.argsort(-counts, kind="stable")[:size]).astype(np.int32)


def coverage(tokens: np.ndarray, token_ids: np.ndarray) -> float:
  """The share of a text that is made of these tokens."""
  return float(np.isin(np.asarray(tokens), token_ids).mean())
