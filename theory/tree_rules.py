"""How deep the drafts of a tree are kept, by rule, for Markov laws.

Every inner node of depth d has `branching[d]` children, drawn from the draft's
law independently or without replacement, and all expectations over draws and
coins are exact. A rule that works node by node is a function from `(p, q,
num_children, with_replacement)` to the law of the accepted child's token,
`f64[V]`, of sum at most 1. NumPy, float64.
"""

from collections.abc import Callable
from collections.abc import Sequence

import numpy as np

from theory import chains
from theory import checks

_VANISHED = 1e-12

NodeRule = Callable[[np.ndarray, np.ndarray, int, bool], np.ndarray]


def recursive_rejection(p, q, num_children: int, with_replacement: bool
                        ) -> np.ndarray:
  """Children tried in draw order against what is left of the target.

  SpecInfer (Miao et al. 2024, arXiv 2305.09781) with replacement, RSD (Jeon et
  al. 2024, arXiv 2402.14160) without.

  >>> p, q = np.asarray([.5, .3, .2]), np.asarray([.2, .3, .5])
  >>> recursive_rejection(p, q, 2, False).round(6)
  array([0.32, 0.3 , 0.2 ])
  """
  accepted = np.minimum(p, q)
  residual = np.maximum(p - q, 0)
  if num_children == 1 or residual.sum() < _VANISHED:
    return accepted
  residual = residual / residual.sum()
  for token in np.flatnonzero(q > p):
    rest = q if with_replacement else without(q, token)
    if rest is not None:
      accepted = accepted + (q - p)[token] * recursive_rejection(
          residual, rest, num_children - 1, with_replacement)
  return accepted


def naive_sampling(p, q, num_children: int, with_replacement: bool
                   ) -> np.ndarray:
  """The target's own sample, accepted where it is among the children.

  >>> p, q = np.asarray([.5, .3, .2]), np.asarray([.2, .3, .5])
  >>> naive_sampling(p, q, 2, True).round(6).tolist()
  [0.18, 0.153, 0.15]
  """
  return p * _is_drawn(q, num_children, with_replacement)


def _is_drawn(q, count, with_replacement):
  """Probability of each token to be among the draws, `f64[V]`."""
  if with_replacement:
    return 1 - (1 - q) ** count
  drawn = q.copy()
  for token in np.flatnonzero(q) if count > 1 else ():
    rest = without(q, token)
    if rest is not None:
      drawn += q[token] * _is_drawn(rest, count - 1, False)
  return drawn


def without(q, token: int) -> np.ndarray | None:
  """The law `[V]` of what is drawn after a token, which is not drawn again.

  Returns:
    `f64[V]`, or None if there is nothing left.

  >>> without(np.asarray([.5, .25, .25]), 0)
  array([0. , 0.5, 0.5])
  """
  rest = q.copy()
  rest[token] = 0
  return rest / rest.sum() if rest.sum() > _VANISHED else None


def _checked(branching):
  return tuple(checks.count("branching", k, 1) for k in branching)


def top_down(markov: chains.Markov, branching: Sequence[int],
             rule: NodeRule = recursive_rejection,
             with_replacement: bool = False) -> np.ndarray:
  """Law of the depth that a rule reaches node by node, `f64[D + 1]`.

  The product form: the accepted child's token at depth d is a row vector, each
  depth a `V x V` matrix of the rule's accepted laws, because a node's children
  are drawn independently of everything but its own token.

  Raises:
    ValueError: for a node without children.

  >>> rows = np.full((2, 2), .5)
  >>> markov = chains.Markov(rows[0], rows, rows[0], rows)
  >>> top_down(markov, (1, 2), naive_sampling, True)
  array([0.5  , 0.125, 0.375])
  """
  survival, alive = [1.0], None
  for num_children in _checked(branching):
    accept = lambda token, k=num_children: rule(
        markov.p(token), markov.q(token), k, with_replacement)
    if alive is None:
      alive = accept(None)
    else:
      alive = alive @ np.stack([
          accept(token) for token in range(markov.vocab_size)])
    survival.append(alive.sum())
  return -np.diff(np.append(survival, 0.0))


def traversal(markov: chains.Markov, branching: Sequence[int],
              with_replacement: bool = False) -> np.ndarray:
  """Law of the depth that traversal verification reaches, `f64[D + 1]`.

  Leaf to root: a node is tested after all its children were rejected, with the
  acceptance that is left to it. Weng et al. 2025 (arXiv 2505.12398).

  Raises:
    ValueError: for a node without children.

  >>> rows = [[1/3, 2/3]] * 2, [[2/3, 1/3]] * 2
  >>> markov = chains.Markov(rows[0][0], rows[0], rows[1][0], rows[1])
  >>> traversal(markov, (1, 1)).round(6)
  array([0.333333, 0.111111, 0.555556])
  """
  visit = _Traversal(markov, _checked(branching), with_replacement)
  return visit.node(None, 0, 1.0)


class _Traversal:
  """The recursion over nodes and siblings, averaged over the draws."""

  def __init__(self, markov, branching, with_replacement):
    self._markov, self._branching = markov, branching
    self._with_replacement = with_replacement

  def node(self, token, depth, accept):
    """`f64[D + 1]`: mass accepted at each depth in the subtree of a node."""
    p, q = self._markov.p(token), self._markov.q(token)
    count = self._branching[depth] if depth < len(self._branching) else 0
    return self._siblings(p, q, accept, count, depth)

  def _siblings(self, p, q, accept, count, depth):
    """The same with `count` children left, none of the earlier accepted."""
    accepted = np.zeros(len(self._branching) + 1)
    if not count or q is None:
      accepted[depth] = accept
      return accepted
    residual = np.maximum(accept * p - q, 0)
    gain = residual.sum()
    loss = np.maximum(q - accept * p, 0).sum()
    left = gain / loss if loss > _VANISHED else 1.0
    next_p = residual / gain if gain > _VANISHED else p
    for token in np.flatnonzero(q):
      ratio = accept * p[token] / q[token]
      child = self.node(token, depth + 1, min(1.0, ratio))
      next_q = q if self._with_replacement else without(q, token)
      others = self._siblings(next_p, next_q, left, count - 1, depth)
      accepted += q[token] * (child + (1 - child.sum()) * others)
    return accepted
