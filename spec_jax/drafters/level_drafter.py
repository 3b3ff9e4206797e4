"""What drafters with a model of their own share: its cache, and static levels.

A draft tree's nodes are fed to the draft model only if something may be drawn
below them. Accepted nodes that were fed are committed from what that forward
returned; a leaf is fed in the round after.
"""

import dataclasses
from typing import Any

from flax import struct
import jax
import jax.numpy as jnp
import numpy as np

from spec_jax.caches import dense
from spec_jax.core import sampling as sampling_lib
from spec_jax.core import types
from spec_jax.models import prefill as prefill_lib


@struct.dataclass
class DraftModelState:
  """The draft model's memory.

  Attributes:
    cache: keys and values of committed text. It trails the text by the root,
      and by one token more after a round that accepted a leaf: leaves are
      never fed to the draft model in the round that draws them. Where others
      add nodes to its trees it trails by as many of theirs as were accepted.
    fresh: keys and values of the nodes fed this round, in the order fed.
  """

  cache: Any
  fresh: types.FreshKV


@dataclasses.dataclass(frozen=True)
class ModelDrafter:
  """Keeps the cache of a draft model in step with the text.

  Attributes:
    model: a `protocols.TargetModel`.
  """

  model: Any

  @property
  def lag(self) -> int:
    """Tokens before the root that the cache may lack."""
    return 1

  def model_params(self, params: Any) -> Any:
    """Those of the draft model among the drafter's parameters."""
    return params

  def prefill(self, params, state, tokens, count):
    return state.replace(cache=prefill_lib.absorb(
        self.model, self.model_params(params), state.cache, tokens, count))

  def feed_root(self, params, cache, ctx: types.Context, taps=()
                ) -> tuple[types.ModelOut, Any]:
    """Feeds the root and, before it, the tokens that the cache lacks.

    Args:
      params: of the draft model.
      cache: the draft model's.
      ctx: gives the text.
      taps: features wanted of the root.

    Returns:
      What the forward says of the root, one token, and the cache.
    """
    lag = self.lag
    slots = ctx.length[:, None] - 1 - lag + jnp.arange(lag + 1)[None]
    tokens = jnp.take_along_axis(ctx.tokens, jnp.maximum(slots, 0), axis=1)
    is_lacking = slots >= cache.length[:, None]
    causal = jnp.tril(jnp.ones((lag + 1, lag + 1), bool))
    out = self.model.forward(
        params, tokens, jnp.maximum(slots, 0),
        causal[None] & is_lacking[:, None, :], cache, taps=taps)
    lacking = is_lacking[:, :lag].sum(-1).astype(jnp.int32)
    path = lag - lacking[:, None] + jnp.arange(lag, dtype=jnp.int32)[None]
    cache = cache.commit(out.fresh, jnp.minimum(path, lag), lacking)
    root = types.ModelOut(
        out.logits[:, lag:], _slice(out.fresh, lag, lag + 1),
        {name: tap[:, lag:] for name, tap in out.taps.items()})
    return root, cache


def commit_fed(state: Any, verdict: types.Verdict, slots: jax.Array) -> Any:
  """Commits the accepted nodes that were fed.

  Args:
    state: with `cache` and `fresh`.
    verdict: of the round.
    slots: `i32[B, P]`, where in `fresh` the nodes of the path are; at or
      beyond its size for one that was not fed, which only the last can be.
  """
  steps = jnp.arange(slots.shape[1])[None]
  is_fed = slots < state.fresh.num_tokens
  known = ((steps < verdict.count[:, None]) & is_fed).sum(-1)
  return state.replace(cache=state.cache.commit(
      state.fresh, jnp.where(is_fed, slots, 0), known.astype(jnp.int32)))


@dataclasses.dataclass(frozen=True)
class LevelDrafter(ModelDrafter):
  """Feeds a draft model a tree level by level; caches what was accepted.

  A subclass has `depth`, `level_starts` (index of the first node of each level,
  and the number of nodes) and `grower(ctx, sampling)`, which draws the levels.
  """

  @property
  def fed(self) -> tuple[tuple[int, ...], ...]:
    """By level but the last, the nodes that are fed; here all of them."""
    starts = self.level_starts
    return tuple(tuple(range(*starts[i:i + 2])) for i in range(self.depth))

  @property
  def slots(self) -> np.ndarray:
    """`i32[N]`, by node its place among the fed ones; their number if none."""
    order = [node for level in self.fed for node in level]
    slots = np.full(self.level_starts[-1], len(order), np.int32)
    slots[order] = np.arange(len(order))
    return slots

  def init(self, params, batch, capacity):
    num_fed = sum(len(level) for level in self.fed)
    return DraftModelState(
        cache=dense.empty(self.model, batch, capacity),
        fresh=self.model.empty_scratch(batch, num_fed))

  def propose(self, params, state, ctx, sampling):
    """One forward per level; the first also feeds what the cache lacks."""
    tree, state, _ = self.draft(params, state, ctx, sampling)
    return tree, state

  def draft(self, params, state, ctx, sampling
            ) -> tuple[types.DraftTree, DraftModelState, jax.Array]:
    """As `propose`, with the model's logits at the root, `f32[B, V]`."""
    params = self.model_params(params)
    root, cache = self.feed_root(params, state.cache, ctx)
    tree, fresh = self.grow(params, cache, ctx, sampling, root)
    return tree, DraftModelState(cache, fresh), root.logits[:, 0]

  def grow(self, params, cache, ctx, sampling, root
           ) -> tuple[types.DraftTree, types.FreshKV]:
    """The tree below the root, of which the model says `root`; what was fed."""
    grower = self.grower(ctx, sampling)
    out, fresh = root, root.fresh
    for level in range(self.depth):
      grower.draw_level(level, out.logits)
      if level + 1 < self.depth:
        out = self._feed_level(params, cache, fresh, grower, level + 1,
                               ctx.length, out)
        fresh = fresh.then(out.fresh)
    return grower.tree(), fresh

  def update(self, params, state, outcome):
    """Commits the accepted inner nodes; an accepted leaf is fed next round."""
    slots = jnp.asarray(self.slots)[outcome.verdict.path]
    return commit_fed(state, outcome.verdict, slots)

  def _feed_level(self, params, cache, fresh, grower, level, length, above):
    start, stop = self.level_starts[level:level + 2]
    nodes = np.asarray(self.fed[level])
    seen = np.concatenate(self.fed[:level + 1]).astype(np.int32)
    tokens = pick(grower.tokens[level], nodes - start)
    mask = pick(pick(grower.ancestors(level), nodes - start), seen, axis=2)
    positions = jnp.broadcast_to(length[:, None] - 1 + level, tokens.shape)
    return self.feed(params, tokens, self.handed_down(above, level), positions,
                     mask, cache, fresh, level)

  def handed_down(self, above: types.ModelOut, level: int) -> Any:
    """What the fed nodes of a level get of the forward of the level above."""
    del above, level

  def feed(self, params, tokens, handed, positions, mask, cache, past, level):
    """The forward of a level; `handed` is what its parents handed down."""
    del handed, level
    return self.model.forward(
        params, tokens, positions, mask, cache, past=past)


def pick(array: jax.Array, places: np.ndarray, axis: int = 1) -> jax.Array:
  """Static places along an axis; the array itself if these are all."""
  if len(places) == array.shape[axis] and (
      np.diff(places, prepend=-1) == 1).all():
    return array
  return jnp.take(array, jnp.asarray(places), axis=axis)


def seen_among(seen: jax.Array | None, token_ids: jax.Array | None
               ) -> jax.Array | None:
  """Of `bool[..., V]` those tokens that a law is over; ids of None: all."""
  if seen is None or token_ids is None:
    return seen
  return seen[..., token_ids]


def over_all(law: jax.Array, token_ids: jax.Array | None, vocab_size: int
             ) -> jax.Array:
  """A law over some tokens, `f[..., Z]`, as one over all, `f[..., V]`."""
  if token_ids is None:
    return law
  nothing = jnp.zeros(law.shape[:-1] + (vocab_size,), law.dtype)
  return nothing.at[..., token_ids].set(law)


def seen_by_root(model, ctx: types.Context, sampling: sampling_lib.Sampling
                 ) -> jax.Array | None:
  """`bool[B, 1, V]`, tokens of the text; None where no law asks for them."""
  if not sampling.needs_seen:
    return None
  return sampling_lib.seen_tokens(
      ctx.tokens, ctx.length, model.vocab_size)[:, None]


def _slice(fresh: types.FreshKV, start: int, stop: int) -> types.FreshKV:
  cut = lambda a: a[:, :, start:stop]
  return types.FreshKV(tuple(map(cut, fresh.k)), tuple(map(cut, fresh.v)),
                       fresh.positions[:, start:stop])


def write(fresh: types.FreshKV, new: types.FreshKV, start) -> types.FreshKV:
  """`fresh` with `new` in its slots from `start` on, which may be traced."""
  put = lambda a, b: jax.lax.dynamic_update_slice_in_dim(
      a, b.astype(a.dtype), start, axis=2)
  return types.FreshKV(
      tuple(map(put, fresh.k, new.k)), tuple(map(put, fresh.v, new.v)),
      jax.lax.dynamic_update_slice_in_dim(
          fresh.positions, new.positions, start, axis=1))
