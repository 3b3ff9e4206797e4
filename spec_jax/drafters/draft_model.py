"""A separate draft model that grows a static tree, level by level.

A chain is the tree whose levels all have one node.
"""

import dataclasses
import functools
from typing import Any

from flax import struct
import jax
import jax.numpy as jnp
import numpy as np

from spec_jax.caches import dense
from spec_jax.core import keys as keys_lib
from spec_jax.core import protocols
from spec_jax.core import sampling as sampling_lib
from spec_jax.core import tree as tree_lib
from spec_jax.core import types
from spec_jax.models import prefill as prefill_lib

_DRAWS = types.RANDOM_DRAWS + ("top_k", "coupled")


@struct.dataclass
class DraftModelState:
  """The draft model's memory.

  Attributes:
    cache: keys and values of committed text. It trails the text by the root,
      and by one token more after a round that accepted a leaf: leaves are
      never fed to the draft model in the round that draws them. Where others
      add nodes to its trees it trails by as many of theirs as were accepted.
    fresh: keys and values of this round's inner nodes, by node index.
  """

  cache: Any
  fresh: types.FreshKV


@dataclasses.dataclass(frozen=True)
class LevelDrafter:
  """Feeds a draft model a tree level by level; caches what was accepted.

  A subclass has `depth`, `level_starts` (index of the first node of each level,
  and the number of nodes) and `grower(ctx, sampling)`, which draws the levels.

  Attributes:
    model: a `protocols.TargetModel`.
  """

  model: Any

  @property
  def lag(self) -> int:
    """Tokens before the root that the cache may lack."""
    return 1

  def init(self, params, batch, capacity):
    return DraftModelState(
        cache=dense.empty(self.model, batch, capacity),
        fresh=self.model.empty_scratch(batch, self.level_starts[-2]))

  def prefill(self, params, state, tokens, count):
    return state.replace(cache=prefill_lib.absorb(
        self.model, params, state.cache, tokens, count))

  def propose(self, params, state, ctx, sampling):
    """One forward per level; the first also feeds what the cache lacks."""
    tree, state, _ = self.draft(params, state, ctx, sampling)
    return tree, state

  def draft(self, params, state, ctx, sampling
            ) -> tuple[types.DraftTree, DraftModelState, jax.Array]:
    """As `propose`, with the model's logits at the root, `f32[B, V]`."""
    logits, state = self._feed_root(params, state, ctx)
    at_root = logits[:, 0]
    grower = self.grower(ctx, sampling)
    fresh = state.fresh
    for level in range(self.depth):
      grower.draw_level(level, logits)
      if level + 1 < self.depth:
        out = self._feed_level(params, state.cache, fresh, grower, level + 1,
                               ctx.length)
        logits, fresh = out.logits, _append(fresh, out.fresh)
    return grower.tree(), state.replace(fresh=fresh), at_root

  def update(self, params, state, outcome):
    """Commits the accepted inner nodes; an accepted leaf is fed next round."""
    verdict = outcome.verdict
    slots = jnp.arange(verdict.path.shape[1])[None]
    is_inner = verdict.path < self.level_starts[-2]
    known = ((slots < verdict.count[:, None]) & is_inner).sum(-1)
    path = jnp.where(is_inner, verdict.path, 0)
    return state.replace(
        cache=state.cache.commit(state.fresh, path, known.astype(jnp.int32)))

  def noise(self, draw, ctx, branching):
    """See `_noise`; the levels are as wide as `branching` makes them."""
    return _noise(draw, ctx, branching, self.model.vocab_size)

  def _feed_root(self, params, state, ctx):
    """Feeds the root and, before it, the tokens that the cache lacks."""
    lag = self.lag
    slots = ctx.length[:, None] - 1 - lag + jnp.arange(lag + 1)[None]
    tokens = jnp.take_along_axis(ctx.tokens, jnp.maximum(slots, 0), axis=1)
    is_lacking = slots >= state.cache.length[:, None]
    causal = jnp.tril(jnp.ones((lag + 1, lag + 1), bool))
    out = self.model.forward(
        params, tokens, jnp.maximum(slots, 0),
        causal[None] & is_lacking[:, None, :], state.cache)
    lacking = is_lacking[:, :lag].sum(-1).astype(jnp.int32)
    path = lag - lacking[:, None] + jnp.arange(lag, dtype=jnp.int32)[None]
    cache = state.cache.commit(
        out.fresh, jnp.minimum(path, lag), lacking)
    root = _slice(out.fresh, lag, lag + 1)
    return out.logits[:, lag:], state.replace(cache=cache, fresh=root)

  def _feed_level(self, params, cache, fresh, grower, level, length):
    tokens = grower.tokens[level]
    positions = jnp.broadcast_to(
        length[:, None] - 1 + level, tokens.shape)
    return self.model.forward(
        params, tokens, positions, grower.ancestors(level), cache, past=fresh)


@dataclasses.dataclass(frozen=True)
class DraftModel(LevelDrafter):
  """Drafts with a smaller model of the same vocabulary.

  Attributes:
    model: a `protocols.TargetModel`.
    branching: children per node, by depth; `(1, 1, 1)` is a chain of three.
    draw: how children are drawn at temperature > 0: "iid",
      "without_replacement", "greedy" (all but the last child are the most
      likely tokens), "top_k" (deterministic) or "coupled" (with the noise of
      the emitting draw). At temperature 0 the children are the most likely
      tokens.
    num_clocks: noises that the emitting draw takes the first to ring of; a
      coupled child takes one of them, its siblings the others.
    lag: tokens before the root that the cache may lack: 1, an accepted leaf,
      unless others add nodes to the tree.
  """

  branching: tuple[int, ...] = (1, 1, 1, 1)
  draw: str = "iid"
  num_clocks: int = 1
  lag: int = 1

  def __post_init__(self):
    if not self.branching or min(self.branching) < 1:
      raise ValueError(
          f"branching={self.branching}, expected at least one level and at"
          " least one child per node.")
    if self.draw not in _DRAWS:
      raise ValueError(f"draw={self.draw!r}, expected one of {_DRAWS}.")
    if self.draw == "coupled" and self.max_children > self.num_clocks:
      raise ValueError(
          f"draw='coupled' has num_clocks={self.num_clocks} noises to give to"
          f" the children of a node, so branching={self.branching} would"
          " repeat one token; expected branching up to that number.")
    if self.max_children > self.model.vocab_size:
      raise ValueError(
          f"branching={self.branching} asks for more children than the"
          f" vocabulary has tokens ({self.model.vocab_size}).")

  @property
  def needs(self) -> protocols.Needs:
    return protocols.Needs(draws=(self.draw,))

  def noise(self, draw, ctx, branching):
    return _noise(draw, ctx, branching, self.model.vocab_size, self.num_clocks)

  @property
  def depth(self) -> int:
    return len(self.branching)

  @property
  def max_children(self) -> int:
    return max(self.branching)

  @property
  def level_starts(self) -> tuple[int, ...]:
    """Index of the first node of each level, and the number of nodes."""
    sizes = np.cumprod((1,) + self.branching)
    return tuple(int(n) for n in np.concatenate([[0], np.cumsum(sizes)]))

  def grower(self, ctx, sampling):
    return _Grower(self, ctx, sampling)


def _slice(fresh: types.FreshKV, start: int, stop: int) -> types.FreshKV:
  cut = lambda a: a[:, :, start:stop]
  return types.FreshKV(tuple(map(cut, fresh.k)), tuple(map(cut, fresh.v)),
                       fresh.positions[:, start:stop])


def _append(fresh: types.FreshKV, new: types.FreshKV) -> types.FreshKV:
  join = lambda a, b: jnp.concatenate([a, b], axis=2)
  return types.FreshKV(
      tuple(map(join, fresh.k, new.k)), tuple(map(join, fresh.v, new.v)),
      jnp.concatenate([fresh.positions, new.positions], axis=1))


def seen_by_root(model, ctx: types.Context, sampling: sampling_lib.Sampling
                 ) -> jax.Array | None:
  """`bool[B, 1, V]`, tokens of the text; None where no law asks for them."""
  if not sampling.needs_seen:
    return None
  return sampling_lib.seen_tokens(
      ctx.tokens, ctx.length, model.vocab_size)[:, None]


class _Grower:
  """Collects the levels of one tree while it is traced."""

  def __init__(self, drafter: DraftModel, ctx: types.Context,
               sampling: sampling_lib.Sampling):
    self._drafter, self._sampling = drafter, sampling
    # At temperature 0 a law is a point mass, and its draws would all be equal.
    self._draw = "top_k" if sampling.is_greedy else drafter.draw
    self._parents = tree_lib.static_parents(drafter.branching)
    self._noise = drafter.noise(self._draw, ctx, drafter.branching)
    self._laws = []
    self._valid = [jnp.ones(ctx.root[:, None].shape, bool)]
    self.tokens = [ctx.root[:, None]]
    self._seen = seen_by_root(drafter.model, ctx, sampling)

  def ancestors(self, level: int) -> jax.Array:
    """`bool[B, W, F]`: which nodes up to its own level a node may see."""
    start, stop = self._drafter.level_starts[level:level + 2]
    pattern = np.eye(stop, dtype=bool)
    for node in range(1, stop):
      pattern[node] |= pattern[self._parents[node]]
    valid = jnp.concatenate(self._valid, axis=1)
    return jnp.asarray(pattern[start:stop])[None] & valid[:, None, :]

  def draw_level(self, level: int, logits: jax.Array) -> None:
    """Draws the children of all nodes of a level from `f32[B, W, V]`."""
    width = self._drafter.branching[level]
    p = self._sampling.probs(logits, self._seen)
    tokens, exists = _DRAW_FNS[self._draw](
        logits if self._draw == "top_k" else p, self._noise[level], width)
    flat = (tokens.shape[0], -1)
    parent_valid = jnp.repeat(self._valid[-1], width, axis=1)
    self.tokens.append(tokens.reshape(flat))
    self._valid.append(exists.reshape(flat) & parent_valid)
    self._laws.append(p)
    if self._seen is not None:
      seen = jnp.repeat(self._seen, width, axis=1)
      self._seen = seen | jax.nn.one_hot(
          self.tokens[-1], seen.shape[-1], dtype=bool)

  def tree(self) -> types.DraftTree:
    tokens = jnp.concatenate(self.tokens, axis=1)
    batch, num_nodes = tokens.shape
    q = None
    if self._draw in types.RANDOM_DRAWS:
      num_leaves = num_nodes - self._drafter.level_starts[-2]
      q = jnp.pad(jnp.concatenate(self._laws, axis=1),
                  ((0, 0), (0, num_leaves), (0, 0)))
    return types.DraftTree(
        tokens=tokens,
        parents=jnp.broadcast_to(jnp.asarray(self._parents)[None],
                                 (batch, num_nodes)),
        valid=jnp.concatenate(self._valid, axis=1), q=q, draw=self._draw,
        depth=self._drafter.depth, max_children=self._drafter.max_children)


def _draw_iid(law, noise, width):
  del width
  tokens = sampling_lib.first_to_ring(law[:, :, None], noise)
  return tokens, jnp.ones(tokens.shape, bool)


def _draw_without_replacement(law, noise, width):
  return sampling_lib.first_k_to_ring(law, noise[:, :, 0], width)


def _draw_greedy(law, noise, width):
  return sampling_lib.top_and_first_to_ring(law, noise[:, :, 0], width)


def _draw_top_k(logits, noise, width):
  del noise
  scores, tokens = jax.lax.top_k(logits, width)
  return tokens.astype(jnp.int32), scores > -jnp.inf


# `(law f[B, W, V], noise f[B, W, 1 or width, V], width)` -> tokens and whether
# they exist, `[B, W, width]`. Coupled drafts differ in their noise alone.
_DRAW_FNS = {
    "iid": _draw_iid,
    "without_replacement": _draw_without_replacement,
    "greedy": _draw_greedy,
    "top_k": _draw_top_k,
    "coupled": _draw_iid,
}


def _noise(draw: str, ctx: types.Context, branching: tuple[int, ...],
           vocab_size: int, num_clocks: int = 1
           ) -> list[jax.Array | None]:
  """Noise of all draws of a round, by level: `f32[B, W, 1 or width, V]`.

  Made in one go: as many short operations one after another would take longer
  than the draft model's own arithmetic. Iid siblings have a draw each, numbered
  by the drawn node; other draws one per parent, numbered by it. Coupled nodes
  of a level go around the `num_clocks` noises of the emitting draw, so that
  the chains below a root keep one each.
  """
  if draw == "top_k":
    return [None] * len(branching)
  is_list = draw == "coupled" and num_clocks > 1
  per_child = draw == "iid" or is_list
  widths = np.cumprod((1,) + branching)
  counts = widths[1:] if per_child else widths[:-1]
  levels = np.repeat(np.arange(len(branching)), counts)
  numbers = np.arange(len(levels)) + int(per_child)
  positions = ctx.length[:, None] + jnp.asarray(levels, jnp.int32)[None]
  if draw == "coupled":
    at = lambda key, position, number: keys_lib.at(
        key, position, types.Role.EMIT,
        (number - 1) % num_clocks if is_list else None)
  else:
    at = lambda key, position, number: keys_lib.at(
        key, position, types.Role.DRAFT, number)
  keys = jax.vmap(jax.vmap(at, (None, 0, 0)), (0, 0, None))(
      ctx.keys, positions, jnp.asarray(numbers, jnp.int32))
  make = functools.partial(sampling_lib.clocks, vocab_size=vocab_size)
  flat = jax.vmap(jax.vmap(make))(keys)
  parts = jnp.split(flat, np.cumsum(counts)[:-1], axis=1)
  return [part.reshape(part.shape[0], int(width), -1, vocab_size)
          for part, width in zip(parts, widths)]
