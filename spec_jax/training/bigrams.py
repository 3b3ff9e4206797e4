"""Counts which token follows each token most often."""

import numpy as np


def successors(stream: np.ndarray, vocab_size: int) -> np.ndarray:
  """`i32[V]`, the most frequent token after each; of equals the lowest.

  After a token that is never followed stands the most frequent token of all.

  Args:
    stream: `[n]` tokens, n at least 1.
    vocab_size: V.

  Raises:
    ValueError: for an empty stream or tokens outside the vocabulary.
  """
  stream = np.asarray(stream, np.int64)
  if not stream.size or stream.min() < 0 or stream.max() >= vocab_size:
    raise ValueError(
        f"a stream of {stream.size} tokens"
        + (f" from {stream.min()} to {stream.max()}" if stream.size else "")
        + f", expected at least one, all below {vocab_size}.")
  table = np.full(vocab_size, np.bincount(stream).argmax(), np.int32)
  pairs, counts = np.unique(stream[:-1] * vocab_size + stream[1:],
                            return_counts=True)
  # Ascending counts, and descending pairs among equals: the last one wins.
  for pair in pairs[np.lexsort((-pairs, counts))]:
    table[pair // vocab_size] = pair % vocab_size
  return table
