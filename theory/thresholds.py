"""SpecDec++'s rule: verify once a rejection is likely enough.

Huang et al. 2025 (arXiv 2405.19715), Sec. 3, for the problems of `policies`,
which charge c1 for every draft and c2 for every verification. Charging c1 for
discarded drafts only is the same problem with `verify_cost` c1 + c2 and a cost
per token that is lower by c1.
"""

import numpy as np

from theory import checks
from theory import policies


def at_rejection(drafting: policies.Drafting, risk: float) -> policies.Stop:
  """Verify once `Pr(some drafted token is rejected) >= risk`.

  >>> steady = policies.Drafting([.5], [1.], [[1.]], 1., 10., 8)
  >>> at_rejection(steady, .6)((0,)), at_rejection(steady, .6)((0, 0))
  (False, True)
  """
  return lambda path: 1 - drafting.survival(path) >= risk


def threshold(draft_cost: float, verify_cost: float, delta: float = 0.0
              ) -> float:
  """SpecDec++, Theorem 3.1: `(c2 + Delta) / (c1 + c2 + Delta)`.

  At or above this probability of a rejection stopping is better. Delta = 0
  is safe for every problem here: the least cost per token is at most c2.

  Raises:
    ValueError: for a cost or a sum of the three that is not above 0.

  >>> threshold(1., 9.)
  0.9
  """
  checks.positive("draft_cost and verify_cost", [draft_cost, verify_cost])
  total = float(checks.positive(
      "draft_cost + verify_cost + delta", draft_cost + verify_cost + delta))
  return 1 - draft_cost / total


def optimal_delta(drafting: policies.Drafting, rate: float) -> float:
  """The Delta with which the threshold is not only safe but optimal.

  `r mean(accept) - c1 - c2` if levels are independent of the past: one more
  token is worth `r Pr(no rejection) mean(accept)` and costs c1, and it is
  worth less at each step, so looking one step ahead is optimal.

  Raises:
    ValueError: unless every row of `following` is `first`; or if no draft is
      ever accepted.

  >>> steady = policies.Drafting([.9], [1.], [[1.]], 1., 10., 8)
  >>> optimal_delta(steady, policies.optimal(steady)[0]) < 0
  True
  """
  if not np.allclose(drafting.following, drafting.first, rtol=0, atol=1e-12):
    raise ValueError(
        f"following={drafting.following.tolist()}, expected every row to be"
        f" first={drafting.first.tolist()}.")
  accept = checks.positive(
      "mean acceptance", drafting.first @ drafting.accepts)
  return float(rate * accept - drafting.draft_cost - drafting.verify_cost)
