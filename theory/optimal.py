"""The largest acceptance that any exact rule can reach at one position.

Hu et al. 2025 (arXiv 2502.18779), Theorem 3 and Sec. 4: over all couplings of
the target's law p with a draft of K tokens,

  alpha* = 1 + min over token sets H of  p(H) - Q(H),
  Q(H) = Pr(all K drafts lie in H),

and for drafts drawn from one law, with or without replacement, a best H is a
prefix of the tokens sorted by ascending p/q: a sort and cumulative sums.
Drafts from laws of their own (Khisti et al. 2025, arXiv 2410.18234) have no
such order: all sets are tried, or the minimum is enclosed (see `submodular`).
"""

import jax
import numpy as np

from theory import problems
from theory import submodular
from theory import successive

# Tokens up to which all sets are tried: 2^16 of them.
MAX_SUBSET_TOKENS = 16


def optimal_acceptance(p, q, num_drafts: int = 1, draw: str = "iid", *,
                       return_set: bool = False):
  """The optimum of `Pr(the emitted token is among the drafts)`.

  NumPy arrays and sequences are computed in float64; JAX arrays, also inside
  `jit` (`num_drafts`, `draw` and `return_set` static), in float64 if x64 is
  enabled and else in float32.

  Args:
    p: `[..., V]`, the target's law.
    q: `[..., V]`, the draft law; `[..., K, V]` for "independent" drafts.
    num_drafts: K, at least 1; at most 16 without replacement.
    draw: "iid", O(V log V); "without_replacement" (one after the other), with
      some `50 K` cumulative sums over V for K > 2, see `successive`; "greedy"
      (the K - 1 most likely tokens and one draw from the rest), O(V K);
      "independent" (draft j from `q[..., j, :]`), O(K 2^V) for V up to 16;
      beyond, outside `jit` only, row by row by a search that proves its result
      to 1e-9, O(K V) for each of its steps, whose number grows with K.
    return_set: whether to return a minimising H too.

  Returns:
    `f[...]`, in [0, 1]; for one draft `1 - TV(p, q)`, however it is drawn. With
    `return_set` also `bool[..., V]`, a set H that attains it; it is empty
    where the optimum is 1.

  Raises:
    ValueError: for an unknown draw, shapes that do not fit, numbers that are
      no law, more distinct drafts than q has tokens, or a problem beyond the
      limits above. Inside `jit` values cannot be checked: there a law is
      taken for one, and no more drafts are drawn than q has tokens.
    RuntimeError: if the search for "independent" drafts takes too many steps;
      the message holds the best it has found.

  >>> p, q = [.5, .3, .2], [.2, .3, .5]
  >>> [round(float(optimal_acceptance(p, q, 2, draw)), 4)
  ...  for draw in ("iid", "without_replacement", "greedy")]
  [0.86, 0.9857, 0.9]
  >>> optimal_acceptance(p, q, 2, return_set=True)[1].tolist()
  [False, True, True]
  >>> round(float(optimal_acceptance(p, [q, p], 2, "independent")), 4)
  1.0
  """
  xp, p, q = problems.checked(p, q, num_drafts, draw)
  if draw == "independent" and num_drafts == 1:
    q = q[..., 0, :]
  if draw == "greedy" or num_drafts == 1:
    alpha, chosen = _greedy(xp, p, q, num_drafts)
  elif draw == "independent":
    alpha, chosen = _independent(xp, p, q)
  else:
    alpha, chosen = _sorted_prefixes(xp, p, q, num_drafts, draw)
  return (alpha, chosen) if return_set else alpha


def given_acceptance(p, drafts) -> np.ndarray:
  """The optimum for drafts that were not drawn at random: their mass.

  A law of the drafts that puts everything on one set S leaves no choice: any
  exact rule emits a token of S with probability p(S).

  Args:
    p: `[..., V]`, the target's law.
    drafts: `i[..., K]`, token ids, which may repeat.

  Returns:
    `f64[...]`, in [0, 1].

  Raises:
    ValueError: for a p that is no law, leading axes that differ, or ids that
      are no tokens.

  >>> given_acceptance([.5, .3, .2], [0, 2, 0]).tolist()
  0.7
  """
  _, p, _ = problems.checked(np.asarray(p), np.asarray(p), 1, "iid")
  drafts = np.asarray(drafts)
  if drafts.shape[:-1] != p.shape[:-1] or drafts.size and not (
      0 <= drafts.min() and drafts.max() < p.shape[-1]):
    raise ValueError(
        f"drafts of shape {drafts.shape} from {drafts.min(initial=0)} to"
        f" {drafts.max(initial=0)}, expected token ids below {p.shape[-1]} of"
        f" shape {p.shape[:-1]} + (K,).")
  # Summed up over the sorted ids, each at its first occurrence.
  ids = np.sort(drafts, axis=-1)
  is_first = np.diff(ids, axis=-1, prepend=-1) > 0
  mass = np.take_along_axis(p, ids, -1)
  return np.minimum(1.0, np.where(is_first, mass, 0).sum(-1))


def _sorted_prefixes(xp, p, q, num_drafts, draw):
  ratio = _ratio(xp, p, q)
  order = xp.argsort(ratio, axis=-1)
  p, q = (xp.take_along_axis(law, order, -1) for law in (p, q))
  if draw == "iid":
    inside = xp.cumsum(q, -1) ** num_drafts
  else:
    inside = successive.inside_prefixes(xp, q, num_drafts)
  excess = xp.cumsum(p, -1) - inside
  best = xp.argmin(excess, axis=-1)[..., None]
  excess = xp.take_along_axis(excess, best, -1)
  last = xp.take_along_axis(order, best, -1)
  # Equal ratios stand together in a best set, so its last one tells it.
  chosen = ratio <= xp.take_along_axis(ratio, last, -1)
  # The empty set, too, is a candidate; its value is 0.
  return 1 + xp.minimum(0, excess[..., 0]), chosen & (excess < 0)


def _ratio(xp, p, q):
  """p/q; infinite for the tokens that q never draws, and only for them."""
  largest = float(np.finfo(q.dtype).max)
  with np.errstate(over="ignore"):
    ratio = p / xp.where(q > 0, q, 1)
  return xp.where(q > 0, xp.minimum(ratio, largest), xp.inf)


def _greedy(xp, p, q, num_drafts):
  """`p(top) + sum over the rest of min(p, q')`, q' = q renormalised there."""
  is_top = problems.top_mask(xp, q, num_drafts - 1)
  rest = xp.where(is_top, 0, q)
  mass = rest.sum(-1, keepdims=True)
  rest = rest / xp.where(mass > 0, mass, 1)
  alpha = xp.where(is_top, p, xp.minimum(p, rest)).sum(-1)
  chosen = (is_top | (p < rest)) & (alpha[..., None] < 1)
  return xp.minimum(alpha, 1), chosen


def _independent(xp, p, q):
  if p.shape[-1] <= MAX_SUBSET_TOKENS:
    return _all_subsets(xp, p, q)
  if isinstance(p, jax.core.Tracer) or isinstance(q, jax.core.Tracer):
    raise ValueError(
        f"V={p.shape[-1]}, expected at most {MAX_SUBSET_TOKENS} tokens for"
        " drafts drawn 'independent' inside jit, where all 2^V sets are tried.")
  found = [
      submodular.minimise(np.asarray(p[row], float), np.asarray(q[row], float))
      for row in np.ndindex(p.shape[:-1])]
  least = np.asarray([value for value, _ in found]).reshape(p.shape[:-1])
  chosen = np.asarray([row for _, row in found], bool).reshape(p.shape)
  return xp.asarray(1 + least, p.dtype), xp.asarray(chosen)


def _all_subsets(xp, p, q):
  excess = _subset_sums(xp, p) - xp.prod(_subset_sums(xp, q), axis=-2)
  best = xp.argmin(excess, axis=-1)[..., None]
  tokens = xp.broadcast_to(xp.arange(p.shape[-1]), p.shape)
  # The empty set is the first; where it is the best its value is 0.
  chosen = (best >> tokens) & 1 == 1
  return 1 + xp.take_along_axis(excess, best, -1)[..., 0], chosen


def _subset_sums(xp, law):
  """`[..., 2^V]`: the mass of every set; bit i of its index is token i."""
  sums = xp.zeros(law.shape[:-1] + (1,), law.dtype)
  for token in range(law.shape[-1]):
    sums = xp.concatenate([sums, sums + law[..., token:token + 1]], -1)
  return sums
