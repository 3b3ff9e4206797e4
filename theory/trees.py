"""Draft trees: their expected tokens, and the trees that maximise them.

A tree is `parents`: per node the index of its parent, the root first with -1,
parents before children. Siblings are ranked by index. The expected tokens of
a round count the root, which stands for the target's own token. NumPy,
float64.
"""

from collections.abc import Callable
from collections.abc import Sequence
import heapq

import numpy as np

from theory import checks


def _checked(parents: Sequence[int]) -> list[int]:
  """The parents, if they are a tree."""
  parents = [int(parent) for parent in parents]
  if not parents or parents[0] != -1 or not all(
      0 <= parent < node for node, parent in enumerate(parents) if node):
    raise ValueError(
        f"parents={parents}, expected -1 and then the index of an earlier"
        " node each.")
  return parents


def depths_and_ranks(parents: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
  """Depth and rank among its siblings of every node, each `i64[N]`.

  Raises:
    ValueError: if it is no tree.

  >>> depths_and_ranks([-1, 0, 0, 1])
  (array([0, 1, 1, 2]), array([0, 0, 1, 0]))
  """
  parents = _checked(parents)
  depths, ranks, children = [0], [0], [0] * len(parents)
  for parent in parents[1:]:
    depths.append(depths[parent] + 1)
    ranks.append(children[parent])
    children[parent] += 1
  return np.asarray(depths), np.asarray(ranks)


def expected_tokens(parents: Sequence[int], accepts) -> float:
  """Expected tokens of a round if acceptance depends on the rank alone.

  The sum over nodes of the product of acceptances on the path, Sequoia (Chen
  et al. 2024, arXiv 2402.12374), Sec. 3.1.

  Args:
    parents: of the N nodes.
    accepts: `[B]`, probability that the child of rank b is the accepted one,
      not given that those before it were rejected; or `[D, B]`, by depth.

  Raises:
    ValueError: if it is no tree, a node has no acceptance, or the acceptances
      of siblings sum to more than 1.

  >>> round(expected_tokens([-1, 0, 0, 1], [.6, .2]), 6)
  2.16
  """
  parents = _checked(parents)
  depths, ranks = depths_and_ranks(parents)
  accepts = _rank_accepts(accepts)
  if accepts.ndim == 1:
    accepts = np.broadcast_to(accepts, (depths.max(), accepts.size))
  if len(parents) > 1 and (depths.max() > accepts.shape[0]
                           or ranks.max() >= accepts.shape[1]):
    raise ValueError(
        f"accepts has shape {accepts.shape}, expected at least"
        f" ({depths.max()}, {ranks.max() + 1}): depth, most siblings.")
  weights = [1.0]
  for node, parent in enumerate(parents[1:], 1):
    weights.append(weights[parent] * accepts[depths[node] - 1, ranks[node]])
  return float(np.sum(weights))


def _rank_accepts(accepts):
  accepts = checks.between("accepts", accepts)
  if accepts.ndim not in (1, 2) or (accepts.sum(-1) > 1 + 1e-6).any():
    raise ValueError(
        f"accepts has shape {accepts.shape} and sums up to"
        f" {accepts.sum(-1).max():.3g}, expected [B] or [D, B] and at most 1:"
        " one child at most is the accepted one.")
  return accepts


def expected_tokens_of_text(parents: Sequence[int], tokens: Sequence[int],
                            joint) -> float:
  """Expected tokens if a path is accepted when the target's own text is it.

  Exact for greedy and for naive verification of a given tree: 1 + the sum over
  nodes of the probability that the text begins with the node's path, each
  string counted once.

  Args:
    parents: of the N nodes.
    tokens: `[N]`, the root's is not looked at.
    joint: `[V] * D`, law of the next D tokens, D at least the tree's depth.

  Raises:
    ValueError: if it is no tree, joint is no law or too short.

  >>> expected_tokens_of_text([-1, 0, 1], [0, 1, 1], [[.25, .25], [.1, .4]])
  1.9
  """
  parents = _checked(parents)
  joint = np.asarray(joint, np.float64)
  checks.law("joint", joint.reshape(-1))
  depths, _ = depths_and_ranks(parents)
  if len(tokens) != len(parents) or depths.max() > joint.ndim:
    raise ValueError(
        f"{len(tokens)} tokens and {joint.ndim} positions, expected"
        f" {len(parents)} and at least {depths.max()}.")
  paths = [()]
  for node, parent in enumerate(parents[1:], 1):
    paths.append(paths[parent] + (int(tokens[node]),))
  return float(sum(joint[path].sum() for path in set(paths)))


def best_first(law: Callable[[tuple[int, ...]], np.ndarray], num_nodes: int,
               max_depth: int) -> dict[tuple[int, ...], float]:
  """The nodes of the largest path products, in falling order.

  No node weighs more than its parent, so the heaviest nodes are a tree and no
  tree of as many nodes weighs more: OPT-Tree (Wang et al. 2024, arXiv
  2406.17276). Of equal weights the shallower path comes first, then
  the lower token. With ranks as tokens it is DySpec's tree of expected values.

  Args:
    law: from a path of tokens to `[V]`, weights in [0, 1] of the next.
    num_nodes: without the root; fewer where the paths of weight above 0 end.
    max_depth: of a node, the root has 0.

  Returns:
    Weight by path; expected tokens of a round are 1 + their sum.

  Raises:
    ValueError: for a negative budget or weights out of range.

  >>> best_first(lambda path: np.asarray([.6, .4]), 3, 2)
  {(0,): 0.6, (1,): 0.4, (0, 0): 0.36}
  """
  num_nodes = checks.count("num_nodes", num_nodes)
  max_depth = checks.count("max_depth", max_depth)
  chosen, heap = {}, [(-1.0, 0, ())]
  while heap and len(chosen) <= num_nodes:
    weight, depth, path = heapq.heappop(heap)
    chosen[path] = -weight
    if depth < max_depth:
      for token, share in enumerate(checks.between("law", law(path)).tolist()):
        if share > 0:
          heapq.heappush(heap, (weight * share, depth + 1, path + (token,)))
  del chosen[()]
  return chosen


def parents_of(paths: Sequence[tuple[int, ...]]) -> list[int]:
  """The tree of these paths, which must hold their own prefixes.

  Nodes in order of depth, then of path.

  Raises:
    ValueError: if a prefix is missing or a path comes twice.

  >>> parents_of([(0,), (1,), (1, 0)])
  [-1, 0, 0, 2]
  """
  order = sorted([(), *paths], key=lambda path: (len(path), path))
  index = {path: node for node, path in enumerate(order)}
  missing = [path for path in paths if path[:-1] not in index]
  if missing or len(index) != len(order):
    raise ValueError(
        f"paths={list(paths)}, expected distinct ones with all their"
        f" prefixes; without parent: {missing}.")
  return [-1] + [index[path[:-1]] for path in order[1:]]
