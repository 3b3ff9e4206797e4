"""The largest acceptance that any exact rule can reach at one position.

Hu et al. 2025 (arXiv 2502.18779), Theorem 3 and Sec. 4: over all couplings of
the target's law p with a draft of K tokens,

  alpha* = 1 + min over token sets H of  p(H) - Pr(all drafts lie in H),

and for the usual ways of drawing drafts the best H is a prefix of the tokens
sorted by ascending p/q: a sort and two cumulative sums. NumPy, float64.
"""

import numpy as np

DRAWS = ("iid", "without_replacement", "greedy")


def optimal_acceptance(p, q, num_drafts: int = 1, draw: str = "iid"):
  """The optimum of `Pr(the emitted token is among the drafts)`.

  Args:
    p: `[..., V]`, the target's law.
    q: `[..., V]`, the draft law.
    num_drafts: K, at least 1.
    draw: "iid"; "without_replacement" (one after the other, K <= 2 here);
      "greedy" (the K - 1 most likely tokens and one draw from the rest).

  Returns:
    `f64[...]`; for one draft `1 - TV(p, q)`, however it is drawn.

  Raises:
    ValueError: for shapes that differ, an unknown draw or a number of drafts
      that there is no formula for.
  """
  p, q = np.asarray(p, np.float64), np.asarray(q, np.float64)
  if p.shape != q.shape or not p.ndim:
    raise ValueError(
        f"p has shape {p.shape}, q {q.shape}; expected one shape [..., V].")
  if draw not in DRAWS:
    raise ValueError(f"draw={draw!r}, expected one of {DRAWS}.")
  if num_drafts < 1:
    raise ValueError(f"num_drafts={num_drafts}, expected at least 1.")
  if num_drafts == 1:
    return np.minimum(p, q).sum(-1)
  if draw == "greedy":
    return _greedy(p, q, num_drafts)
  if draw == "without_replacement" and num_drafts > 2:
    raise ValueError(
        f"num_drafts={num_drafts}, expected at most 2 for drafts without"
        " replacement.")
  p, q = _by_ratio(p, q)
  all_inside = (np.cumsum(q, -1) ** num_drafts if draw == "iid"
                else _pair_inside(q))
  gain = np.cumsum(p, -1) - all_inside
  # The empty set, too, is a candidate; its value is 0.
  return 1 + np.minimum(0, gain.min(-1))


def _by_ratio(p, q):
  """Both laws sorted by ascending p/q, tokens that q never draws last."""
  ratio = np.divide(p, q, out=np.full_like(p, np.inf), where=q > 0)
  order = np.argsort(ratio, axis=-1, kind="stable")
  return (np.take_along_axis(p, order, -1), np.take_along_axis(q, order, -1))


def _pair_inside(q):
  """Pr(two successive draws lie in the prefix), for every prefix.

  The sum over ordered pairs i != j of `q_i q_j / (1 - q_i)`, which is
  `sum q * sum q/(1-q) - sum q^2/(1-q)`.
  """
  # A token with all the mass is drawn alone; there is no second draw then.
  odds = np.divide(q, 1 - q, out=np.zeros_like(q), where=q < 1)
  inside = np.cumsum(q, -1) * np.cumsum(odds, -1) - np.cumsum(q * odds, -1)
  return np.where((q == 1).any(-1, keepdims=True), np.cumsum(q, -1), inside)


def _greedy(p, q, num_drafts):
  """`p(top) + sum over the rest of min(p, q')`, q' = q renormalised there."""
  order = np.argsort(-q, axis=-1, kind="stable")
  p, q = np.take_along_axis(p, order, -1), np.take_along_axis(q, order, -1)
  top = num_drafts - 1
  rest = q[..., top:]
  mass = rest.sum(-1, keepdims=True)
  rest = np.divide(rest, mass, out=np.zeros_like(rest), where=mass > 0)
  return p[..., :top].sum(-1) + np.minimum(p[..., top:], rest).sum(-1)
