"""Trains nets that guess blocks of features, by glancing distillation.

Falcon (Gao et al. 2024, arXiv 2412.12639), Sec. 3.1: where a first pass is
wrong, a share of the answers is shown to a second one, features and tokens
alike, and the second pass learns the others. So what the guesses of a block owe
to each other is learnt although they are made at once. The share falls over the
training, and at its end nothing is shown, as in decoding.
"""

from collections.abc import Callable
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from spec_jax.core import types
from spec_jax.models import block_model
from spec_jax.models import block_net
from spec_jax.models import feature_model
from spec_jax.training import columns
from spec_jax.training import features as features_lib
from spec_jax.training import loop
from spec_jax.training import recorded

_WANTED = "final"


@dataclasses.dataclass(frozen=True)
class BlockRecipe(features_lib.FeatureRecipe):
  """How a block net is trained; see `FeatureRecipe` for the rest.

  Attributes:
    glance: share of wrong guesses whose answers are shown in the first step;
      it falls to 0, see `shown_share`.
    hard_weight: share of the most likely token, beside the whole law, in the
      law's part of the loss.
  """

  glance: float = 0.4
  hard_weight: float = 0.1


def read_text(model: block_model.BlockModel, params: Any, tokens: jax.Array,
              features: jax.Array, offset: Any, **kwargs) -> types.ModelOut:
  """What the net says of all pairs of texts, blocks beginning at `offset`.

  Args:
    model: the net.
    params: by part.
    tokens: `i32[B, W]`, of the pairs.
    features: `f[B, W, E]`, of the token before each.
    offset: of the first whole block, from 0 to k - 1; may be traced.
    **kwargs: of `BlockModel.read`.

  Returns:
    Logits `f32[B, W, V]` of the token k behind each pair's, and the same of
    what else is said.
  """
  batch, width = tokens.shape
  mask = block_net.relaxed_mask(width, model.block, offset)
  out = model.read(
      params, tokens[:, None], features[:, None], jnp.broadcast_to(
          jnp.arange(width, dtype=jnp.int32)[None], (batch, width)),
      jnp.broadcast_to(mask, (batch, width, width)), **kwargs)
  first = lambda a: a[:, 0]
  logits = None if out.logits is None else first(out.logits)
  return types.ModelOut(logits, out.fresh, jax.tree.map(first, out.taps))


def shown_share(options: BlockRecipe, step: jax.Array | int) -> jax.Array:
  """`glance * (E - e) / E` after e of E steps (Sec. 3.1: epochs)."""
  left = jnp.asarray(options.num_steps - step, jnp.float32)
  return options.glance * jnp.maximum(left, 0) / options.num_steps


def shown(key: jax.Array, is_wrong: jax.Array, block: int, share: jax.Array
          ) -> jax.Array:
  """Which answers are shown to the second pass, `bool[B, W]`.

  Of each text `round(share * wrong / k)` runs of k places, if there are so
  many, drawn among those that begin k apart from a random place on.

  Args:
    key: of the draws.
    is_wrong: `bool[B, W]`.
    block: k.
    share: of the wrong guesses.
  """
  batch, width = is_wrong.shape
  start_key, order_key = jax.random.split(key)
  start = jax.random.randint(start_key, (batch, 1), 0, block)
  # Places before the first run are those of run 0, which there is not.
  run = (jnp.arange(width)[None] + block - start) // block
  runs = jnp.arange(width // block + 2)[None]
  exists = (runs > 0) & (start + runs * block <= width)
  order = jnp.where(exists, jax.random.uniform(order_key, exists.shape), 2.0)
  rank = jnp.argsort(jnp.argsort(order, axis=1), axis=1)
  most = jnp.round(
      share * is_wrong.astype(jnp.float32).sum(1) / block).astype(jnp.int32)
  return (exists & (rank < most[:, None]))[jnp.arange(batch)[:, None], run]


def objective(options: BlockRecipe, model: block_model.BlockModel, params: Any,
              frozen: Any, tokens: jax.Array, key: jax.Array,
              step: jax.Array | int
              ) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Loss and metrics of windows `i32[B, T]`, after so many steps."""
  known = {**frozen, model.part: {**frozen.get(model.part, {}), **params}}
  truth = recorded.said(
      model.target, known, tokens, features_lib.reads(model).taps)
  taps = truth.taps
  features, width = model.enter(known, taps), tokens.shape[1] - 1
  noise_key, offset_key, shown_key = jax.random.split(key, 3)
  ahead = lambda array: columns.shifted(array, model.block, width)
  p_logits = ahead(truth.logits)
  best = jnp.argmax(p_logits, axis=-1)
  is_real = jnp.broadcast_to(
      (jnp.arange(width) <= width - model.block)[None], best.shape)
  given, read = tokens[:, 1:], features[:, :-1]
  if options.noise:
    read += jax.random.uniform(
        noise_key, read.shape, read.dtype, -options.noise, options.noise)
  offset = jax.random.randint(offset_key, (), 0, model.block)
  share = shown_share(options, step)
  if options.glance:
    first = jax.lax.stop_gradient(
        read_text(model, known, given, read, offset).logits)
    is_wrong = (jnp.argmax(first, axis=-1) != best) & is_real
    # The last answer has no token behind it.
    is_shown = shown(shown_key, is_wrong, model.block, share) & (
        jnp.arange(width) < width - model.block)[None]
    given = jnp.where(is_shown, columns.shifted(
        tokens, model.block + 1, width), given)
    read = jnp.where(is_shown[:, :, None], ahead(features), read)
    is_real &= ~is_shown
  out = read_text(model, known, given, read, offset)
  parts = features_lib.step_losses(
      options, model, known, out, p_logits, ahead(taps[_WANTED]), is_real)
  hard = optax.softmax_cross_entropy_with_integer_labels(out.logits, best)
  parts["hard"] = jnp.where(is_real, hard, 0).sum() / jnp.maximum(
      is_real.sum(), 1)
  total = options.feature_weight * parts["feature"] + options.law_weight * (
      (1 - options.hard_weight) * parts["law"]
      + options.hard_weight * parts["hard"])
  return total, parts | {"shown_share": share}


def recipe(options: BlockRecipe, model: block_model.BlockModel) -> loop.Recipe:
  """For `loop.fit`; `frozen` are all other parts' parameters, by part."""
  model = features_lib.in_dtype(model, options.dtype)
  return dataclasses.replace(
      features_lib.recipe(options, model), wants_step=True,
      loss=lambda params, frozen, tokens, key, step: objective(
          options, model, params, frozen, tokens, key, step))


def accepted(model: block_model.BlockModel, params: Any, tokens: jax.Array,
             depth: int) -> jax.Array:
  """As `columns.accepted`: chains of `depth` drafts from every column.

  Columns with fewer than k pairs draft nothing.
  """
  own, block = params["target"], model.block
  text = model.target.score(own, tokens, taps=model.taps)
  batch, width = tokens.shape[0], tokens.shape[1] - 1
  entered = model.enter(params, text.taps)
  known = read_text(model, params, tokens[:, 1:], entered[:, :-1], 0,
                    with_logits=False)
  # By column and place the last k pairs of the text up to the column.
  ends = jnp.arange(width, dtype=jnp.int32)
  pairs = ends[:, None] - block + 1 + jnp.arange(block)[None]
  at = jnp.maximum(pairs, 0)
  read, hidden = tokens[:, at + 1], entered[:, at]
  before = jnp.maximum(ends - block, 0)
  memory = jnp.where(
      (ends >= block)[None, :, None, None, None],
      known.taps[block_net.MEMORY][:, before], 0)
  sees = columns.seen(width, width, 1, -block)
  drafts, past = [], known.fresh
  for step in range(-(-depth // block)):
    # Each key behind the text's stands for the k pairs of a block.
    mask = jnp.repeat(jnp.concatenate(
        [sees[:, :, :width], jnp.repeat(sees[:, :, width:], block, axis=2)],
        axis=2), block, axis=1)
    out = model.read(
        params, read, hidden, jnp.broadcast_to(
            (pairs + step * block).reshape(1, -1), (batch, width * block)),
        jnp.broadcast_to(mask, (batch,) + mask.shape[1:]), memory=memory,
        past=past)
    read = columns.best_tokens(model, params, out.logits)
    drafts += [read[:, :, place] for place in range(block)]
    hidden = out.taps[feature_model.HIDDEN]
    memory = out.taps[block_net.MEMORY][:, :, -1]
    # The pairs of the first block are the text's own.
    past = known.fresh if not step else past.then(out.fresh)
    sees = columns.seen(width, width, step + 1, 0)
  hits = columns.judged(model.target, own, text, drafts[:depth], 1)
  return hits & (ends >= block - 1)[None, :, None]


def evaluator(options: BlockRecipe, model: block_model.BlockModel, frozen: Any,
              windows: np.ndarray
              ) -> Callable[[Any], dict[str, float]]:
  """As `training.features.evaluator`."""
  return features_lib.evaluator(options, model, frozen, windows, accepted)
