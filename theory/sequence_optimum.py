"""The most that a tree of drafts can yield in one round, by linear programs.

Three optima over rules that are exact for the target, each at least the one
before, in expected depth kept:

  node by node, careless  each node accepts as often as it can, and of the
                          plans that do so takes the one of the worst futures
  node by node            it takes the one of the best futures
  whole tree              an optimal transport between trees and whole texts

The second is also the best of all rules that decide node by node: what a plan
can accept of each token is a polymatroid (a transport into the drawn sets), so
that any plan of the largest sum of positive weights `1 + future` accepts as
often as possible. The third sees all drafts before it decides anything.

SpecTr (Sun et al. 2023, arXiv 2310.15141) states the transport for one
position; for the whole tree the reward is the length of the text's longest
prefix in it. Laws are first-order Markov and the trees those of `tree_rules`.
NumPy, float64, HiGHS.
"""

from collections.abc import Iterator
from collections.abc import Sequence

import numpy as np

from theory import chains
from theory import checks
from theory import transport
from theory import tree_rules

_MAX_VARIABLES = 1 << 16
# What HiGHS leaves open in a constraint.
_SLACK = 1e-9


def _draws(q, count, with_replacement
           ) -> Iterator[tuple[tuple[int, ...], float]]:
  """Successive draws from a law and their probability."""
  if not count:
    yield (), 1.0
    return
  for token in () if q is None else np.flatnonzero(q).tolist():
    rest = q if with_replacement else tree_rules.without(q, token)
    for others, weight in _draws(rest, count - 1, with_replacement):
      yield (token, *others), float(q[token]) * weight


def _sets_of_paths(markov, branching, with_replacement, token=None
                   ) -> dict[frozenset[tuple[int, ...]], float]:
  """Law of the set of paths below a node."""
  if not branching:
    return {frozenset(): 1.0}
  below = {t: _sets_of_paths(markov, branching[1:], with_replacement, t)
           for t in range(markov.vocab_size)}
  law = {}
  for tokens, weight in _draws(
      markov.q(token), branching[0], with_replacement):
    partial = {frozenset(): weight}
    for child in tokens:
      grown = {}
      for paths, mass in partial.items():
        for tail, probability in below[child].items():
          union = paths | {(child,)} | {(child, *path) for path in tail}
          grown[union] = grown.get(union, 0.0) + mass * probability
      partial = grown
    for paths, mass in partial.items():
      law[paths] = law.get(paths, 0.0) + mass
  return law


def whole_tree(markov: chains.Markov, branching: Sequence[int],
               with_replacement: bool = False) -> float:
  """Expected depth kept by the best coupling of draft trees and texts.

  Args:
    markov: target and draft.
    branching: children per node, by depth.
    with_replacement: how siblings are drawn.

  Raises:
    ValueError: for a node without children, more children than tokens with
      mass, or too many trees and texts to enumerate.

  >>> rows = [[1/3, 2/3]] * 2, [[2/3, 1/3]] * 2
  >>> markov = chains.Markov(rows[0][0], rows[0], rows[1][0], rows[1])
  >>> round(whole_tree(markov, (1, 1)), 6)
  1.333333
  """
  branching = tuple(checks.count("branching", k, 1) for k in branching)
  trees = _sets_of_paths(markov, branching, with_replacement)
  law = checks.law("the law of the drawn trees", list(trees.values()))
  joint = markov.p_first
  for _ in branching[1:]:
    joint = joint[..., None] * markov.p_next
  if len(trees) * joint.size > _MAX_VARIABLES:
    raise ValueError(
        f"{len(trees)} draft trees and {joint.size} texts, expected at most"
        f" {_MAX_VARIABLES} pairs.")
  texts = list(np.ndindex(joint.shape))
  reward = np.asarray([[
      sum(text[:depth] in paths for depth in range(1, len(text) + 1))
      for text in texts] for paths in trees], np.float64)
  coupling = transport.best_coupling(
      reward, law / law.sum(), joint.ravel() / joint.sum())
  return float((coupling * reward).sum())


def node_by_node(markov: chains.Markov, branching: Sequence[int],
                 with_replacement: bool = False,
                 is_careless: bool = False) -> float:
  """Expected depth kept if every node accepts as often as it can.

  From the last depth back; the choice of a node sees its own children only,
  and of a token drawn twice one child is entered.

  Args:
    markov: target and draft.
    branching: children per node, by depth.
    with_replacement: how siblings are drawn.
    is_careless: of a node's optimal plans, the worst for its future.

  Raises:
    ValueError: as `whole_tree`.

  >>> rows = [[1/3, 2/3]] * 2, [[2/3, 1/3]] * 2
  >>> markov = chains.Markov(rows[0][0], rows[0], rows[1][0], rows[1])
  >>> round(node_by_node(markov, (1, 1)), 6)
  1.111111
  """
  branching = [checks.count("branching", k, 1) for k in branching]
  future = np.zeros(markov.vocab_size)
  for depth in range(len(branching) - 1, -1, -1):
    tokens = range(markov.vocab_size) if depth else (None,)
    draws = lambda token, k=branching[depth]: list(
        _draws(markov.q(token), k, with_replacement))
    accepted = np.stack([
        accepted_law(markov.p(token), draws(token), future, is_careless)
        for token in tokens])
    future = accepted @ (1 + future)
  return float(future[0]) if branching else 0.0


def accepted_law(p, draws: Sequence[tuple[tuple[int, ...], float]], future,
                 is_careless: bool = False) -> np.ndarray:
  """What one node's best plan accepts of each token, `f64[V]`.

  Args:
    p: `[V]`, the target's law there.
    draws: the tuples of children that may be drawn, with their probability.
    future: `[V]`, expected depth kept below an accepted token.
    is_careless: see `node_by_node`.

  Raises:
    ValueError: if either is no law.

  >>> draws = [((0,), .25), ((1,), .25), ((0, 1), .5)]
  >>> accepted_law([.5, .5], draws, np.zeros(2)).round(6)
  array([0.5, 0.5])
  """
  p = checks.law("p", p, 1)
  law = checks.law("the law of the drawn children", [w for _, w in draws])
  law, p = law / law.sum(), p / p.sum()
  accept = np.asarray([np.isin(np.arange(p.size), drawn)
                       for drawn, _ in draws], np.float64)
  if is_careless:
    most = float((transport.best_coupling(accept, law, p) * accept).sum())
    plan = transport.best_coupling(
        -accept * future, law, p, (accept, most - _SLACK))
  else:
    plan = transport.best_coupling(accept * (1 + future), law, p)
  return (plan * accept).sum(0)
