"""Rules that follow a transport plan between drafts and emitted token.

Builders and their results are as in `oracles.sequential`. Where a rule has a
draft law of its own it is that of `oracles.drafting`.
"""

import itertools

import numpy as np
import scipy.optimize

from theory.oracles import chance as chance_lib
from theory.oracles import drafting

Tuples = dict[tuple[int, ...], float]
Sets = dict[frozenset[int], float]


def spechub(p, q, num_drafts=2):
  """SpecHub's four allocations (Sun et al. 2024), for `drafting.hub_pair`.

  Raises:
    ValueError: for any number of drafts but two.

  >>> p, q = np.asarray([.5, .3, .2]), np.asarray([.2, .3, .5])
  >>> law, kept = chance_lib.output(
  ...     spechub(p, q),
  ...     drafting.tuples(drafting.hub_pair, q, 2), 3)
  >>> law.round(6).tolist(), round(kept, 6)
  ([0.5, 0.3, 0.2], 0.9)
  """
  if num_drafts != 2:
    raise ValueError(f"num_drafts={num_drafts}, expected two.")
  hub = int(np.argmax(q))
  others = np.arange(len(q)) != hub
  last = np.where(others, q, 0.0)  # Mass of the pair (i, hub).
  first = q[hub] * drafting.without(q, (hub,))  # Mass of the pair (hub, i).
  wanted = np.maximum(p - last, 0)
  left_last = np.maximum(last - p, 0)
  left_first = np.maximum(first - wanted, 0) * others
  rest = np.maximum(wanted - first, 0) * others
  hub_first = left_first.sum()
  hub_wanted = max(p[hub] - hub_first, 0.0)
  rest[hub] = max(hub_wanted - left_last.sum(), 0.0)
  rest = chance_lib.normalise(rest, p)

  def verify(chance, drafts):
    token = drafts[0] if drafts[1] == hub else drafts[1]
    if drafts[1] == hub:
      steps = ((token, p[token], last[token]),
               (hub, hub_wanted, left_last.sum()))
    else:
      steps = ((token, wanted[token], first[token]),
               (hub, p[hub], hub_first))
    for candidate, target, available in steps:
      if chance.flip(chance_lib.ratio(target, available)):
        return candidate
    return chance.draw(rest)

  return verify


def greedy_multi_draft(p, q, num_drafts):
  """Hu et al. 2025: one rejection against the law of the last draft.

  For `drafting.greedy`; the residual may well be one of the top tokens, which
  then counts as an accepted draft.

  >>> p, q = np.asarray([.5, .3, .2]), np.asarray([.2, .3, .5])
  >>> law, kept = chance_lib.output(
  ...     greedy_multi_draft(p, q, 2),
  ...     drafting.tuples(drafting.greedy, q, 2), 3)
  >>> law.round(6).tolist(), round(kept, 6)
  ([0.5, 0.3, 0.2], 0.9)
  """
  proposal = drafting.without(q, drafting.top_tokens(q, num_drafts - 1))

  def verify(chance, drafts):
    token = drafts[-1]
    if chance.flip(chance_lib.ratio(p[token], proposal[token])):
      return token
    return chance.draw(chance_lib.residual(p, proposal))

  return verify


def set_masses(draft_law: Tuples) -> Sets:
  """Probability of each set of distinct drafted tokens.

  >>> set_masses({(0, 1): .25, (1, 0): .75})
  {frozenset({0, 1}): 1.0}
  """
  masses: Sets = {}
  for drafts, mass in draft_law.items():
    masses[frozenset(drafts)] = masses.get(frozenset(drafts), 0.0) + mass
  return masses


def best_selection(p, draft_law: Tuples) -> dict[frozenset[int], np.ndarray]:
  """Weights that select one drafted token best (Khisti et al. 2025).

  The linear program over the mass that each set of drafts sends to each of its
  tokens: the tokens' totals, capped by p, are to be as large as possible.

  Returns:
    For each set the law `[V]` of the selected token.

  >>> best_selection(np.asarray([.5, .5]), {(0, 1): 1.})[
  ...     frozenset((0, 1))].round(6).tolist()
  [0.5, 0.5]
  """
  masses = set_masses(draft_law)
  cells = [(s, token) for s in masses for token in sorted(s)]
  size, sets = len(p), list(masses)
  per_set = np.array([[float(s == row) for s, _ in cells] for row in sets])
  per_token = np.array(
      [[float(token == row) for _, token in cells] for row in range(size)])
  found = scipy.optimize.linprog(
      -np.r_[np.zeros(len(cells)), np.ones(size)],
      A_ub=np.c_[-per_token, np.eye(size)], b_ub=np.zeros(size),
      A_eq=np.c_[per_set, np.zeros((len(sets), size))],
      b_eq=[masses[s] for s in sets],
      bounds=[(0, None)] * len(cells) + [(0, mass) for mass in p])
  if not found.success:
    raise ValueError(f"no selection for p={p}: {found.message}")
  weights = {s: np.zeros(size) for s in sets}
  for (s, token), mass in zip(cells, found.x):
    weights[s][token] = max(mass, 0.0)
  return {s: mass / mass.sum() for s, mass in weights.items()}


def two_step(p, draft_law: Tuples, selection):
  """Select a draft, then speculate with it (Khisti et al. 2025).

  Exact whatever the selection, since step two is shown the true law of the
  selected token.

  >>> verify = two_step(np.asarray([.5, .5]), {(0,): 1.},
  ...                   {frozenset((0,)): np.asarray([1., 0.])})
  >>> chance_lib.law(lambda chance: verify(chance, (0,)), 2).tolist()
  [0.5, 0.5]
  """
  induced = sum(mass * selection[frozenset(drafts)]
                for drafts, mass in draft_law.items())

  def verify(chance, drafts):
    token = chance.draw(selection[frozenset(drafts)])
    if chance.flip(chance_lib.ratio(p[token], induced[token])):
      return token
    return chance.draw(chance_lib.residual(p, induced))

  return verify


def canonical(p, q, num_drafts, draw=drafting.iid):
  """The two steps with the best selection: an optimal rule for any draws.

  >>> p, q = np.asarray([.5, .3, .2]), np.asarray([.2, .3, .5])
  >>> law, kept = chance_lib.output(
  ...     canonical(p, q, 2),
  ...     drafting.tuples(drafting.iid, q, 2), 3)
  >>> law.round(6).tolist(), round(kept, 6)
  ([0.5, 0.3, 0.2], 0.86)
  """
  draft_law = drafting.tuples(draw, q, num_drafts)
  return two_step(p, draft_law, best_selection(p, draft_law))


def subset_optimum(p, masses: Sets) -> tuple[float, frozenset[int]]:
  """`1 + min_H p(H) - Pr(drafts in H)` by all sets H (Hu et al., Thm. 3).

  >>> p, q = np.asarray([.5, .3, .2]), np.asarray([.2, .3, .5])
  >>> masses = set_masses(drafting.tuples(drafting.iid, q, 2))
  >>> value, best = subset_optimum(p, masses)
  >>> round(value, 6), sorted(best)
  (0.86, [1, 2])
  """
  values = {h: _gain(p, masses, h) for h in _supersets(frozenset(), len(p))}
  best = min(values, key=values.get)
  return 1 + values[best], best


def outer_sums(p, masses: Sets, inner: frozenset[int], order) -> np.ndarray:
  """What tokens outside H* emit (Global Resolution, polymatroid greedy).

  Args:
    p: `[V]`.
    masses: of the sets of drafts.
    inner: H*.
    order: of all tokens; which vertex of the polytope is taken depends on it.

  Returns:
    `f64[V]`, 0 on H*.

  >>> p, q = np.asarray([.5, .3, .2]), np.asarray([.2, .3, .5])
  >>> masses = set_masses(drafting.tuples(drafting.iid, q, 2))
  >>> outer_sums(p, masses, frozenset((1, 2)), (2, 1, 0)).round(6).tolist()
  [0.36, 0.0, 0.0]
  """
  least = lambda forced: min(
      _gain(p, masses, h) for h in _supersets(forced, len(p)))
  sums = np.zeros(len(p))
  outside = [token for token in order if token not in inner]
  for i, token in enumerate(outside):
    sums[token] = (p[token] + least(inner | set(outside[i + 1:]))
                   - least(inner | set(outside[i:])))
  return np.maximum(sums, 0)


def _gain(p, masses, h):
  inside = sum(mass for s, mass in masses.items() if s <= h)
  return float(p[sorted(h)].sum() - inside)


def _supersets(forced, size):
  free = [token for token in range(size) if token not in forced]
  for count in range(len(free) + 1):
    for extra in itertools.combinations(free, count):
      yield frozenset(forced | set(extra))
