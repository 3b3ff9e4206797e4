"""Sequoia: the best static tree when acceptance depends on the rank alone.

Dynamic program over sibling lists (Chen et al. 2024, arXiv 2402.12374, Sec.
3.1): the best m nodes at and below the siblings from rank b on, with at most l
levels, are a first sibling with k nodes and the best m - k of the others,

  best[l, b, m] = max over k of a_b (1 + best[l-1, 0, k-1]) + best[l, b+1, m-k].
"""

from collections.abc import Sequence
import functools
import math
import numbers

import numpy as np

from spec_jax.core import tree as tree_lib
from spec_jax.trees import shapes

# Assumed where nothing was measured: a round guess, of no particular pair.
# `python -m experiments.calibrate` measures the acceptance by rank of a pair.
ACCEPTANCE = (0.700, 0.110, 0.044, 0.024, 0.015, 0.010, 0.008, 0.006)


@functools.lru_cache(maxsize=8)
def _tables(accepts: tuple[float, ...], budget: int, depth: int
            ) -> tuple[np.ndarray, np.ndarray]:
  """`best` above, `f64[depth + 1, R + 1, budget]`, and the k that attains it.

  A list that has no sibling left holds 0 nodes; -inf where m are too many.
  """
  num_ranks = len(accepts)
  best = np.full((depth + 1, num_ranks + 1, budget), -np.inf)
  first = np.zeros(best.shape, np.int64)
  best[:, :, 0] = 0
  for level in range(1, depth + 1):
    below = 1 + best[level - 1, 0]  # By the nodes below the first sibling.
    for rank in reversed(range(num_ranks)):
      # -inf times an acceptance of 0 must stay -inf.
      own = np.where(np.isfinite(below), accepts[rank] * np.maximum(below, 0),
                     -np.inf)
      for nodes in range(1, budget):
        worth = own[:nodes] + best[level, rank + 1, nodes - 1::-1]
        first[level, rank, nodes] = 1 + int(worth.argmax())
        best[level, rank, nodes] = worth.max()
  return best, first


def _checked(acceptance, budget, depth) -> tuple[float, ...]:
  accepts = tuple(float(a) for a in acceptance)
  # Written so that NaN, which compares with nothing, is refused too.
  if not accepts or not (min(accepts) >= 0 and sum(accepts) <= 1 + 1e-6):
    raise ValueError(
        f"acceptance={accepts}, expected numbers from 0 on of sum at most 1:"
        " one child at most is the accepted one.")
  for name, value, least in (("budget", budget, 2), ("depth", depth, 1)):
    if value < least:
      raise ValueError(f"{name}={value}, expected at least {least}.")
    tree_lib.check_size(f"{name}={value}", value)
  return accepts


def best_tokens(acceptance: Sequence[float], budget: int, depth: int
                ) -> np.ndarray:
  """Expected tokens per round of the best trees.

  Args:
    acceptance: by rank, the probability that this child is the accepted one.
    budget: N, most nodes, the root included.
    depth: D, most levels below the root.

  Returns:
    `f64[D + 1, N + 1]`, by levels and nodes; -inf where no tree has so many.

  Raises:
    ValueError: for acceptances that are none, or a bound without a tree.
  """
  accepts = _checked(acceptance, budget, depth)
  best, _ = _tables(accepts, budget, depth)
  return np.pad(1 + best[:, 0], ((0, 0), (1, 0)), constant_values=-np.inf)


def best_shape(acceptance: Sequence[float], budget: int, depth: int
               ) -> shapes.Shape:
  """The shape of a tree that attains `best_tokens`, of `budget` nodes or, if
  no tree has so many, of the most there can be.

  Raises:
    ValueError: see `best_tokens`.
  """
  accepts = _checked(acceptance, budget, depth)
  best, first = _tables(accepts, budget, depth)
  nodes = int(np.flatnonzero(np.isfinite(best[depth, 0])).max())
  return shapes.shape_of(_paths(first, depth, nodes, ()))


def _paths(first, level, nodes, parent):
  """The nodes below `parent`, as the ranks that lead to them."""
  found, rank = [], 0
  while nodes:
    kept = int(first[level, rank, nodes])
    path = parent + (rank,)
    found += [path, *_paths(first, level - 1, kept - 1, path)]
    nodes, rank = nodes - kept, rank + 1
  return found


def best_size(acceptance: Sequence[float], depth: int, draft_cost: float,
              target_costs: Sequence[tuple[int, float]]) -> tuple[int, int]:
  """Nodes and levels of the least time per token on given hardware.

  Minimises `(levels * draft_cost + target_cost(nodes)) / tokens` (Sec. 3.3).

  Args:
    acceptance: see `best_tokens`.
    depth: most levels.
    draft_cost: seconds of a draft forward, of which a level takes one.
    target_costs: pairs of nodes, the root included, and seconds of a target
      forward over so many; only these sizes are considered. Any other unit
      than seconds does as well, if it is that of both costs.

  Raises:
    ValueError: for costs that are none, or sizes without a tree.
  """
  costs = _checked_costs(draft_cost, target_costs)
  tokens = best_tokens(acceptance, max(costs), depth)
  per_token = {
      (nodes, levels): (levels * draft_cost + cost) / tokens[levels, nodes]
      for nodes, cost in costs.items() if nodes > 1
      for levels in range(1, depth + 1) if np.isfinite(tokens[levels, nodes])}
  if not per_token:
    raise ValueError(
        f"target_costs={tuple(target_costs)}, expected a size from 2 on that a"
        f" tree of at most {depth} levels can have.")
  return min(per_token, key=per_token.get)


def _checked_costs(draft_cost, target_costs) -> dict[int, float]:
  if not target_costs or not 0 <= draft_cost < math.inf:
    raise ValueError(
        f"draft_cost={draft_cost} and target_costs={tuple(target_costs)},"
        " expected a time from 0 on and those of at least one size.")
  for pair in target_costs:
    if not _is_cost(pair):
      raise ValueError(
          f"target_costs={tuple(target_costs)}: {pair!r} is not a number of"
          " nodes from 1 on and the seconds above 0 that they take, expected"
          " pairs such as (8, 0.012).")
  return {int(nodes): float(cost) for nodes, cost in target_costs}


def _is_cost(pair) -> bool:
  if not isinstance(pair, Sequence) or len(pair) != 2:
    return False
  nodes, cost = pair
  return (isinstance(nodes, numbers.Integral) and nodes >= 1
          and isinstance(cost, numbers.Real) and 0 < cost < math.inf)
