"""Drafts with trigrams that look at all features of the target so far.

True features are read once, when they are committed; below the root guesses
stand in for them, and are forgotten with the round.
"""

import dataclasses
from typing import Any

from flax import struct
import jax
import jax.numpy as jnp

from spec_jax.caches import dense
from spec_jax.core import protocols
from spec_jax.core import rows as rows_lib
from spec_jax.drafters import draft_model
from spec_jax.models import chimera as networks

_TAP = "final"


@struct.dataclass
class ChimeraState:
  """The memory of the features.

  Attributes:
    cache: keys and values of the features of all text but the root.
    feature: `f[B, E]`, the last of them; zeros where there is none.
  """

  cache: Any
  feature: jax.Array


@dataclasses.dataclass(frozen=True)
class ChimeraDrafter(draft_model.DraftModel):
  """A static tree of the most likely tokens.

  Attributes:
    model: a `models.chimera.ChimeraModel`.
  """

  draw: str = "top_k"

  @property
  def needs(self) -> protocols.Needs:
    return protocols.Needs(taps=(_TAP,), draws=(self.draw,))

  def init(self, params, batch, capacity):
    target = self.model.target
    return ChimeraState(
        dense.empty(self.model, batch, capacity),
        jnp.zeros((batch, target.config.d_model), target.dtype))

  def prefill(self, params, state, tokens, count, taps):
    return self._absorb(params, state, taps[_TAP], count)

  def update(self, params, state, outcome):
    verdict = outcome.verdict
    return self._absorb(params, state, jnp.take_along_axis(
        outcome.out.taps[_TAP], verdict.path[:, :, None], axis=1),
                        verdict.count)

  def propose(self, params, state, ctx, sampling):
    places = ctx.length[:, None] - jnp.asarray([[3, 2]])
    before = jnp.take_along_axis(ctx.tokens, jnp.maximum(places, 0), axis=1)
    root = self.model.forward(
        params, ctx.root[:, None], self.model.first(
            params, before[:, None], state.feature[:, None]),
        ctx.length[:, None] - 1, jnp.ones((len(before), 1, 1), bool),
        state.cache)
    return self.grow(params, state.cache, ctx, sampling, root)[0], state

  def feed(self, params, tokens, handed, positions, mask, cache, past, level):
    del level
    return self.model.forward(
        params, tokens, handed[networks.HIDDEN], positions, mask, cache,
        past=past)

  def _absorb(self, params, state, features, count):
    """Reads the first `count` of features `f[B, T, E]`."""
    slots = jnp.arange(features.shape[1], dtype=jnp.int32)[None]
    positions = state.cache.length[:, None] + slots
    fresh = self.model.read(params, features, positions)
    last = jnp.maximum(count - 1, 0)[:, None, None]
    return ChimeraState(
        state.cache.commit(
            fresh, jnp.broadcast_to(slots, positions.shape), count),
        rows_lib.where(count > 0, jnp.take_along_axis(
            features, last, axis=1)[:, 0], state.feature))
