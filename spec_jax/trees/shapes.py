"""Static tree shapes: published ones as data, and the search that makes them.

A shape says, level by level, how many children each node has; the nodes of a
level stand in the order of their parents, siblings in the order of their rank.
It is what `drafters.draft_model.DraftModel` takes as `branching`.
"""

from collections.abc import Iterable
from collections.abc import Mapping
import heapq
from types import MappingProxyType

import numpy as np

from spec_jax.core import tree as tree_lib

Shape = tuple[tuple[int, ...], ...]


def _padded(*levels: tuple[int, ...]) -> Shape:
  """Fills every level with zeros to the number of its nodes."""
  shape, width = [], 1
  for level in levels:
    shape.append(level + (0,) * (width - len(level)))
    width = sum(level)
  return tuple(shape)


# Published shapes by name. `mc_sim_7b_63` and `vicuna_7b_stage2` are Medusa's
# (Cai et al. 2024, arXiv 2401.10774), `eagle` that of EAGLE-1 (Li et al. 2024,
# arXiv 2401.15077).
PUBLISHED: Mapping[str, Shape] = MappingProxyType({
    "mc_sim_7b_63": _padded(
        (10,), (10, 7, 3, 2, 1, 1, 1, 1, 1, 1),
        (10, 3, 2, 1, 1, 1, 1, 1, 0, 0, 2, 0, 0, 0, 0, 0, 0, 1), (2,)),
    "vicuna_7b_stage2": _padded(
        (10,), (10, 5, 2, 2, 1, 1, 1, 1),
        (9, 4, 2, 1, 1, 1, 0, 0, 0, 0, 3, 1, 0, 0, 0, 1),
        (4, 1, 1, 0, 0, 0, 0, 0, 0, 1)),
    "eagle": _padded((4,), (3, 2, 2, 1), (3, 2, 2, 1), (3,), (2,)),
})


def within(branching: Shape, num_levels: int) -> Shape:
  """A shape for `num_levels` heads: of a published one no more than these.

  One that somebody chose stays as it is, too deep or not.
  """
  if branching in PUBLISHED.values():
    return branching[:num_levels]
  return branching


def shape_of(paths: Iterable[tuple[int, ...]]) -> Shape:
  """The shape of nodes given as the ranks that lead to them.

  Raises:
    ValueError: if a parent or an elder sibling of a path is missing.
  """
  nodes = {(), *map(tuple, paths)}
  for path in sorted(nodes - {()}):
    elder = path[:-1] + (path[-1] - 1,) if path[-1] else path[:-1]
    if elder not in nodes:
      raise ValueError(f"path {path} is in the tree, expected {elder} too.")
  shape, level = [], [()]
  while True:
    counts = tuple(
        next(n for n in range(len(nodes)) if path + (n,) not in nodes)
        for path in level)
    if not any(counts):
      return tuple(shape)
    shape.append(counts)
    level = [path + (rank,) for path, count in zip(level, counts)
             for rank in range(count)]


def paths_of(shape: Shape) -> list[tuple[int, ...]]:
  """The ranks that lead to each node but the root, in order of the nodes."""
  found, level = [], [()]
  for counts in tree_lib.child_counts(shape):
    level = [path + (rank,) for path, count in zip(level, counts)
             for rank in range(count)]
    found += level
  return found


def expected_tokens(shape: Shape, accepts) -> float:
  """Expected tokens per round if acceptance depends on depth and rank alone.

  Args:
    shape: of the tree.
    accepts: `[R]` or `[D, R]`, probability that the child of that rank is the
      accepted one.
  """
  accepts = _by_depth(accepts, len(shape))
  weight = {(): 1.0}
  for path in paths_of(shape):
    weight[path] = weight[path[:-1]] * accepts[len(path) - 1, path[-1]]
  return float(sum(weight.values()))


def calibrated(accepts, budget: int, depth: int | None = None) -> Shape:
  """The best shape for measured accuracies, grown node by node.

  Adds the node of the largest product of accuracies on its path until the
  budget is spent (Medusa, Cai et al. 2024, arXiv 2401.10774, Sec. 2.3.3). A
  product never rises along a path, nor along siblings here, so the greedy
  choice is the best one.

  Args:
    accepts: `[D, R]`, how often the token of rank r at depth d is the right
      one; or `[R]`, the same at every depth. Within a depth it must not rise.
    budget: nodes of the tree, the root included.
    depth: levels; default: D, or no bound if accuracies are the same.

  Raises:
    ValueError: for accuracies that are none, or that rise with the rank.
  """
  if budget < 2:
    raise ValueError(f"budget={budget}, expected at least 2, the root's too.")
  accepts = np.asarray(accepts, np.float64)
  if depth is None:
    depth = budget - 1 if accepts.ndim == 1 else len(accepts)
  accepts = _by_depth(accepts, depth)
  if (np.diff(accepts, axis=1) > 0).any():
    raise ValueError(
        f"accepts={accepts.tolist()}, expected numbers that fall with the"
        " rank: a later child is kept only with the earlier ones.")
  chosen, heap = [], [(-accepts[0, 0], (0,))]
  while heap and len(chosen) < budget - 1:
    weight, path = heapq.heappop(heap)
    if not weight:
      break
    chosen.append(path)
    at, rank = len(path) - 1, path[-1]
    if rank + 1 < accepts.shape[1]:
      heapq.heappush(heap, (
          weight * accepts[at, rank + 1] / accepts[at, rank],
          path[:-1] + (rank + 1,)))
    if at + 1 < depth:
      heapq.heappush(heap, (weight * accepts[at + 1, 0], path + (0,)))
  return shape_of(chosen)


def _by_depth(accepts, depth) -> np.ndarray:
  accepts = np.asarray(accepts, np.float64)
  if accepts.ndim == 1:
    accepts = np.broadcast_to(accepts, (depth, accepts.size))
  bad = accepts.ndim != 2 or not accepts.size or len(accepts) < depth
  # Written so that NaN, which compares with nothing, is refused too.
  if bad or not ((accepts >= 0).all() and (accepts.sum(1) <= 1 + 1e-6).all()):
    raise ValueError(
        f"accepts={accepts.tolist()}, expected [R] or [{depth} or more, R]"
        " numbers from 0 on whose sum at a depth is at most 1.")
  return accepts
