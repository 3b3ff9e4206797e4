"""Pearson's test of counts against a law, with the rare cells pooled."""

import numpy as np
from scipy import stats

# The usual rule for the chi-square approximation to hold.
_MIN_EXPECTED = 5.0


def p_value(counts, law) -> float:
  """Probability of counts at least this far from the law.

  Args:
    counts: of outcomes, any shape.
    law: probabilities of the same shape, summing to 1.

  Returns:
    0 if an impossible outcome occurred.
  """
  counts = np.asarray(counts, np.float64).ravel()
  expected = np.asarray(law, np.float64).ravel() * counts.sum()
  if counts[expected == 0].any():
    return 0.0
  is_rare = expected < _MIN_EXPECTED
  pool = lambda x: np.append(x[~is_rare], x[is_rare].sum())
  counts, expected = pool(counts), pool(expected)
  is_cell = expected > 0
  if is_cell.sum() < 2:
    return 1.0
  return float(stats.chisquare(counts[is_cell], expected[is_cell]).pvalue)


def joint_counts(tokens, vocab_size: int) -> np.ndarray:
  """Counts `[V] * m` of the rows of `i[R, m]`."""
  tokens = np.asarray(tokens)
  shape = (vocab_size,) * tokens.shape[1]
  flat = np.ravel_multi_index(tuple(tokens.T), shape)
  return np.bincount(flat, minlength=int(np.prod(shape))).reshape(shape)
