"""Expected walltime improvement of drafting with several drafters.

Cascade speculative drafting, Chen et al. 2024 (arXiv 2312.11462), Sec. 3:
vertically a smaller model drafts for the drafter, horizontally a cheaper model
drafts the later positions. Acceptances are the same at all depths, costs are
relative to one forward of the target. NumPy, float64.
"""

from collections.abc import Sequence

import numpy as np

from theory import checks
from theory import latency


def tokens_generating_function(x, alpha: float, length: int) -> np.ndarray:
  """`phi(x) = E[x^N]`, N = tokens of a round of `length` drafts, N >= 1.

  `1 + (x - 1) (1 - (alpha x)^(k+1)) / (1 - alpha x)`; `[...]` to `f64[...]`.

  Raises:
    ValueError: for x or alpha outside [0, 1] or a negative length.

  >>> float(tokens_generating_function(.5, .5, 1))  # .5 x + .5 x^2
  0.375
  """
  x = checks.between("x", x)
  alpha = checks.between("alpha", alpha)
  return 1 + (x - 1) * latency.expected_tokens(alpha * x, length)


def vertical(alpha: float, alpha_draft: float, num_reviews: int, length: int,
             draft_cost: float, inner_cost: float) -> float:
  """EWIF when the drafter's own text is speculative.

  `(1 - alpha phi(alpha)^n) / ((1 - alpha) (1 + n c1 + n k c2))`; at alpha = 1
  all of the n rounds' tokens are kept.

  Args:
    alpha: acceptance of the drafter's tokens by the target.
    alpha_draft: of the inner drafter's tokens by the drafter.
    num_reviews: n, rounds of the drafter per round of the target.
    length: k, drafts of the inner drafter per such round.
    draft_cost: c1, of one forward of the drafter.
    inner_cost: c2, of one forward of the inner drafter.

  Raises:
    ValueError: for arguments out of range.

  >>> round(vertical(.8, .7, 2, 3, .1, .01), 6)
  2.862587
  """
  num_reviews = checks.count("num_reviews", num_reviews)
  length = checks.count("length", length)
  costs = checks.between("costs", [draft_cost, inner_cost], 0.0, np.inf)
  alpha = float(checks.between("alpha", alpha))
  if alpha == 1:
    tokens = 1 + num_reviews * latency.expected_tokens(alpha_draft, length)
  else:
    kept = tokens_generating_function(alpha, alpha_draft, length) ** num_reviews
    tokens = (1 - alpha * kept) / (1 - alpha)
  return float(tokens / (1 + num_reviews * (costs[0] + length * costs[1])))


def horizontal(alphas: Sequence[float], lengths: Sequence[int],
               costs: Sequence[float]) -> float:
  """EWIF when drafter i writes the next `lengths[i]` positions.

  Any number of drafters, by the product of the acceptances up to each depth;
  for two it is the paper's closed form.

  Args:
    alphas: acceptance by the target, per drafter.
    lengths: drafts per round, per drafter.
    costs: of one forward, per drafter.

  Raises:
    ValueError: for lists of different lengths or entries out of range.

  >>> round(horizontal([.8, .5], [3, 4], [.05, .01]), 6)
  2.884034
  """
  if not len(alphas) == len(lengths) == len(costs):
    raise ValueError(
        f"{len(alphas)} alphas, {len(lengths)} lengths and {len(costs)} costs,"
        " expected one of each per drafter.")
  lengths = [checks.count("lengths", n) for n in lengths]
  costs = checks.between("costs", costs, 0.0, np.inf)
  tokens = latency.expected_tokens_by_depth(np.repeat(alphas, lengths))
  return float(tokens / (1 + costs @ np.asarray(lengths, np.float64)))
