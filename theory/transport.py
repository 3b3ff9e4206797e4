"""The transport linear program of one position, solved outright.

Sun et al. 2023 (SpecTr, arXiv 2310.15141), Sec. 3: among all couplings of the
drafts with a token of law p, the largest probability that the token is one of
the drafts. Whether it is depends on the set of the drafts only, so tuples are
merged by their set. With W the law of the set S,

  primal  max sum of flow(S, y),       y in S, flow(S, .) <= W(S),
                                       flow(., y) <= p(y), flow >= 0
  dual    min sum p(y) u(y) + sum W(S) v(S),  u(y) + v(S) >= 1 for y in S,
                                       u, v >= 0,

and the flow completes to a coupling by what is left of p and W.
"""

import collections
import dataclasses
import math

import numpy as np
from scipy import optimize
from scipy import sparse

from theory import problems

# Sets of drafts that the program may have: seconds of HiGHS.
MAX_SETS = 1 << 14


@dataclasses.dataclass(frozen=True, eq=False)
class Transport:
  """An optimal coupling and the proof that it is one.

  Attributes:
    value: probability, under `plan`, that the token is among the drafts.
    plan: `f64[M, V]`, joint law of the set of the drafts and the token. Rows
      sum to `weights`, columns to p.
    sets: `bool[M, V]`, the sets of drafts that can occur.
    weights: `f64[M]`, their probabilities.
    dual: `f64[V]`, the price u of every token, in [0, 1]. At the optimum every
      set of the tokens above a level in [0, 1) minimises `p(H) - Q(H)`.
    set_prices: `f64[M]`, the price v of every set, the least that goes with u.
    gap: dual minus primal value; no coupling exceeds `value + gap`, up to the
      rounding of the sums.
  """

  value: float
  plan: np.ndarray
  sets: np.ndarray
  weights: np.ndarray
  dual: np.ndarray
  set_prices: np.ndarray
  gap: float


def optimal_acceptance_lp(p, q, num_drafts: int, draw: str) -> Transport:
  """The optimum of `Pr(the emitted token is among the drafts)`, by HiGHS.

  Args:
    p: `[V]`, the target's law.
    q: `[V]`, the draft law; `[K, V]` for "independent" drafts.
    num_drafts: K, at least 1.
    draw: as for `optimal_acceptance`.

  Returns:
    The value with its plan and its dual; both are made feasible exactly, so
    that `gap` bounds the error whatever the solver's tolerance.

  Raises:
    ValueError: for what `optimal_acceptance` refuses, leading axes, or more
      than `MAX_SETS` sets of drafts.
    RuntimeError: if HiGHS gives up.

  >>> found = optimal_acceptance_lp([.5, .3, .2], [.2, .3, .5], 2, "iid")
  >>> round(found.value, 6), abs(found.gap) < 1e-9, found.dual.round(6).tolist()
  (0.86, True, [0.0, 1.0, 1.0])
  """
  if np.ndim(p) != 1:
    raise ValueError(f"p has shape {np.shape(p)}, expected one law, [V].")
  _, p, q = problems.checked(
      np.asarray(p), np.asarray(q), num_drafts, draw)
  sets, weights = _merged(q, num_drafts, draw)
  flow, dual = _solve(p, sets, weights)
  plan = _complete(p, weights, _fit(p, weights, flow))
  value = float(plan[sets].sum())
  cheapest = np.where(sets, dual, np.inf).min(1)
  set_prices = np.maximum(1 - cheapest, 0)
  return Transport(value, plan, sets, weights, dual, set_prices,
                   float(p @ dual + weights @ set_prices - value))


def draft_sets(q, num_drafts: int, draw: str) -> tuple[np.ndarray, np.ndarray]:
  """The law of the set of the drafts.

  Args:
    q: `[V]`, the draft law; `[K, V]` for "independent" drafts.
    num_drafts: K, at least 1.
    draw: as for `optimal_acceptance`.

  Returns:
    `bool[M, V]`, the sets that can occur, and `f64[M]`, their probabilities.

  Raises:
    ValueError: for what `optimal_acceptance` refuses, or more than `MAX_SETS`
      sets.

  >>> sets, weights = draft_sets([.5, .5], 2, "iid")
  >>> sets.tolist(), weights.tolist()
  ([[True, False], [True, True], [False, True]], [0.25, 0.5, 0.25])
  """
  q = np.asarray(q)
  first = q[0] if draw == "independent" and q.ndim > 1 else q
  return _merged(
      problems.checked(first, q, num_drafts, draw)[2], num_drafts, draw)


def _merged(q, num_drafts, draw):
  _check_size(q, num_drafts, draw)
  if draw == "greedy":
    return _greedy_sets(q, num_drafts)
  laws = q if draw == "independent" else [q] * num_drafts
  law = {0: 1.}
  for q_ in laws:
    law = _drawn(law, q_, draw == "without_replacement")
  sets = [[drawn >> token & 1 for token in range(q.shape[-1])]
          for drawn in law]
  return np.asarray(sets, bool), np.asarray(list(law.values()))


def _drawn(law, q, is_distinct):
  """The law of the set, a bit mask, after one more draft."""
  following = collections.defaultdict(float)
  tokens = np.flatnonzero(q).tolist()
  for drawn, weight in law.items():
    left = [t for t in tokens if not (is_distinct and drawn >> t & 1)]
    mass = math.fsum(q[left]) if is_distinct else 1
    for token in left:
      following[drawn | 1 << token] += weight * float(q[token]) / mass
  return following


def _greedy_sets(q, num_drafts):
  is_top = problems.top_mask(np, q, num_drafts - 1)
  rest = np.flatnonzero((q > 0) & ~is_top)
  sets = is_top | (np.arange(q.size) == rest[:, None])
  return sets, q[rest] / q[rest].sum()


def _check_size(q, num_drafts, draw):
  support = int((q > 0).reshape(-1, q.shape[-1]).any(0).sum())
  count = support
  if draw != "greedy":
    count = sum(math.comb(support, k) for k in range(1, num_drafts + 1))
  if count > MAX_SETS:
    raise ValueError(
        f"num_drafts={num_drafts} drafts from {support} tokens, drawn"
        f" {draw!r}, make up to {count} sets, expected at most {MAX_SETS}."
        " optimal_acceptance has no linear program to solve.")


def _solve(p, sets, weights):
  """Flow `f64[M, V]` and token prices `f64[V]`, up to HiGHS's tolerance."""
  edges = np.nonzero(sets)
  limits = _sums(edges, sets.shape)
  found = _highs(-np.ones(edges[0].size), A_ub=limits,
                 b_ub=np.append(weights, p))
  flow = np.zeros(sets.shape)
  flow[edges] = found.x
  return flow, (-found.ineqlin.marginals[len(sets):]).clip(0, 1)


def best_coupling(reward, rows, columns, floor=None) -> np.ndarray:
  """The coupling of two laws with the largest mean reward.

  Args:
    reward: `[M, V]`.
    rows: `[M]`, the law that its rows sum to.
    columns: `[V]`, the law that its columns sum to.
    floor: another reward `[M, V]` and the least mean it may have, or None.

  Returns:
    `f64[M, V]`, up to HiGHS's tolerance.

  Raises:
    RuntimeError: if there is none.

  >>> best_coupling(np.eye(2), [.5, .5], [.7, .3]).round(6).tolist()
  [[0.5, 0.0], [0.2, 0.3]]
  """
  reward = np.asarray(reward, np.float64)
  edges = np.nonzero(np.ones(reward.shape))
  bounds = {} if floor is None else {
      "A_ub": -np.reshape(floor[0], (1, -1)), "b_ub": [-floor[1]]}
  found = _highs(-reward.reshape(-1), A_eq=_sums(edges, reward.shape),
                 b_eq=np.append(rows, columns), **bounds)
  return found.x.reshape(reward.shape)


def _sums(edges, shape):
  """The matrix from a flow on edges `(row, column)` to its row, column sums."""
  row, column = edges
  flows = np.arange(row.size)
  return sparse.csr_array(
      (np.ones(2 * row.size),
       (np.append(row, shape[0] + column), np.append(flows, flows))),
      shape=(sum(shape), row.size))


def _highs(cost, **limits):
  found = optimize.linprog(
      cost, method="highs", **limits,
      options={"primal_feasibility_tolerance": 1e-10,
               "dual_feasibility_tolerance": 1e-10})
  if found.status != 0:
    raise RuntimeError(f"HiGHS found no optimum: {found.message}")
  return found


def _fit(p, weights, flow):
  """The flow, scaled down where it exceeds a limit by the tolerance."""
  flow = flow.clip(0)
  for limit, axis in ((weights, 1), (p, 0)):
    total = flow.sum(axis, keepdims=True)
    limit = np.expand_dims(limit, axis)
    flow = flow * np.divide(limit, total, out=np.ones_like(total),
                            where=total > limit)
  return flow


def _complete(p, weights, flow):
  """A coupling: what the flow left over of both laws, taken independent."""
  tokens, sets = p - flow.sum(0), weights - flow.sum(1)
  tokens, sets = tokens.clip(0), sets.clip(0)
  total = max(tokens.sum(), sets.sum())
  return flow + (np.outer(sets, tokens) / total if total > 0 else 0)
