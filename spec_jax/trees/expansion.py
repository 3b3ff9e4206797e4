"""Trees of the top tokens after each node, their sizes fixed beforehand.

For drafters whose nodes know no more than the path that led to them. Nothing is
drawn and no law is kept: the rule must be one of matching.
"""

from collections.abc import Callable
import dataclasses
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from spec_jax.core import tree as tree_lib
from spec_jax.core import types

# `(level, tokens i32[B, W], places, k)` -> log-probabilities `f32[B, W, k]` of
# the k most likely tokens after each of these nodes, falling, and the tokens.
# Levels are asked for in order, from 0, the root's. `places` `i32[B, W]` or
# `i[W]` says where the nodes' parents stood in the call before.
Expand = Callable[..., tuple[jax.Array, jax.Array]]


class Plan(Protocol):
  """Which nodes a tree gets.

  Attributes:
    depth: levels below the root.
    max_children: of a node.
  """

  depth: int
  max_children: int

  def grow(self, root: jax.Array, expand: Expand) -> types.DraftTree:
    """The tree below `i32[B]`."""


@dataclasses.dataclass(frozen=True)
class Shape:
  """The same shape in every round (Medusa, Cai et al. 2024, Sec. 2.1.2).

  Attributes:
    branching: by level, how many children each node has, or all of them; see
      `core.tree.child_counts`.
  """

  branching: tuple[int | tuple[int, ...], ...]

  def __post_init__(self):
    tree_lib.child_counts(self.branching)  # Names what is wrong with it.

  @property
  def counts(self) -> tuple[tuple[int, ...], ...]:
    return tree_lib.child_counts(self.branching)

  @property
  def depth(self) -> int:
    return len(self.branching)

  @property
  def max_children(self) -> int:
    return max(map(max, self.counts))

  def grow(self, root, expand):
    """The children of rank r are the r-th most likely tokens."""
    tokens, valid = [root[:, None]], [jnp.ones_like(root[:, None]) > 0]
    places = np.zeros(1, np.int32)
    for level, counts in enumerate(self.counts):
      inner = np.flatnonzero(counts)
      width = max(counts)
      log_probs, found = expand(
          level, tokens[-1][:, inner], places[inner], width)
      parents, ranks = np.nonzero(
          np.arange(width)[None] < np.asarray(counts)[inner][:, None])
      tokens.append(found[:, parents, ranks])
      valid.append(valid[-1][:, inner[parents]]
                   & (log_probs[:, parents, ranks] > -jnp.inf))
      places = parents
    tokens = jnp.concatenate(tokens, axis=1)
    parents = jnp.asarray(tree_lib.static_parents(self.branching))[None]
    return types.DraftTree(
        tokens, jnp.broadcast_to(parents, tokens.shape),
        jnp.concatenate(valid, axis=1), None, "top_k", self.depth,
        self.max_children)


@dataclasses.dataclass(frozen=True)
class Beams:
  """The most likely paths found by beam search, their beginnings shared.

  Of each level the `widths[level]` nodes of the largest sum of
  log-probabilities are kept; the tree is the last level and what leads to it.
  Equal beginnings are one node by construction: the dynamic tree attention of
  Zhang et al. 2024 (arXiv 2403.09919, Sec. 3.3) finds them afterwards.

  Attributes:
    widths: by level, paths kept.
    children: by level, most likely tokens looked at after each path.
    likely: tokens among which a law's mass is counted; 0 = all.
  """

  widths: tuple[int, ...]
  children: tuple[int, ...]
  likely: int = 0

  def __post_init__(self):
    if self.likely and self.likely < self.max_children:
      raise ValueError(
          f"likely={self.likely}, expected at least children={self.children}"
          " of every level, or 0.")
    if len(self.widths) != len(self.children) or min(
        self.widths + self.children, default=0) < 1:
      raise ValueError(
          f"widths={self.widths}, children={self.children}: expected as many"
          " numbers above 0 in both, at least one.")

  @property
  def depth(self) -> int:
    return len(self.widths)

  @property
  def max_children(self) -> int:
    return max(self.children)

  @property
  def num_nodes(self) -> int:
    """Static size of the tree: no beginning shared, the root included."""
    return 1 + sum(min(width, self.widths[-1]) for width in self.sizes)

  @property
  def sizes(self) -> tuple[int, ...]:
    """Nodes of each level: no more than there are candidates."""
    sizes, above = [], 1
    for width, children in zip(self.widths, self.children):
      above = min(width, above * children)
      sizes.append(above)
    return tuple(sizes)

  def grow(self, root, expand):
    """Levels first, then what the last one descends from."""
    batch = root.shape[0]
    tokens, places = root[:, None], jnp.zeros((batch, 1), jnp.int32)
    reach, levels = jnp.zeros((batch, 1), jnp.float32), []
    for level, (size, children) in enumerate(zip(self.sizes, self.children)):
      log_probs, found = expand(
          level, tokens, places, self.likely or children)
      if self.likely:
        log_probs = jax.nn.log_softmax(log_probs)
      log_probs, found = log_probs[..., :children], found[..., :children]
      scores = (reach[:, :, None] + log_probs).reshape(batch, -1)
      reach, flat = jax.lax.top_k(scores, size)
      places = (flat // children).astype(jnp.int32)
      tokens = jnp.take_along_axis(found.reshape(batch, -1), flat, axis=1)
      levels.append((tokens, places, reach > -jnp.inf))
    return self._join(root, levels)

  def _join(self, root, levels):
    first = np.cumsum((0, 1) + self.sizes)
    ones = jnp.ones_like(root[:, None])
    tokens, parents = [root[:, None]], [-ones]
    kept = levels[-1][2]
    leads = [kept]
    for (_, places, _), size in zip(levels[:0:-1], self.sizes[-2::-1]):
      # A node leads on if a kept one of the next level stands below it.
      is_parent = places[:, :, None] == jnp.arange(size)[None, None]
      kept = (is_parent & kept[:, :, None]).any(1)
      leads.append(kept)
    valid = [ones > 0] + leads[::-1]
    for level, (found, places, _) in enumerate(levels):
      tokens.append(found)
      parents.append(places + int(first[level]))
    join = lambda parts: jnp.concatenate(parts, axis=1)
    tree = types.DraftTree(
        join(tokens), join(parents).astype(jnp.int32), join(valid), None,
        "top_k", self.depth, self.max_children)
    scores = jnp.where(tree.valid, 0.0, -jnp.inf)
    return tree_lib.take(tree, tree_lib.select(
        tree.parents, tree.valid, scores, min(self.num_nodes, tree.num_nodes)))
