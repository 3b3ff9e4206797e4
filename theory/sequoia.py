"""The best static tree when acceptance depends on a child's rank alone.

Sequoia's dynamic program (Chen et al. 2024, arXiv 2402.12374, Sec. 3.1). A
tree of m nodes whose root has b children is a tree whose root has b - 1, and
a b-th child with a tree of its own below it:

  T[l, b, m] = max over y of T[l, b-1, y] + P_b * best[l-1, m - y]

with at most l levels, the root's included, and best = max over b. NumPy,
float64.
"""

from collections.abc import Mapping
from collections.abc import Sequence

import numpy as np

from theory import checks
from theory import trees


def _tables(child_accept, max_nodes, max_levels) -> np.ndarray:
  """`f64[L + 1, B + 1, M + 1]`: T, `-inf` where there is no such tree."""
  child_accept = checks.between("child_accept", child_accept)
  max_nodes = checks.count("max_nodes", max_nodes, 1)
  max_levels = checks.count("max_levels", max_levels, 1)
  if child_accept.ndim != 1 or not child_accept.size or (
      child_accept.sum() > 1 + 1e-6):
    raise ValueError(
        f"child_accept={child_accept.tolist()}, expected [B] of sum at most 1:"
        " one child at most is the accepted one.")
  table = np.full(
      (max_levels + 1, child_accept.size + 1, max_nodes + 1), -np.inf)
  for level in range(1, max_levels + 1):
    table[level, 0, 1] = 1.0
    below = table[level - 1].max(0)
    for rank, accept in enumerate(child_accept, 1):
      table[level, rank] = [
          _join(table[level, rank - 1], below, accept, nodes).max()
          for nodes in range(max_nodes + 1)]
  return table


def _join(elder, below, accept, nodes) -> np.ndarray:
  """`f64[nodes + 1]`: value by the nodes left to the root and its elders."""
  child = below[nodes::-1]
  # 0 * -inf: a child that is never accepted still needs a tree that exists.
  worth = np.where(np.isfinite(child), accept * np.where(
      np.isfinite(child), child, 0), -np.inf)
  return elder[:nodes + 1] + worth


def best_values(child_accept, max_nodes: int, max_levels: int) -> np.ndarray:
  """Expected tokens of the best tree, by exact nodes and most levels.

  Args:
    child_accept: `[B]`, probability that the child of rank b is the accepted
      one (not given that those before it were rejected).
    max_nodes: M, the root included.
    max_levels: L, the root's included.

  Returns:
    `f64[M + 1, L + 1]`, `-inf` where no tree has that many nodes.

  Raises:
    ValueError: for acceptances that are none or sum to more than 1, or a bound
      below 1.

  >>> best_values([.6, .2, .1], 4, 3)[4].round(6)
  array([-inf, -inf, 1.9 , 2.16])
  """
  return _tables(child_accept, max_nodes, max_levels).max(1).T


def best_tree(child_accept, num_nodes: int, max_levels: int) -> list[int]:
  """Parents of a tree that attains `best_values[num_nodes, max_levels]`.

  Nodes in order of depth; the first child of a node has the first rank.

  Raises:
    ValueError: as `best_values`, or if no tree has that many nodes.

  >>> best_tree([.6, .2], 4, 3)
  [-1, 0, 0, 1]
  """
  child_accept = np.asarray(child_accept, np.float64)
  table = _tables(child_accept, num_nodes, max_levels)
  if np.isneginf(table[max_levels, :, num_nodes].max()):
    raise ValueError(
        f"num_nodes={num_nodes}, expected at most what {max_levels} levels of"
        f" {child_accept.size} children per node hold.")
  paths = _paths(table, child_accept, num_nodes, max_levels, ())
  return trees.parents_of([path for path in paths if path])


def _paths(table, child_accept, nodes, level, path) -> list[tuple[int, ...]]:
  """The nodes below and at `path`, each as the ranks that lead to it."""
  found = [path]
  below = table[level - 1].max(0)
  for rank in range(int(table[level, :, nodes].argmax()), 0, -1):
    kept = int(_join(table[level, rank - 1], below, child_accept[rank - 1],
                     nodes).argmax())
    found += _paths(table, child_accept, nodes - kept, level - 1,
                    path + (rank - 1,))
    nodes = kept
  return found


def best_shape(child_accept, draft_cost: float,
               target_costs: Mapping[int, float], levels: Sequence[int]
               ) -> tuple[int, int]:
  """Nodes and levels of the least time per token on given hardware.

  Minimises `((levels - 1) * draft_cost + target_costs[nodes]) / tokens`,
  Sequoia, Sec. 3.3; a tree of l levels takes l - 1 draft forwards.

  Args:
    child_accept: as `best_values`.
    draft_cost: of one draft forward.
    target_costs: of one target forward by number of nodes, same unit.
    levels: the choices.

  Raises:
    ValueError: as `best_values`, or if no choice is a tree.

  >>> best_shape([.6, .2], .1, {1: 1., 2: 1., 4: 1.}, (1, 2, 3, 4))
  (4, 3)
  """
  checks.between("draft_cost", draft_cost, 0.0, np.inf)
  costs = {nodes: float(checks.positive("target_costs", cost))
           for nodes, cost in target_costs.items()}
  values = best_values(child_accept, max(costs), max(levels))
  per_token = {
      (nodes, level): ((level - 1) * draft_cost + cost) / values[nodes, level]
      for nodes, cost in costs.items() for level in levels
      if np.isfinite(values[nodes, level])}
  if not per_token:
    raise ValueError(
        f"nodes {sorted(costs)} and levels {list(levels)}, expected a pair for"
        " which there is a tree.")
  return min(per_token, key=per_token.get)
