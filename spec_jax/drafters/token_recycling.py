"""A successor table, walked along a fixed tree shape.

Luo et al. 2024 (Token Recycling), Sec. 3; shape and table size from its
repository.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from spec_jax.core import protocols
from spec_jax.core import types

# The shape "2.2.2": a digit is a rank, a word the ranks on the way to a node.
SHAPE = (
    "0 1 2 3 4 5 6 7"
    " 00 01 02 03 04 05 06 07 10 11 12 13 20 21 22 30 31 40 50 60 70"
    " 000 001 002 003 004 005 006 007 010 011 012 020 021 030 040 050 060 070"
    " 100 101 110 200 300 400 500"
    " 0000 0001 0002 0003 0004 0010 0011 0020 0030 0040 0100 0200 1000 2000"
    " 3000"
    " 00000 00001 00002 00010 00020 00100 01000 10000"
    " 000000 000001 000100")


@dataclasses.dataclass(frozen=True)
class TokenRecycling:
  """Remembers what the target last thought comes after each token.

  The state is `i32[B, V, K]`: the K most likely successors of each token, at
  the place where it was last fed to the target, accepted or not; -1 before.

  Attributes:
    vocab_size: of the target.
    width: K, successors kept.
    depth: levels of the shape that are used.
    shape: words of digits, see `SHAPE`; each word's beginning is a word too.
  """

  vocab_size: int
  width: int = 8
  depth: int = 6
  shape: str = SHAPE

  needs: ClassVar[protocols.Needs] = protocols.Needs(memory=True)

  def __post_init__(self):
    for name in ("width", "depth"):
      if getattr(self, name) < 1:
        raise ValueError(f"{name}={getattr(self, name)}, expected >= 1.")
    words = {""} | set(self.shape.split())
    orphans = [word for word in words if word and word[:-1] not in words]
    if orphans:
      raise ValueError(f"shape: {min(orphans)!r} is a node without its parent"
                       f" {min(orphans)[:-1]!r}.")

  @property
  def nodes(self) -> list[str]:
    """The words that are used, level by level."""
    return sorted(
        (word for word in set(self.shape.split()) if len(word) <= self.depth
         and max(map(int, word)) < min(self.width, self.vocab_size)),
        key=lambda word: (len(word), word))

  @property
  def max_children(self) -> int:
    return max(int(word[-1]) for word in self.nodes) + 1

  def unlearned(self, params):
    """A table in which no token was seen."""
    if params is not None:
      return params
    width = min(self.width, self.vocab_size)
    return jnp.full((self.vocab_size, width), -1, jnp.int32)

  def init(self, params, batch, capacity):
    table = self.unlearned(params)
    return jnp.repeat(table[None], batch, axis=0)

  def prefill(self, params, state, tokens, count):
    return state

  def propose(self, params, state, ctx, sampling):
    """Level by level, children are looked up by their parents' tokens."""
    return self.tree(state, ctx.root), state

  def tree(self, table: jax.Array, root: jax.Array) -> types.DraftTree:
    """The shape, filled in for `root` `i32[B]`."""
    nodes, batch = self.nodes, root.shape[0]
    number = {word: i for i, word in enumerate([""] + nodes)}
    parents = np.asarray([number[word[:-1]] for word in nodes])
    ranks = np.asarray([int(word[-1]) for word in nodes])
    sizes = np.asarray([len(word) for word in nodes])
    rows = jnp.arange(batch)[:, None]
    tokens, valid = root[:, None], jnp.ones((batch, 1), bool)
    for level in range(1, self.depth + 1):
      at = sizes == level
      if not at.any():
        break
      above = tokens[:, parents[at]]
      found = table[rows, above, ranks[at][None]]
      valid = jnp.concatenate(
          [valid, (found >= 0) & valid[:, parents[at]]], axis=1)
      tokens = jnp.concatenate([tokens, jnp.maximum(found, 0)], axis=1)
    parents = jnp.broadcast_to(
        jnp.asarray(np.concatenate([[-1], parents]), jnp.int32), tokens.shape)
    return types.DraftTree(
        tokens, parents, valid, None, "deterministic", self.depth,
        self.max_children)

  def update(self, params, state, outcome):
    """Learns from every node that was fed, the rejected ones too."""
    return self.learn(state, outcome.tree, outcome.out.logits,
                      outcome.verdict.count > 0)

  def learn(self, table: jax.Array, tree: types.DraftTree, logits: jax.Array,
            is_real: jax.Array) -> jax.Array:
    """Where a token was fed twice, the last node in breadth-first order counts.

    Args:
      table: `i32[B, V, K]`.
      tree: of any shape.
      logits: `f32[B, N, V]`, the target's.
      is_real: `bool[B]`.
    """
    _, best = jax.lax.top_k(logits, table.shape[-1])
    same = tree.tokens[:, :, None] == tree.tokens[:, None, :]
    nodes = jnp.arange(tree.num_nodes)
    later = same & tree.valid[:, None, :] & (
        nodes[None, None, :] > nodes[None, :, None])
    counts = tree.valid & ~later.any(-1) & is_real[:, None]
    where = jnp.where(counts, tree.tokens, self.vocab_size)
    rows = jnp.arange(table.shape[0])[:, None]
    return table.at[rows, where].set(best.astype(jnp.int32), mode="drop")

  def remember(self, params, state):
    """One table of all rows: of those that saw a token the last row's word."""
    start = self.unlearned(params)
    changed = (state != start[None]).any(-1)
    rows = jnp.arange(state.shape[0])[:, None]
    last = jnp.where(changed, rows, 0).max(0)
    return state[last, jnp.arange(self.vocab_size)]
