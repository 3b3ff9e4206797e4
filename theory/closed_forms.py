"""Acceptances at one position that are known in closed form.

Each is an expectation over the drafts as well as over the rule's own coins,
and states which law the drafts follow. `p` is the target's law, `q` the draft
law; NumPy, float64, leading axes are batch.
"""

import numpy as np

from theory import checks

_MAX_SUBSET_TOKENS = 16
_VANISHED = 1e-12


def overlap(p, q) -> np.ndarray:
  """`1 - TV(p, q)`: what one draft is accepted with at best.

  Leviathan et al. 2023 (arXiv 2211.17192), Sec. 3.2. From `[..., V]` laws to
  `f64[...]` probabilities.

  Raises:
    ValueError: if either is no law or the shapes differ.

  >>> round(float(overlap([.5, .3, .2], [.2, .3, .5])), 6)
  0.7
  """
  p, q = checks.laws(p, q)
  return 1 - np.abs(p - q).sum(-1) / 2


def _subset_masses(p, q):
  """`p(S)` and `q(S)`, each `[..., 2^V]`, over all subsets S."""
  p, q = checks.laws(p, q)
  size = p.shape[-1]
  if size > _MAX_SUBSET_TOKENS:
    raise ValueError(
        f"V={size}, expected at most {_MAX_SUBSET_TOKENS}: the formula runs"
        " over all subsets.")
  sets = ((np.arange(1 << size)[:, None] >> np.arange(size)) & 1).T
  return p @ sets, q @ sets


def two_identical_drafts(p, q) -> np.ndarray:
  """The optimum for two independent drafts from q, over all subsets.

  `min over S of p(S) + q(S^c)^2 + 2 q(S) q(S^c)`, Khisti et al. 2025 (arXiv
  2410.18234). From `[..., V]`, V <= 16, to `f64[...]`.

  Raises:
    ValueError: if either is no law, the shapes differ or V is too large.

  >>> round(float(two_identical_drafts([.5, .3, .2], [.2, .3, .5])), 6)
  0.86
  """
  p_in, q_in = _subset_masses(p, q)
  q_out = 1 - q_in
  return (p_in + q_out ** 2 + 2 * q_in * q_out).min(-1)


def is_always_accepted(p, q, num_drafts: int = 2) -> np.ndarray:
  """Whether some exact rule never rejects K independent drafts from q.

  If and only if `p(S) >= q(S)^K` for every set S of tokens: Khisti et al.
  2025 for K = 2. From `[..., V]`, V <= 16, to `bool[...]`.

  Raises:
    ValueError: as `two_identical_drafts`, or for fewer than one draft.

  >>> bool(is_always_accepted([.5, .3, .2], [.55, .3, .15]))
  True
  """
  num_drafts = checks.count("num_drafts", num_drafts, 1)
  p_in, q_in = _subset_masses(p, q)
  return (p_in >= q_in ** num_drafts - _VANISHED).all(-1)


def recursive_rejection_rounds(p, q, num_drafts: int) -> np.ndarray:
  """Probability that draft j is accepted once those before it were rejected.

  `a_j = sum min(p_j, q)` with `p_{j+1} = norm((p_j - q)_+)`: it does not
  depend on which tokens were drawn. SpecInfer (arXiv 2305.09781), Algorithm 2,
  independent drafts from one q. After a vanished residual the value is 1.

  Returns:
    `f64[..., K]`.

  Raises:
    ValueError: if either is no law, the shapes differ or K < 1.

  >>> recursive_rejection_rounds([.5, .3, .2], [.2, .3, .5], 2).round(6)
  array([0.7, 0.2])
  """
  p, q = checks.laws(p, q)
  rounds, is_over = [], np.zeros(p.shape[:-1], bool)
  for _ in range(checks.count("num_drafts", num_drafts, 1)):
    rounds.append(np.where(is_over, 1.0, np.minimum(p, q).sum(-1)))
    residual = np.maximum(p - q, 0)
    mass = residual.sum(-1, keepdims=True)
    is_over |= mass[..., 0] < _VANISHED
    p = np.where(mass < _VANISHED, p, residual / np.maximum(mass, _VANISHED))
  return np.stack(rounds, -1)


def recursive_rejection(p, q, num_drafts: int) -> np.ndarray:
  """`1 - prod (1 - a_j)`, acceptance of recursive rejection, `f64[...]`.

  >>> round(float(recursive_rejection([.5, .3, .2], [.2, .3, .5], 2)), 6)
  0.76
  """
  return 1 - (1 - recursive_rejection_rounds(p, q, num_drafts)).prod(-1)


def list_matching_bound(p, q, num_drafts: int = 1) -> np.ndarray:
  """Least acceptance of K drafts that share their noise with the target.

  `sum_j K / sum_i max(K p_i/p_j, q_i/q_j + (K-1) p_i/p_j)`, Rowan et al. 2025
  (arXiv 2506.05632), list matching lemma; for K = 1 the exact acceptance of
  the Gumbel coupling, Daliri et al. 2024 (arXiv 2408.07978). `f64[...]`.

  Raises:
    ValueError: if either is no law, the shapes differ or K < 1.

  >>> round(float(list_matching_bound([.5, .3, .2], [.2, .3, .5])), 6)
  0.630769
  """
  p, q = checks.laws(p, q)
  num_drafts = checks.count("num_drafts", num_drafts, 1)
  # Multiplied by p_j q_j, so that tokens without mass add 0.
  p_i, q_i, p_j, q_j = (
      p[..., None, :], q[..., None, :], p[..., None], q[..., None])
  worst = np.maximum(num_drafts * p_i * q_j,
                     q_i * p_j + (num_drafts - 1) * p_i * q_j).sum(-1)
  top = num_drafts * p * q
  return np.divide(top, worst, out=np.zeros_like(top), where=top > 0).sum(-1)


def two_step_block_gain(p0, q0, p_rows, q_rows) -> float:
  """Tokens that block verification gains on a chain of two drafts.

  The first token's clipped ratio `c_x = min(1, p0/q0)` enters the second
  test instead of multiplying it: `sum_x q0(x) [sum_y min(q(y|x), c_x p(y|x)) -
  c_x sum_y min(q(y|x), p(y|x))]`, Sun et al. 2025 (arXiv 2403.10444).

  Args:
    p0: `[V]`, law of the first token; `q0` of its draft.
    q0: `[V]`.
    p_rows: `[V, V]`, row x the law after token x; `q_rows` of its draft.
    q_rows: `[V, V]`.

  Raises:
    ValueError: if any is no law or the shapes differ.

  >>> p, q = [1/3, 2/3], [2/3, 1/3]
  >>> round(two_step_block_gain(p, q, [p, p], [q, q]), 6)
  0.111111
  """
  (p0, q0), (p_rows, q_rows) = checks.laws(p0, q0), checks.laws(p_rows, q_rows)
  if p_rows.shape != 2 * p0.shape:
    raise ValueError(
        f"p0 has shape {p0.shape}, p_rows {p_rows.shape}; expected [V]"
        " and [V, V].")
  ratio = np.divide(p0, q0, out=np.ones_like(p0), where=q0 > 0)
  kept = np.minimum(1, ratio)[:, None]
  block = np.minimum(q_rows, kept * p_rows).sum(-1)
  token = (kept * np.minimum(q_rows, p_rows)).sum(-1)
  return float(q0 @ (block - token))
