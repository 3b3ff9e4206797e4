"""What a round costs and yields: tokens, walltime, operations.

Costs are relative to one forward of the target unless a unit is named. The
acceptance `alpha` is the probability that a draft is accepted once those
before it were; one number for all depths is a model (Leviathan et al. 2023,
Sec. 3.1), a vector by depth is not. NumPy, float64.
"""

import numpy as np
from scipy import optimize

from theory import checks


def expected_tokens(alpha, length: int) -> np.ndarray:
  """Tokens per round of a chain, the target's own token included.

  `(1 - alpha^(g+1)) / (1 - alpha)`, Leviathan et al. 2023 (arXiv 2211.17192),
  Eq. 1; summed as powers, so alpha = 1 is no special case.

  Args:
    alpha: `[...]`, acceptance in [0, 1].
    length: g, drafts per round.

  Returns:
    `f64[...]` in `[1, g + 1]`.

  Raises:
    ValueError: for an acceptance outside [0, 1] or a negative length.

  >>> round(float(expected_tokens(.8, 5)), 6)
  3.68928
  """
  alpha = checks.between("alpha", alpha)
  length = checks.count("length", length)
  return (alpha[..., None] ** np.arange(length + 1)).sum(-1)


def expected_tokens_by_depth(accepts) -> np.ndarray:
  """Tokens per round when depth d accepts with `accepts[..., d]`.

  `1 + sum over d of the product up to d`; `[..., G]` conditional acceptances
  to `f64[...]`.

  Raises:
    ValueError: for an acceptance outside [0, 1].

  >>> float(expected_tokens_by_depth([.5, .5]))
  1.75
  """
  accepts = checks.between("accepts", accepts)
  return 1 + np.cumprod(accepts, -1).sum(-1)


def walltime_factor(tokens, draft_steps, cost_ratio, verify_cost=1.0
                    ) -> np.ndarray:
  """Speed-up over one token per forward: `tokens / (steps c + v)`.

  Leviathan et al. 2023, Theorem 3.8, with v = 1: verifying costs as much as
  one token. All arguments broadcast.

  Args:
    tokens: per round, at least 1.
    draft_steps: sequential draft forwards per round.
    cost_ratio: c, seconds of a draft step / seconds of a target forward.
    verify_cost: v, seconds of the verifying forward / of a plain one.

  Raises:
    ValueError: for less than one token or a negative cost.

  >>> round(float(walltime_factor(expected_tokens(.8, 5), 5, .05)), 6)
  2.951424
  """
  tokens = checks.between("tokens", tokens, 1.0, np.inf)
  steps = checks.between("draft_steps", draft_steps, 0.0, np.inf)
  cost_ratio = checks.between("cost_ratio", cost_ratio, 0.0, np.inf)
  return tokens / (
      steps * cost_ratio + checks.positive("verify_cost", verify_cost))


def memory_bound_speedup(tokens, length, draft_params, target_params
                         ) -> np.ndarray:
  """MBSU: the walltime factor if time were parameters read.

  `tokens / (c g + 1)` with c = draft / target parameters; Goel et al. 2024
  (arXiv 2403.00858).

  Raises:
    ValueError: for less than one token or no parameters.

  >>> round(float(memory_bound_speedup(2.0, 3, 1e8, 1e9)), 6)
  1.538462
  """
  ratio = (checks.positive("draft_params", draft_params)
           / checks.positive("target_params", target_params))
  return walltime_factor(tokens, length, ratio)


def operations_factor(alpha, length: int, operations_ratio) -> np.ndarray:
  """Arithmetic operations per token against plain decoding, `f64[...]`.

  `(g c_hat + g + 1) / E[tokens]`, Leviathan et al. 2023, Theorem 3.11; c_hat
  = operations per token of the draft / of the target.

  Raises:
    ValueError: as `expected_tokens`, or for a negative ratio.

  >>> float(operations_factor(.5, 1, 0.))
  1.3333333333333333
  """
  ratio = checks.between("operations_ratio", operations_ratio, 0.0, np.inf)
  return (length * ratio + length + 1) / expected_tokens(alpha, length)


def optimal_length(alpha: float, cost_ratio: float, max_length: int
                   ) -> tuple[int, float]:
  """The draft length of 0..max_length with the largest walltime factor.

  Leviathan et al. 2023, Sec. 3.5. Length 0 is plain decoding, factor 1; of
  equal factors the shortest wins.

  Raises:
    ValueError: as `expected_tokens` and `walltime_factor`.

  >>> optimal_length(.05, .1, 8)
  (0, 1.0)
  >>> optimal_length(.8, .05, 20)[0]
  8
  """
  factors = [float(walltime_factor(expected_tokens(alpha, g), g, cost_ratio))
             for g in range(checks.count("max_length", max_length) + 1)]
  best = int(np.argmax(factors))
  return best, factors[best]


def break_even_acceptance(length: int, cost_ratio: float) -> float:
  """The acceptance at which g drafts are neither gain nor loss.

  Root of `expected_tokens(alpha, g) = 1 + g c`. For one draft it is c itself,
  for more it is above: Leviathan et al. 2023, Corollary 3.9.

  Args:
    length: g, at least 1.
    cost_ratio: c, in [0, 1]; a draft dearer than the target never pays.

  Raises:
    ValueError: for arguments out of range.

  >>> round(break_even_acceptance(1, .25), 9)
  0.25
  """
  length = checks.count("length", length, 1)
  cost_ratio = float(checks.between("cost_ratio", cost_ratio))
  excess = lambda a: float(expected_tokens(a, length)) - 1 - length * cost_ratio
  return float(optimize.brentq(excess, 0.0, 1.0, xtol=1e-14))


def required_token_ratio(draft_steps, cost_ratio, new_cost_ratio,
                         verify_cost=1.0) -> np.ndarray:
  """How many times the tokens a dearer draft must yield to break even.

  `(k t' + t_v) / (k t + t_v)`, Yan et al. 2024 (arXiv 2402.01528);
  k draft steps of t (now) and t' (then), verification t_v.

  Raises:
    ValueError: for a negative cost.

  >>> round(float(required_token_ratio(4, .05, .1)), 6)
  1.166667
  """
  return (walltime_factor(1.0, draft_steps, cost_ratio, verify_cost)
          / walltime_factor(1.0, draft_steps, new_cost_ratio, verify_cost))
