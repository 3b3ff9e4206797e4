"""Trains Chimera's net on its own guesses, beside a target that stays.

Zeng et al. 2024 (arXiv 2402.15758), Sec. 3 and repository: squared distances of
the guesses to the target's features and of the logits to the target's, and
cross-entropy of the text's tokens, over steps whose later ones read the guesses
of earlier ones in place of features, from every token at once.
"""

from collections.abc import Callable
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from spec_jax.core import types
from spec_jax.models import chimera
from spec_jax.models import contract
from spec_jax.training import columns
from spec_jax.training import loop
from spec_jax.training import optimizers
from spec_jax.training import part_recipe
from spec_jax.training import recorded


@dataclasses.dataclass(frozen=True)
class ChimeraRecipe(part_recipe.PartRecipe):
  """How the net is trained.

  Attributes, beside those of every part:
    steps: of guessing, from each token.
    feature_weight: of the squared distance of features, a mean over width.
    logit_weight: of that of logits, a mean over the vocabulary.
    token_weight: of the cross-entropy, in nats.
  """

  steps: int = 4
  num_steps: int = 300
  batch: int = 8
  feature_weight: float = 1.0
  logit_weight: float = 0.01
  token_weight: float = 1.0


def run(model: chimera.ChimeraModel, params: Any, tokens: jax.Array,
        features: jax.Array, num_steps: int,
        choose_fn: Callable[[types.ModelOut], jax.Array] | None = None
        ) -> list[types.ModelOut]:
  """The net's forwards from every token, a list of steps.

  Column c starts with token c and the features of those before it; step j reads
  token c + j, or the one that was chosen.

  Args:
    model: the net.
    params: by part.
    tokens: `i32[B, T]`.
    features: `f[B, T, E]`, the target's.
    num_steps: n.
    choose_fn: `out -> i32[B, T]`, the token that follows; None for that of the
      text (0 behind its end).

  Returns:
    n outputs over T columns; those of step j say what follows token c + j.
  """
  batch, width = tokens.shape
  positions = jnp.broadcast_to(
      jnp.arange(width, dtype=jnp.int32)[None], (batch, width))
  delayed = lambda a, by: a[:, jnp.maximum(jnp.arange(width) - by, 0)]
  last = jnp.where(jnp.arange(width)[None, :, None] > 0,
                   delayed(features, 1), 0)
  told = model.first(params, jnp.stack(
      [delayed(tokens, 2), delayed(tokens, 1)], axis=2), last)
  past, current, outs = model.read(params, features, positions), tokens, []
  for step in range(num_steps):
    mask = columns.seen(width, width, step + 1, -1)
    out = model.forward(
        params, current, told, positions + step,
        jnp.broadcast_to(mask, (batch,) + mask.shape[1:]), past=past)
    outs.append(out)
    past, told = past.then(out.fresh), out.taps[chimera.HIDDEN]
    current = columns.shifted(tokens, step + 1, width) if (
        choose_fn is None) else choose_fn(out)
  return outs


def recipe(options: ChimeraRecipe, model: chimera.ChimeraModel, frozen: Any
           ) -> loop.Recipe:
  """For `loop.fit`; `frozen` is `{"target": params}`."""
  dtype = jnp.dtype(options.dtype)
  model = dataclasses.replace(
      model, net=model.net.clone(dtype=dtype),
      target=contract.decoder_model(model.target.config, dtype))

  def loss(params, frozen, tokens, key):
    del key
    return objective(options, model, params, frozen, tokens)

  return loop.Recipe(
      lambda key: model.start_as(model.init(key), frozen["target"]), loss,
      optimizers.of_part(options), recorded.Reads(model.target, ("final",)))


def objective(options: ChimeraRecipe, model: chimera.ChimeraModel, params: Any,
              frozen: Any, tokens: jax.Array
              ) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Loss and metrics of windows `i32[B, T]`, a mean over steps."""
  truth = recorded.said(model.target, frozen, tokens, ("final",))
  features = truth.taps["final"]
  outs = run(model, {**frozen, model.part: params}, tokens, features,
             options.steps)
  width, total, metrics = tokens.shape[1], 0.0, {}
  for step, out in enumerate(outs):
    # The last column has no token after it.
    is_real = jnp.arange(width) < width - step - 1
    mean = lambda a, where=is_real: (a * where[None]).sum() / (
        where.sum() * a.shape[0])
    parts = {name: mean(value) for name, value in step_losses(
        out, columns.shifted(features, step, width),
        columns.shifted(truth.logits, step, width),
        columns.shifted(tokens, step + 1, width)).items()}
    total += sum(getattr(options, f"{name}_weight") * value
                 for name, value in parts.items()) / options.steps
    metrics |= {f"{name}_{step + 1}": value for name, value in parts.items()}
  return total, metrics


def step_losses(out: types.ModelOut, features: jax.Array, p_logits: jax.Array,
                labels: jax.Array) -> dict[str, jax.Array]:
  """What a step loses in each column, `f32[B, T]` by name."""
  square = lambda a, b: jnp.square(
      a.astype(jnp.float32) - b.astype(jnp.float32))
  # Rows of padding have no logits on either side.
  is_token = jnp.isfinite(p_logits) & jnp.isfinite(out.logits)
  distance = jnp.where(is_token, square(
      jnp.where(is_token, out.logits, 0), jnp.where(is_token, p_logits, 0)), 0)
  return {
      "feature": square(out.taps[chimera.GUESS], features).mean(-1),
      "logit": distance.mean(-1),
      "token": optax.softmax_cross_entropy_with_integer_labels(
          out.logits, labels)}


def accepted(model: chimera.ChimeraModel, params: Any, tokens: jax.Array,
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
  best = lambda out: jnp.argmax(out.logits, axis=-1).astype(jnp.int32)
  text = model.target.score(params["target"], tokens, taps=("final",))
  outs = run(model, params, tokens, text.taps["final"], depth, best)
  return columns.judged(
      model.target, params["target"], text, list(map(best, outs)), 0)


def evaluator(options: ChimeraRecipe, model: chimera.ChimeraModel, frozen: Any,
              windows: np.ndarray) -> Callable[[Any], dict[str, float]]:
  """`params -> metrics` on held-out windows; see `columns.evaluator`."""
  return columns.evaluator(
      lambda params, frozen, tokens: accepted(
          model, {**frozen, model.part: params}, tokens, options.judged_depth),
      frozen, windows)
