"""Drafts blocks of tokens, each from a block of pairs before it.

See `models.block_net`. Of a text of n tokens the last k pairs guess the next k
features at once: k levels of a tree, in which nodes of one level and one block
have the same law, whatever was drafted between. Below a node that ends a block
hang the levels of the next one, guessed from the k pairs on the path to it.
"""

import dataclasses
from typing import Any

from flax import struct
import jax
import jax.numpy as jnp
import numpy as np

from spec_jax.caches import dense
from spec_jax.core import protocols
from spec_jax.core import rows as rows_lib
from spec_jax.core import tree as tree_lib
from spec_jax.core import types
from spec_jax.drafters import draft_model
from spec_jax.drafters import level_drafter
from spec_jax.models import block_net
from spec_jax.models import feature_net


@struct.dataclass
class BlockState:
  """The net's memory.

  A text of n tokens has n - 1 pairs. Before a round the stable part lacks the
  last `count` of them; after it has drafted, the last k - 1, so that the next
  block can be run as a whole.

  Attributes:
    stable: keys and values of pairs; slot s is pair s.
    memory: `f[B, R, 2, E]`, of the recurrence after the stable part.
    features: `f[B, P, E]`, what the lacking pairs hold, the last one with the
      root.
    following: `i32[B, P]`, the tokens of the lacking pairs but the last, while
      a prompt is read.
    count: `i32[B]`, how many are lacking; of a prompt as many as it has tokens,
      but k at most.
  """

  stable: Any
  memory: jax.Array
  features: jax.Array
  following: jax.Array
  count: jax.Array


@dataclasses.dataclass(frozen=True)
class BlockDrafter(draft_model.DraftModel):
  """Static trees whose levels are guessed k at a time.

  A row with fewer than k pairs drafts nothing.

  Attributes:
    model: a `models.block_model.BlockModel`.
  """

  @property
  def needs(self) -> protocols.Needs:
    return protocols.Needs(taps=self.model.taps, draws=(self.draw,))

  @property
  def _room(self) -> int:
    """P: those of the longest round, and of the block before it."""
    return self.depth + self.model.block

  def init(self, params, batch, capacity):
    net = self.model.net
    return BlockState(
        stable=dense.empty(self.model, batch, capacity),
        memory=net.blank(batch, 1)[:, 0],
        features=jnp.zeros(
            (batch, self._room, self.model.config.d_model), self.model.dtype),
        following=jnp.zeros((batch, self._room), jnp.int32),
        count=jnp.zeros((batch,), jnp.int32))

  def prefill(self, params, state, tokens, count, taps):
    """Runs the pairs of a chunk; its last feature waits for the next token."""
    known = jnp.maximum(state.count - 1, 0)
    features = _join(state.features, state.count,
                     self.model.enter(params, taps))
    following = _join(state.following, known, tokens)
    total = jnp.where(count > 0, state.count + count, 0)
    # The first token of a text has no feature before it.
    is_first = (state.count == 0)[:, None]
    following = jnp.where(
        is_first, jnp.roll(following, -1, axis=1), following)
    out = self._run(params, state, following, features,
                    jnp.maximum(total - 1, 0))
    done = jnp.maximum(total - self.model.block, 0)
    left = lambda a: _from(a, done, self._room)
    features, following, lacking = rows_lib.where(
        count > 0, (left(features), left(following),
                    jnp.minimum(total, self.model.block)),
        (state.features, state.following, state.count))
    return BlockState(_commit(state.stable, out, done),
                      _remembered(state.memory, out, done), features,
                      following, lacking)

  def propose(self, params, state, ctx, sampling):
    """Runs the lacking pairs in one forward, then a forward a block."""
    slots = jnp.arange(self._room)[None]
    at = jnp.clip(ctx.length[:, None] - state.count[:, None] + slots, 0,
                  ctx.tokens.shape[1] - 1)
    tokens = jnp.take_along_axis(ctx.tokens, at, axis=1)
    out = self._run(params, state, tokens, state.features, state.count)
    whole = _commit(state.stable, out, state.count)
    kept = jnp.minimum(state.count, self.model.block - 1)
    done = state.count - kept
    exists = whole.length >= self.model.block
    tree = self._grow(params, whole, ctx, sampling, self._last_block(
        params, out, state.count))
    is_root = jnp.arange(tree.num_nodes)[None] == 0
    tree = tree.replace(valid=tree.valid & (exists[:, None] | is_root))
    return tree, state.replace(
        stable=whole.truncate(whole.length - kept),
        memory=_remembered(state.memory, out, done),
        features=_from(state.features, done, self._room), count=kept)

  def update(self, params, state, outcome):
    """Keeps the target's features along the accepted path."""
    path, count = outcome.verdict.path, outcome.verdict.count
    taps = {name: jnp.take_along_axis(tap, path[:, :, None], axis=1)
            for name, tap in outcome.out.taps.items()}
    features = _join(
        state.features, state.count, self.model.enter(params, taps))
    return state.replace(features=features[:, :self._room],
                         count=state.count + count)

  def _run(self, params, state, tokens, features, count):
    """Runs the first `count` of some pairs on from the stable part."""
    slots = jnp.arange(tokens.shape[1])[None]
    is_pair = slots < count[:, None]
    mask = jnp.broadcast_to(
        is_pair[:, None], is_pair.shape + is_pair.shape[1:])
    return self.model.read(
        params, tokens[:, None], features[:, None],
        state.stable.length[:, None] + slots, mask, state.stable,
        memory=state.memory[:, None], with_logits=False)

  def _last_block(self, params, out, count):
    """What the last k of `count` pairs say, as of one sequence."""
    block = self.model.block
    slots = count[:, None] - block + jnp.arange(block)[None]
    pick = lambda a: jax.vmap(lambda row, at: row[:, at])(
        a, jnp.maximum(slots, 0))
    said = jax.tree.map(pick, out.taps)
    return types.ModelOut(self.model.speak(params, said), None, said)

  def _grow(self, params, cache, ctx, sampling, out):
    """The tree below the root, whose block of pairs says `out`."""
    grower, block = self.grower(ctx, sampling), self.model.block
    past = None
    for level in range(self.depth):
      if level and level % block == 0:
        out = self._feed_block(params, cache, ctx, grower, level, out, past)
        past = out.fresh if past is None else past.then(out.fresh)
      begun = level - level % block
      grower.draw_level(level, level_drafter.pick(
          out.logits[:, :, level % block], self._above(level, begun)))
    return grower.tree()

  def _feed_block(self, params, cache, ctx, grower, level, above, past):
    """Runs the paths of k nodes that end in a level, next to each other."""
    block = self.model.block
    nodes = np.asarray(self.fed[level])
    tokens = jnp.stack([
        level_drafter.pick(grower.tokens[at], self._ancestors(nodes, level, at)
                           - self.level_starts[at])
        for at in range(level - block + 1, level + 1)], axis=2)
    parents = self._above(level, level - block)
    said = {name: level_drafter.pick(tap, parents)
            for name, tap in above.taps.items()}
    sees = [self._above(level, at)[:, None] == np.arange(len(self.fed[at]))
            for at in range(block, level, block)]
    sees = np.concatenate(sees + [np.eye(len(nodes), dtype=bool)], axis=1)
    mask = np.kron(sees, np.ones((block, block), bool))
    # A pair stands where its feature does, one before its token.
    steps = np.tile(np.arange(level - block, level), len(nodes))
    positions = ctx.length[:, None] - 1 + jnp.asarray(steps, jnp.int32)[None]
    return self.model.read(
        params, tokens, said[feature_net.HIDDEN], positions,
        jnp.broadcast_to(jnp.asarray(mask)[None],
                         (tokens.shape[0],) + mask.shape),
        cache, memory=said[block_net.MEMORY][:, :, -1], past=past)

  def _above(self, level: int, at: int) -> np.ndarray:
    """By fed node of a level, which fed node of level `at` is above it."""
    nodes = self._ancestors(np.asarray(self.fed[level]), level, at)
    return np.searchsorted(np.asarray(self.fed[at]), nodes)

  def _ancestors(self, nodes, level, at):
    parents = tree_lib.static_parents(self.branching)
    for _ in range(level - at):
      nodes = parents[nodes]
    return nodes


def _commit(stable, out, count):
  """The stable part with the first `count` of the pairs that were run."""
  size = out.fresh.num_tokens
  path = jnp.arange(size, dtype=jnp.int32)[None]
  return stable.commit(
      out.fresh, jnp.broadcast_to(path, (count.shape[0], size)), count)


def _remembered(memory, out, count):
  """The recurrence's memory after the first `count` of them."""
  last = jnp.maximum(count - 1, 0)
  found = out.taps[block_net.MEMORY][jnp.arange(last.size), 0, last]
  return rows_lib.where(count > 0, found, memory)


def _join(first, size, second):
  """The first `size` of `[B, P, ...]`, then `second` `[B, T, ...]`."""
  both = jnp.concatenate([first, second.astype(first.dtype)], axis=1)
  slots = jnp.arange(both.shape[1])[None]
  is_first = slots < size[:, None]
  at = jnp.where(is_first, slots, first.shape[1] + slots - size[:, None])
  return _take(both, jnp.minimum(at, both.shape[1] - 1))


def _from(array, start, size):
  """`size` places of `[B, P, ...]` from `start` on; those that are behind its
  end hold anything.
  """
  slots = start[:, None] + jnp.arange(size)[None]
  return _take(array, jnp.minimum(slots, array.shape[1] - 1))


def _take(array, places):
  return jnp.take_along_axis(
      array, places.reshape(places.shape + (1,) * (array.ndim - 2)), axis=1)
