"""Short paths of a tree go on with what was said of any path.

Where a draft speaks for later tokens without looking at those between, what it
says of one path holds for others too. Gumiho (Li et al. 2025, arXiv 2503.10135,
Sec. 3.3, full tree attention) lets a leaf that is not deep enough attend to the
deeper nodes of another path. What the target then says of those is not what it
would say of the longer path, so here they are nodes of their own.
"""

import jax
import jax.numpy as jnp

from spec_jax.core import tree as tree_lib
from spec_jax.core import types


def lengthen(tree: types.DraftTree, scores: jax.Array, tokens: jax.Array,
             log_probs: jax.Array, speaks: jax.Array, first: int, size: int
             ) -> types.DraftTree:
  """Adds the most likely `size` nodes that go on below the leaves.

  Args:
    tree: N nodes, deterministic, `first + L - 1` levels at most.
    scores: `f[B, N]`, logarithms of what its nodes are worth.
    tokens: `i32[B, L]`, the most likely ones of the last L levels.
    log_probs: `f[B, L]`, theirs.
    speaks: `bool[B]`, False where these are not to be used.
    first: depth of `tokens[:, 0]`; leaves that end before the level above it
      stay what they are.
    size: E; less where there are not so many places.

  Returns:
    A tree of N + E nodes, those of `tree` first.
  """
  batch, num_nodes = tree.tokens.shape
  depth = tree_lib.depths(tree.parents)
  nodes = jnp.arange(num_nodes)[None]
  is_parent = ((tree.parents[:, :, None] == nodes[:, None])
               & tree.valid[:, :, None]).any(1)
  is_leaf = tree.valid & ~is_parent & (depth >= first - 1)
  levels = first + jnp.arange(tokens.shape[1])[None, None]
  below = levels - depth[:, :, None]
  # From the leaf's own level to each of those below it.
  gains = jnp.cumsum(jnp.where(below > 0, log_probs[:, None], 0.0), axis=2)
  goes_on = is_leaf[:, :, None] & (below > 0) & speaks[:, None, None]
  worth = jnp.where(goes_on, scores[:, :, None] + gains, -jnp.inf)
  size = min(size, num_nodes * tokens.shape[1])
  best, flat = jax.lax.top_k(worth.reshape(batch, -1), size)
  # By leaf, then by level: a node comes right after the one above it.
  order = jnp.argsort(flat, axis=1)
  flat = jnp.take_along_axis(flat, order, axis=1).astype(jnp.int32)
  exists = jnp.take_along_axis(best, order, axis=1) > -jnp.inf
  leaf, level = jnp.divmod(flat, tokens.shape[1])
  is_first = jnp.take_along_axis(
      below.reshape(batch, -1), flat, axis=1) == 1
  above = num_nodes - 1 + jnp.arange(size, dtype=jnp.int32)[None]
  parents = jnp.where(exists, jnp.where(is_first, leaf, above), 0)
  join = lambda old, new: jnp.concatenate([old, new], axis=1)
  return tree.replace(
      tokens=join(tree.tokens, jnp.take_along_axis(tokens, level, axis=1)),
      parents=join(tree.parents, parents), valid=join(tree.valid, exists))
