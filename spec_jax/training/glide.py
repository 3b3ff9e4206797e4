"""Trains GliDe's model on text, beside a target that stays as it is.

Du et al. 2024 (arXiv 2402.02082), Sec. 3.1 and repository: next-token
cross-entropy. The text is cut into blocks; a token sees the target's keys and
values of earlier blocks, as a draft sees those of committed text. In the first
block, which has none before it, a token sees those up to itself.
"""

from collections.abc import Callable
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spec_jax.core import types
from spec_jax.models import contract
from spec_jax.models import glide
from spec_jax.training import columns
from spec_jax.training import loop
from spec_jax.training import losses
from spec_jax.training import optimizers
from spec_jax.training import part_recipe
from spec_jax.training import recorded


@dataclasses.dataclass(frozen=True)
class GlideRecipe(part_recipe.PartRecipe):
  """How the model is trained.

  Attributes, beside those of every part:
    block: tokens.
  """

  block: int = 5
  num_steps: int = 600
  learning_rate: float = 4e-3


def seen_in_blocks(length: int, block: int) -> jax.Array:
  """`bool[1, T, T]`, which tokens of the target each token sees."""
  tokens = jnp.arange(length)
  query, key = tokens[:, None], tokens[None]
  earlier = key // block < query // block
  return (earlier | ((query < block) & (key <= query)))[None]


def memory(out: types.ModelOut, mask: jax.Array) -> glide.Memory:
  """What a model may see of a target's forward; mask `bool[1, T, S]`."""
  keys, values = out.fresh.k[-1], out.fresh.v[-1]
  return glide.Memory(keys, values, jnp.broadcast_to(
      mask, keys.shape[:1] + mask.shape[1:]))


def recipe(options: GlideRecipe, target: contract.LinenModel) -> loop.Recipe:
  """For `loop.fit`; `frozen` is `{"target": params}`."""
  target = contract.decoder_model(target.config, options.dtype)
  model = glide.from_hyper(target, options.hyper)

  def loss(params, frozen, tokens, key):
    del key
    out = recorded.said(target, frozen, tokens, (), with_logits=False)
    seen = memory(out, seen_in_blocks(tokens.shape[1], options.block))
    return losses.next_token(
        model.score(params, tokens, seen).logits, tokens), {}

  return loop.Recipe(
      model.init, loss, optimizers.of_part(options),
      recorded.Reads(target, (), with_memory=True))


def accepted(model: glide.GlideModel, target: contract.LinenModel, params: Any,
             frozen: Any, tokens: jax.Array, depth: int) -> jax.Array:
  """Which greedy drafts a target that decodes greedily would accept.

  Args:
    model: the draft.
    target: the model.
    params: of the draft.
    frozen: of the target.
    tokens: `i32[B, T]`.
    depth: D, drafts after each prefix of 1, 2, ... tokens.

  Returns:
    `bool[B, T, D]`, whether draft d was accepted, those before included.
  """
  text = target.score(frozen, tokens)
  # The root's own keys and values are not there yet, whatever the step.
  places = jnp.arange(tokens.shape[1])
  seen = memory(text, (places[None] < places[:, None])[None])

  def feed(tokens, positions, mask, past, step):
    del step
    return model.forward(
        params, tokens, positions, mask, past=past, memory=seen)

  return columns.judged(
      target, frozen, text, columns.greedy(feed, tokens, depth), 0)


def evaluator(options: GlideRecipe, target: contract.LinenModel, frozen: Any,
              windows: np.ndarray) -> Callable[[Any], dict[str, float]]:
  """`params -> metrics` on held-out windows; see `columns.evaluator`."""
  model = glide.from_hyper(target, options.hyper)
  return columns.evaluator(
      lambda params, frozen, tokens: accepted(
          model, target, params, frozen["target"], tokens,
          options.judged_depth), frozen, windows)
