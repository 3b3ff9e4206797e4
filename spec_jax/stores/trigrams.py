"""What follows each pair of tokens: corpus weights, corrected online.

The table of ADED (Liu et al. 2024, Sec. 3.1 and repository): shares of the
corpus counts, of which the larger are kept; what the target really writes gains
weight, up to a cap, and nothing is normalised again.
"""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Counts:
  """Trigram shares of a corpus, read only.

  Attributes:
    keys: `u64[K]`, sorted; a pair (a, b) is `a << 32 | b`.
    starts: `i64[K + 1]`, where each pair's successors begin.
    tokens: `u32[n]`, successors, those with the larger shares first.
    weights: `f32[n]`, shares of the pair's occurrences.
  """

  keys: np.ndarray
  starts: np.ndarray
  tokens: np.ndarray
  weights: np.ndarray

  def lookup(self, pair: tuple[int, int]) -> dict[int, float]:
    """Successors with their weights, the larger first."""
    key = np.uint64(pair[0] << 32 | pair[1])
    place = int(np.searchsorted(self.keys, key))
    if place == len(self.keys) or self.keys[place] != key:
      return {}
    which = slice(self.starts[place], self.starts[place + 1])
    return dict(zip(self.tokens[which].tolist(), self.weights[which].tolist()))


def count(tokens: np.ndarray, width: int, end_of_document: int | None = None
          ) -> Counts:
  """Counts the trigrams of a corpus.

  Args:
    tokens: `u16[n]` or `u32[n]`.
    width: successors kept of each pair; of equal ones the smaller token.
    end_of_document: no trigram contains it; None = documents do not end.
  """
  first, second, third = (
      tokens[i:len(tokens) - 2 + i].astype(np.uint64) for i in range(3))
  is_real = np.ones(len(first), bool)
  if end_of_document is not None:
    for column in (first, second, third):
      is_real &= column != end_of_document
  pairs = (first << np.uint64(32) | second)[is_real]
  order = np.lexsort((third[is_real], pairs))
  pairs, third = pairs[order], third[is_real][order]
  is_new = np.ones(len(pairs), bool)
  is_new[1:] = (pairs[1:] != pairs[:-1]) | (third[1:] != third[:-1])
  begins = np.flatnonzero(is_new)
  sizes = np.diff(np.append(begins, len(pairs)))
  pairs, third = pairs[begins], third[begins]
  keys, owner = np.unique(pairs, return_inverse=True)
  total = np.bincount(owner, sizes, len(keys))
  order = np.lexsort((third, -sizes, owner))
  owner, third, sizes = owner[order], third[order], sizes[order]
  starts = np.searchsorted(owner, np.arange(len(keys) + 1))
  kept = np.arange(len(owner)) - starts[owner] < width
  weights = (sizes / total[owner])[kept].astype(np.float32)
  starts = np.searchsorted(owner[kept], np.arange(len(keys) + 1))
  return Counts(keys, starts, third[kept].astype(np.uint32), weights)


class TrigramTable:
  """A corpus's shares with what was learnt on top of them.

  Attributes:
    step: weight that a trigram gains when it is seen.
    cap: most weight it can gain.
  """

  def __init__(self, corpus: Counts | None = None, step: float = 0.04,
               cap: float = 3.0):
    if step < 0 or cap <= 0:
      raise ValueError(f"step={step}, cap={cap}, expected >= 0 and > 0.")
    self._corpus, self.step, self.cap = corpus, step, cap
    self._learnt: dict[tuple[int, int], dict[int, float]] = {}

  @property
  def num_learnt(self) -> int:
    """Pairs that differ from the corpus."""
    return len(self._learnt)

  def lookup(self, pair: tuple[int, int]) -> dict[int, float]:
    """Successors with their weights; those known earlier first."""
    found = self._learnt.get(pair)
    if found is not None:
      return found
    return {} if self._corpus is None else self._corpus.lookup(pair)

  def learn(self, tokens: list[int]) -> None:
    """Every trigram of a piece of text gains weight."""
    for pair_and_next in zip(tokens, tokens[1:], tokens[2:]):
      pair, following = pair_and_next[:2], pair_and_next[2]
      row = self._learnt.get(pair)
      if row is None:
        row = self._learnt[pair] = dict(self.lookup(pair))
      row[following] = min(row.get(following, 0.0) + self.step, self.cap)
