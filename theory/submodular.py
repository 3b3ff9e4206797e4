"""The best set for drafts that come from laws of their own.

With Q(H) = prod_j q_j(H) the function f(H) = p(H) - Q(H) is submodular: what a
token adds to Q grows with H. No one order of the tokens holds its minimiser,
but its masses m_j = q_j(H) do: a token x of the least minimiser has

  p(x) < sum_j c_j q_j(x),  c_j = prod over i != j of m_i,

since Q(H) - Q(H without x) is at most the sum, and any other has p(x) at least
that, since Q(H with x) - Q(H) is at least the sum. So if m lies in a box, the
prices c at its lower corner say which tokens are in for sure, those at its
upper corner which may be in, and the masses of the two sets cut the box down.
Boxes are halved until each is empty or bounded: within a box the product of the
masses lies below a plane, and f above a sum that is least token by token.
"""

import numpy as np

# How far below a known set a box may reach and still be dropped.
TOLERANCE = 1e-9
MAX_BOXES = 1 << 17
_CHUNK = 1 << 20  # Entries of a table over boxes and tokens.
_CUTS = 3  # Of a box between two halvings.


def minimise(p: np.ndarray, q: np.ndarray) -> tuple[float, np.ndarray]:
  """The least `p(H) - prod_j q_j(H)` over all sets.

  Costs O(K V) per box, mostly a few hundred of them.

  Args:
    p: `f64[V]`, the target's law.
    q: `f64[K, V]`, the law of each draft.

  Returns:
    The minimum, proven to `TOLERANCE`, and `bool[V]`, a set that attains it.

  Raises:
    RuntimeError: if `MAX_BOXES` do not suffice.

  >>> value, chosen = minimise(
  ...     np.asarray([.6, .2, .1, .1]),
  ...     np.asarray([[.1, .5, .3, .1], [.2, .1, .6, .1]]))
  >>> round(value, 6), chosen.tolist()
  (-0.32, [False, True, True, True])
  """
  best = 0., np.zeros(p.size, bool)
  boxes, count = [(np.zeros((1, len(q))), q.sum(1)[None])], 0
  while boxes:
    lows, highs = boxes.pop()
    count += len(lows)
    if count > MAX_BOXES:
      raise RuntimeError(
          f"V={p.size}, K={len(q)}: {MAX_BOXES} boxes do not prove the least"
          f" p(H) - Q(H), {best[0]} at best, to within {TOLERANCE}.")
    lows, highs, bounds, found = _cut(p, q, lows, highs)
    best = min(best, found, key=lambda pair: pair[0])
    keep = bounds < best[0] - TOLERANCE
    if keep.any():
      boxes += _halves(lows[keep], highs[keep], max(_CHUNK // p.size, 1))
  return best


def _cut(p, q, lows, highs):
  """Boxes cut down, the least f within each, and the best set met."""
  for _ in range(_CUTS):
    inside = p < _prices(lows) @ q
    possible = p < _prices(highs) @ q
    mass = inside @ q.T
    lows = np.maximum(lows, mass)
    highs = np.minimum(highs, possible @ q.T)
  is_empty = (lows > highs + 1e-14).any(1)
  highs = np.maximum(lows, highs)
  sets = np.concatenate([possible, p < _prices((lows + highs) / 2) @ q])
  values = sets @ p - (sets @ q.T).prod(1)
  least = values.argmin()
  bounds = np.full(len(lows), -np.inf)
  for order in (slice(None), slice(None, None, -1)):
    slopes = _slopes(lows[:, order], highs[:, order])[:, order]
    gains = p - slopes @ q
    above = lows.prod(1) - (slopes * lows).sum(1)
    bounds = np.maximum(bounds, np.where(
        inside, gains, np.where(possible, np.minimum(gains, 0), 0)
    ).sum(1) - above)
  bounds[is_empty] = np.inf
  return lows, highs, bounds, (float(values[least]), sets[least])


def _prices(masses):
  """`f[B, K]`, the product of the other masses."""
  ones = np.ones_like(masses[:, :1])
  before = np.cumprod(np.append(ones, masses[:, :-1], 1), 1)
  after = np.cumprod(np.append(ones, masses[:, :0:-1], 1), 1)[:, ::-1]
  return before * after


def _slopes(lows, highs):
  """Of a plane through the lower corner, above the product on the box.

  The product rises by the sum over j of `(m_j - low_j)` times the masses before
  j and the lows behind it.
  """
  ones = np.ones_like(lows[:, :1])
  before = np.cumprod(np.append(ones, highs[:, :-1], 1), 1)
  after = np.cumprod(np.append(ones, lows[:, :0:-1], 1), 1)[:, ::-1]
  return before * after


def _halves(lows, highs, size):
  """The boxes, halved at their widest side, in parts of `size`."""
  rows = np.arange(len(lows))
  side = (highs - lows).argmax(1)
  middle = (lows[rows, side] + highs[rows, side]) / 2
  below, above = highs.copy(), lows.copy()
  below[rows, side] = above[rows, side] = middle
  lows, highs = np.append(lows, above, 0), np.append(below, highs, 0)
  return [(lows[i:i + size], highs[i:i + size])
          for i in range(0, len(lows), size)]
