"""Drafts from the target's features: next features first, tokens from those.

A feature net reads *pairs*, the feature of token i with token i + 1, and
guesses the feature of token i + 1. The pairs of committed text hold the
target's own features and are cached: the *stable* part. Below the root the net
reads its own guesses, and forgets them with the round: the pairs of accepted
drafts are run again, in the round after, with the features that the target gave
for them (EAGLE, Li et al. 2024, arXiv 2401.15077, Sec. 4.1 and repository).
"""

import dataclasses
from typing import Any

from flax import struct
import jax
import jax.numpy as jnp

from spec_jax.caches import dense
from spec_jax.core import protocols
from spec_jax.core import types
from spec_jax.drafters import draft_model
from spec_jax.drafters import grown_draft_model


@struct.dataclass
class FeatureState:
  """The net's memory.

  A text of n tokens has n - 1 pairs; before a round the stable part lacks the
  last `count` of them, whose features are kept here.

  Attributes:
    stable: keys and values of pairs; slot s is pair s.
    features: `f[B, P, E]`, what the lacking pairs hold, the last one with the
      root.
    count: `i32[B]`, how many are lacking: those of the last round, 1 after the
      prefill, 0 where the text is a single token or the row has stopped.
    control: the state of a controller, () without one.
  """

  stable: Any
  features: jax.Array
  count: jax.Array
  control: Any = ()


class StablePart:
  """Keeps the stable part of a feature net in step with the text.

  To be mixed into a drafter whose `model` is a
  `models.feature_model.FeatureModel` and whose `grow_below` grows the tree and
  may change the state. A row without a pair (one token and no round yet) drafts
  nothing.
  """

  @property
  def needs(self) -> protocols.Needs:
    return protocols.Needs(taps=self.model.taps, draws=(self.drawn,))

  def model_params(self, params):
    return params

  def init(self, params, batch, capacity):
    width = self.model.config.d_model
    return FeatureState(
        stable=dense.empty(self.model, batch, capacity),
        features=jnp.zeros((batch, self.depth + 1, width), self.model.dtype),
        count=jnp.zeros((batch,), jnp.int32))

  def prefill(self, params, state, tokens, count, taps):
    """Runs the pairs of a chunk; its last feature waits for the next token."""
    entered = self.model.enter(params, taps)
    slots = jnp.arange(tokens.shape[1])[None]
    # The first token of a text has no feature before it.
    first = 1 - state.count[:, None]
    features = jnp.concatenate([state.features[:, :1], entered[:, :-1]], axis=1)
    is_pair = (slots >= first) & (slots < count[:, None])
    stable = self._run(
        params, state.stable, tokens, features, slots - first, is_pair, first,
        jnp.maximum(count - first[:, 0], 0))[1]
    last = jnp.take_along_axis(
        entered, jnp.maximum(count - 1, 0)[:, None, None], axis=1)
    is_new = count > 0
    return state.replace(
        stable=stable, count=jnp.where(is_new, 1, state.count),
        features=state.features.at[:, :1].set(
            jnp.where(is_new[:, None, None], last, state.features[:, :1])))

  def propose(self, params, state, ctx, sampling):
    """Runs the lacking pairs in one forward, then a forward a level."""
    root, stable = self.feed_pairs(params, state, ctx)
    # The root is a node of the tree: its keys and values are in flight.
    before = stable.truncate(jnp.maximum(stable.length - 1, 0))
    most = self.most(params, state, ctx)
    tree, state = self.grow_below(
        params, state, before, ctx, sampling, root, most)
    exists = stable.length > 0
    if most is not None:
      exists &= most > 0
    is_root = jnp.arange(tree.num_nodes)[None] == 0
    tree = tree.replace(valid=tree.valid & (exists[:, None] | is_root))
    return tree, state.replace(
        stable=stable, count=jnp.zeros_like(state.count))

  def most(self, params, state, ctx) -> jax.Array | None:
    """`i32[B]`, levels to draft in this round; None for as many as can be."""
    del params, state, ctx

  def update(self, params, state, outcome):
    """Keeps the target's features along the accepted path."""
    path = outcome.verdict.path
    taps = {name: jnp.take_along_axis(tap, path[:, :, None], axis=1)
            for name, tap in outcome.out.taps.items()}
    return state.replace(
        features=self.model.enter(params, taps), count=outcome.verdict.count)

  def feed_pairs(self, params, state, ctx: types.Context
                 ) -> tuple[types.ModelOut, Any]:
    """What the net says of the root, one pair, and the stable part with it."""
    count = state.count[:, None]
    slots = jnp.arange(state.features.shape[1])[None]
    at = jnp.clip(ctx.length[:, None] - count + slots, 0,
                  ctx.tokens.shape[1] - 1)
    out, stable = self._run(
        params, state.stable, jnp.take_along_axis(ctx.tokens, at, axis=1),
        state.features, jnp.broadcast_to(slots, at.shape), slots < count,
        jnp.zeros_like(count), state.count)
    last = jnp.maximum(count - 1, 0)
    pick = lambda a: jnp.take_along_axis(a, last[:, None, :, None], axis=2)
    said = jax.tree.map(lambda a: jnp.take_along_axis(
        a, last.reshape(last.shape + (1,) * (a.ndim - 2)), axis=1), out.taps)
    fresh = types.FreshKV(
        tuple(map(pick, out.fresh.k)), tuple(map(pick, out.fresh.v)),
        jnp.take_along_axis(out.fresh.positions, last, axis=1))
    return types.ModelOut(
        self.model.speak(params, said), fresh, said), stable

  def feed(self, params, tokens, handed, positions, mask, cache, past, level):
    # A pair stands where its feature does, one before its token.
    return self.model.forward(
        params, tokens, handed, positions - 1, mask, cache, past=past,
        level=jnp.asarray(level, jnp.int32))

  def handed(self, out):
    return out.taps

  def _run(self, params, stable, tokens, features, offset, is_pair, first,
           count):
    """Runs pairs and commits `count` of them from slot `first` on."""
    num_slots = tokens.shape[1]
    mask = jnp.tril(jnp.ones((num_slots, num_slots), bool))[None]
    out = self.model.forward(
        params, tokens, features, stable.length[:, None] + offset,
        mask & is_pair[:, None, :], stable, with_logits=False)
    path = jnp.minimum(
        first + jnp.arange(num_slots, dtype=jnp.int32)[None], num_slots - 1)
    return out, stable.commit(out.fresh, path, count)


@dataclasses.dataclass(frozen=True)
class GrownFeatureDrafter(StablePart, grown_draft_model.GrownDraftModel):
  """Trees whose shape depends on what the net says; see `GrownDraftModel`.

  Attributes:
    model: a `models.feature_model.FeatureModel`.
  """

  def __post_init__(self):
    super().__post_init__()
    if self.model.vocabulary and self.policy.draw in types.RANDOM_DRAWS:
      raise ValueError(
          f"policy={self.policy} draws at random, the vocabulary of the draft"
          f" is that of part {self.model.vocabulary!r}; expected a policy of"
          " most likely tokens.")

  @property
  def drawn(self) -> str:
    return self.policy.draw

  def grow_below(self, params, state, cache, ctx, sampling, root, most):
    fresh = self.model.empty_scratch(ctx.root.shape[0], self.num_fed)
    return self.grow(params, fresh, cache, ctx, sampling, root,
                     self.model.token_ids(params), most)[0], state


@dataclasses.dataclass(frozen=True)
class PredictedFeatureDrafter(GrownFeatureDrafter):
  """Drafts as many levels as are predicted from the last true feature.

  Attributes:
    predictor: maps embedding and feature of the token before the root to a
      number of levels, a `controllers.length_predictor.LengthPredictor`.
    part: the name of its parameters.
  """

  predictor: Any = None
  part: str = ""

  def most(self, params, state, ctx):
    last = jnp.maximum(state.count - 1, 0)[:, None]
    feature = jnp.take_along_axis(state.features, last[:, :, None], axis=1)
    before = jnp.take_along_axis(
        ctx.tokens, jnp.maximum(ctx.length - 2, 0)[:, None], axis=1)
    predicted = self.predictor.apply(
        {"params": params[self.part]},
        self.model.target.embed(params["target"], before), feature)[:, 0]
    return jnp.clip(jnp.round(predicted).astype(jnp.int32), 0, self.depth)


@dataclasses.dataclass(frozen=True)
class StaticFeatureDrafter(StablePart, draft_model.DraftModel):
  """Trees of one shape; see `draft_model.DraftModel`.

  Attributes:
    model: a `models.feature_model.FeatureModel`.
  """

  def __post_init__(self):
    super().__post_init__()
    if self.model.vocabulary:
      raise ValueError(
          f"the vocabulary of the draft is that of part"
          f" {self.model.vocabulary!r}, expected all tokens.")

  @property
  def drawn(self) -> str:
    return self.draw

  def grow_below(self, params, state, cache, ctx, sampling, root, most):
    del most
    return self.grow(params, cache, ctx, sampling, root)[0], state
