"""The best set for drafts that come from laws of their own.

With Q(H) = prod_j q_j(H) the function f(H) = p(H) - Q(H) is submodular: what a
token adds to Q grows with H. No one order of the tokens holds its minimiser,
but (Edmonds 1970; Fujishige 1980)

  min over H of f(H) = max over x in the base polytope of  sum_i min(x_i, 0),

so that any set and any x enclose the optimum. The nearest point of the
polytope to 0 attains it. Wolfe's algorithm (1976) finds that point from
vertices, one sort of the tokens each; mostly the enclosure closes long before.
"""

import numpy as np

# The enclosure at which to stop, and at most to return.
_CLOSED = 1e-10
TOLERANCE = 1e-9
MAX_VERTICES = 300
_ROUNDING = 1e-14
# Of the squared distance to 0: no vertex is nearer than the point itself.
_STALLED = 1e-18


def minimise(p: np.ndarray, q: np.ndarray) -> tuple[float, np.ndarray]:
  """The least `p(H) - prod_j q_j(H)` over all sets.

  Costs O(V log V + K V) per vertex, a handful to some hundred of them.

  Args:
    p: `f64[V]`, the target's law.
    q: `f64[K, V]`, the law of each draft.

  Returns:
    The minimum, proven to `TOLERANCE`, and `bool[V]`, a set that attains it.

  Raises:
    RuntimeError: if `MAX_VERTICES` do not close the enclosure.

  >>> value, chosen = minimise(
  ...     np.asarray([.6, .2, .1, .1]),
  ...     np.asarray([[.1, .5, .3, .1], [.2, .1, .6, .1]]))
  >>> round(value, 6), chosen.tolist()
  (-0.32, [False, True, True, True])
  """
  vertex, _, _ = _vertex(p, q, p / np.maximum(q.sum(0), 1e-300))
  corners, weights = vertex[None], np.ones(1)
  least, chosen, bound = 0., np.zeros(p.size, bool), -np.inf
  for _ in range(MAX_VERTICES):
    point = weights @ corners
    vertex, value, prefix = _vertex(p, q, point)
    if value < least:
      least, chosen = value, prefix
    bound = max(bound, np.minimum(point, 0).sum())
    if least - bound <= _CLOSED or point @ (point - vertex) <= _STALLED:
      break
    corners, weights = _nearest(
        np.concatenate([corners, vertex[None]]), np.append(weights, 0))
  if least - bound > TOLERANCE:
    raise RuntimeError(
        f"V={p.size}, K={len(q)}: {MAX_VERTICES} vertices enclose the least"
        f" p(H) - Q(H) between {bound} and {least}, expected to within"
        f" {TOLERANCE}.")
  return least, chosen


def _vertex(p, q, point):
  """The vertex that is least along `point`; the best prefix of its order."""
  order = np.argsort(point, kind="stable")
  values = np.cumsum(p[order]) - np.cumsum(q[:, order], 1).prod(0)
  vertex, prefix = np.empty_like(p), np.zeros(p.size, bool)
  vertex[order] = np.diff(values, prepend=0)
  best = values.argmin()
  prefix[order[:best + 1]] = True
  return vertex, float(values[best]), prefix


def _nearest(corners, weights):
  """The corners around the point of their hull that is nearest to 0.

  Args:
    corners: `f64[S, V]`, the last one new.
    weights: `f64[S]` of a point in the hull, 0 for the new corner.

  Returns:
    The corners that the nearest point takes, and its weights.
  """
  while True:
    products = corners @ corners.T
    scale = max(np.trace(products) / len(products), 1e-300)
    # In the plane of the corners, not yet in their hull.
    goal = np.linalg.solve(
        products / scale + 1 + _ROUNDING * np.eye(len(products)),
        np.ones(len(products)))
    goal = goal / goal.sum()
    if goal.min() >= -_ROUNDING:
      goal = goal.clip(0)
      return corners[goal > 0], goal[goal > 0] / goal.sum()
    steps = np.divide(weights, weights - goal, where=goal < 0,
                      out=np.full_like(goal, np.inf))
    first = steps.argmin()
    weights = (1 - steps[first]) * weights + steps[first] * goal
    keep = weights > _ROUNDING
    keep[first] = False
    corners, weights = corners[keep], weights[keep] / weights[keep].sum()
