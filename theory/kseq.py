"""K-SEQ: sequential tests of independent drafts with one common divisor.

Sun et al. 2023 (SpecTr, arXiv 2310.15141). NumPy, float64.
"""

import dataclasses

import numpy as np

from theory import checks

_HALVINGS = 60


@dataclasses.dataclass(frozen=True)
class Solution:
  """K-SEQ's solution; arrays `f64[...]`.

  Attributes:
    rho: the divisor of the test `p / (rho q)`, in [1, K].
    beta: probability that one draft passes it.
    acceptance: that one of the K does, `1 - (1 - beta)^K`.
  """

  rho: np.ndarray
  beta: np.ndarray
  acceptance: np.ndarray


def solve(p, q, num_drafts: int) -> Solution:
  """K-SEQ with its best divisor, for K independent drafts from q.

  SpecTr, Algorithm 2: the smallest rho whose residual is a law is the root of
  `1 - (1 - beta)^K = rho beta`, where `beta(rho) = sum min(q, p / rho)`. Found
  by bisection to about 1e-15.

  Args:
    p: `[..., V]`.
    q: `[..., V]`.
    num_drafts: K, at least 1.

  Raises:
    ValueError: if either is no law, the shapes differ or K < 1.

  >>> found = solve([.5, .3, .2], [.2, .3, .5], 2)
  >>> round(float(found.rho), 6), round(float(found.acceptance), 6)
  (1.456776, 0.791355)
  """
  p, q = checks.laws(p, q)
  num_drafts = checks.count("num_drafts", num_drafts, 1)
  missed_at = lambda rho: np.maximum(q - p / rho[..., None], 0).sum(-1)
  low = np.ones(p.shape[:-1])
  high = np.full(p.shape[:-1], float(num_drafts))
  for _ in range(_HALVINGS):
    rho = (low + high) / 2
    # 1 - rho beta and 1 - beta, each without cancellation.
    short = np.maximum(p - rho[..., None] * q, 0).sum(-1)
    is_too_small = short > missed_at(rho) ** num_drafts
    low, high = np.where(is_too_small, rho, low), np.where(
        is_too_small, high, rho)
  missed = missed_at(high)
  return Solution(high, 1 - missed, 1 - missed ** num_drafts)


def guaranteed_part(num_drafts: int) -> float:
  """K-SEQ reaches at least this part of the optimum of independent drafts.

  `1 - (1 - 1/K)^K`, SpecTr, Theorem 2; it falls to 1 - 1/e.

  Raises:
    ValueError: if K < 1.

  >>> guaranteed_part(1), guaranteed_part(2)
  (1.0, 0.75)
  """
  num_drafts = checks.count("num_drafts", num_drafts, 1)
  return 1 - (1 - 1 / num_drafts) ** num_drafts
