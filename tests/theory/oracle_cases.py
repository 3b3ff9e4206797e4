"""What the tests of the oracles share."""

import functools

import numpy as np

from theory.oracles import drafting
from theory.oracles import resolution
from theory.oracles import sequence

close = functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-9)
same = functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-12)


def as_law(values):
  """The golden laws are rounded to 12 digits."""
  values = np.asarray(values, np.float64)
  return values / values.sum(-1, keepdims=True)


DISTINCT = drafting.without_replacement


def best_race(p, q, num_drafts):
  plan = resolution.solve(p, q, num_drafts, distinct=False)
  return resolution.race(p, q, num_drafts, plan)


def markov(first, rows):
  return sequence.Markov(as_law(first), as_law(rows))


def ring(size, count):
  """Nearest tokens on a line of tokens, as a codebook would give them."""
  distance = np.abs(np.subtract.outer(np.arange(size), np.arange(size)))
  return np.argsort(distance, axis=1, kind="stable")[:, 1:count + 1]
