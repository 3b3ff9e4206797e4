"""Trains adapters behind a target's early exit on the target's own laws.

Kangaroo (Liu et al. 2024, arXiv 2404.18911, Sec. 3.2): cross-entropy from the
target's law at every token, nothing else; the target stays as it is. EESD (Liu
et al. 2024, arXiv 2406.03853) learns from text that the target wrote.
"""

from collections.abc import Callable
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from spec_jax.models import contract
from spec_jax.models import early_exit
from spec_jax.training import columns
from spec_jax.training import features
from spec_jax.training import loop
from spec_jax.training import optimizers
from spec_jax.training import part_recipe
from spec_jax.training import recorded


@dataclasses.dataclass(frozen=True)
class AdapterRecipe(part_recipe.PartRecipe):
  """How an adapter is trained.

  Attributes, beside those of every part:
    is_self_taught: whether all windows are the target's, else half of each
      batch.
  """

  is_self_taught: bool = False
  judged_depth: int = 6


def start(model: early_exit.EarlyExit, frozen: Any, key: jax.Array) -> Any:
  """Fresh parameters that read the stream out as the target's last norm does.

  `frozen` is `{"target": params}`.
  """
  params = features.near_identity(model.adapter.init(key))
  return {**params, "final_norm": frozen["target"]["final_norm"]}


def recipe(options: AdapterRecipe, model: early_exit.EarlyExit, frozen: Any
           ) -> loop.Recipe:
  """For `loop.fit`; `frozen` is `{"target": params}`."""
  model = _in_dtype(model, options.dtype)

  def loss(params, frozen, tokens, key):
    del key
    return objective(model, params, frozen, tokens)

  return loop.Recipe(
      lambda key: start(model, frozen, key), loss, optimizers.of_part(options),
      recorded.Reads(model.target, (model.exit_layer,)))


def _in_dtype(model, dtype):
  make = lambda part: contract.decoder_model(part.config, dtype)
  return dataclasses.replace(
      model, target=make(model.target), adapter=make(model.adapter))


def objective(model: early_exit.EarlyExit, params: Any, frozen: Any,
              tokens: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Cross-entropy from the target's laws of windows `i32[B, T]`, in nats."""
  exit_layer = model.exit_layer
  truth = recorded.said(model.target, frozen, tokens, (exit_layer,))
  out = model.adapter.score(
      params, tokens, embeds=truth.taps[exit_layer], taps=("final",),
      with_logits=False)
  logits = model.logits(frozen, out.taps["final"])
  loss = optax.safe_softmax_cross_entropy(logits, jax.nn.softmax(truth.logits))
  right = jnp.argmax(logits, -1) == jnp.argmax(truth.logits, -1)
  return loss.mean(), {"agreement": right.astype(jnp.float32).mean()}


def accepted(model: early_exit.EarlyExit, params: Any, tokens: jax.Array,
             depth: int) -> jax.Array:
  """Which greedy drafts a target that decodes greedily would accept.

  Args:
    model: the draft.
    params: by part.
    tokens: `i32[B, T]`.
    depth: D, drafts after each prefix of 1, 2, ... tokens.

  Returns:
    `bool[B, T, D]`, whether draft d was accepted, those before included.
  """

  def feed(tokens, positions, mask, past, step):
    del step
    out = model.forward(params, tokens, positions, mask, past=past)
    return out.replace(
        logits=model.logits(params, out.taps[early_exit.HIDDEN]))

  return columns.judged(
      model.target, params["target"],
      model.target.score(params["target"], tokens),
      columns.greedy(feed, tokens, depth), 0)


def evaluator(options: AdapterRecipe, model: early_exit.EarlyExit, frozen: Any,
              windows: np.ndarray) -> Callable[[Any], dict[str, float]]:
  """`params -> metrics` on held-out windows; see `columns.evaluator`."""
  return columns.evaluator(
      lambda params, frozen, tokens: accepted(
          model, {**frozen, model.part: params}, tokens, options.judged_depth),
      frozen, windows)
