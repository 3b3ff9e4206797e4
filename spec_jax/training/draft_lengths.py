"""Trains AdaEAGLE's predictor of how many drafts will be accepted.

Zhang et al. 2024, arXiv 2412.18910. Target and draft stay as they are; the
label of a token is the number of greedy drafts behind it that a target which
decodes greedily accepts, counted on-line from every column of a text at once.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from spec_jax.controllers import length_predictor
from spec_jax.models import feature_model
from spec_jax.training import columns
from spec_jax.training import loop
from spec_jax.training import optimizers


@dataclasses.dataclass(frozen=True)
class LengthRecipe:
  """How the predictor is trained.

  Attributes:
    network: the predictor.
    depth: drafts of a chain, of which the accepted are counted.
    num_steps: optimiser steps.
    batch: windows per step.
    length: tokens per window.
    own_windows: windows that the target writes; the training data.
    judged_windows: of held-out text, continued by the target.
    optimizer: by `optimizers.BY_NAME`; the paper's is "cosine".
    learning_rate: peak; falls to 0 over all of the steps.
    short_weight: of an error towards too few drafts, over one towards too
      many.
  """

  network: nn.Module = length_predictor.LengthPredictor()
  depth: int = 6
  num_steps: int = 120
  batch: int = 4
  length: int = 128
  own_windows: int = 512
  judged_windows: int = 16
  optimizer: str = "adam"
  learning_rate: float = 1e-3
  short_weight: float = 2.0

  def __post_init__(self):
    optimizers.check(self.optimizer)

  @property
  def hyper(self) -> dict[str, Any]:
    """What a bundle keeps of it."""
    return {"num_blocks": self.network.num_blocks}


def examples(model: feature_model.FeatureModel, params: Any,
             tokens: jax.Array, depth: int
             ) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Embeddings and features `[B, T - 1, E]` of tokens, and `f32[B, T - 1]`,
  how many drafts behind the token after each are accepted.

  Args:
    model: the draft.
    params: by part.
    tokens: `i32[B, T]`.
    depth: drafts of a chain.
  """
  out = model.target.score(
      params["target"], tokens, taps=model.taps, with_logits=False)
  labels = columns.accepted(model, params, tokens, depth).sum(-1)
  return (model.target.embed(params["target"], tokens)[:, :-1],
          model.enter(params, out.taps)[:, :-1], labels.astype(jnp.float32))


def asymmetric(predicted: jax.Array, labels: jax.Array, short_weight: float
               ) -> jax.Array:
  """Mean absolute error, weighted where too little is predicted."""
  gap = jnp.abs(predicted - labels)
  return jnp.where(predicted < labels, short_weight * gap, gap).mean()


def decoded(predicted: jax.Array, labels: jax.Array, depth: int
            ) -> dict[str, jax.Array]:
  """What rounds from all prefixes give that draft as far as is predicted.

  Args:
    predicted: `f32[B, W]`; so many drafts are made, rounded, within the depth.
    labels: `f32[B, W]`, of `depth` drafts how many would be accepted.
    depth: D.

  Returns:
    "accept_d" for d from 1 to D, share of prefixes at which a draft d is made
    and accepted; "tokens_per_call", one more than their sum; "wasted", drafts
    of a round that are made in vain; "missed", drafts that would have been
    accepted and are not made.
  """
  made = jnp.clip(jnp.round(predicted), 0, depth)
  taken = jnp.minimum(made, labels)
  return {f"accept_{d}": (taken >= d).mean() for d in range(1, depth + 1)} | {
      "tokens_per_call": 1 + taken.mean(), "wasted": (made - taken).mean(),
      "missed": (labels - taken).mean()}


def recipe(options: LengthRecipe, model: feature_model.FeatureModel
           ) -> loop.Recipe:
  """For `loop.fit`; `frozen` are the draft's and the target's, by part."""
  one = jnp.zeros((1, model.config.d_model))

  def loss(params, frozen, tokens, key):
    del key
    embeds, features, labels = jax.lax.stop_gradient(
        examples(model, frozen, tokens, options.depth))
    predicted = options.network.apply({"params": params}, embeds, features)
    return asymmetric(predicted, labels, options.short_weight), {
        "label": labels.mean(), "bias": (predicted - labels).mean()}

  return loop.Recipe(
      lambda key: options.network.init(key, one, one)["params"], loss,
      optimizers.BY_NAME[options.optimizer](
          options.learning_rate, options.num_steps,
          warmup=max(1, options.num_steps // 20), decay=0.95))


def evaluator(options: LengthRecipe, model: feature_model.FeatureModel,
              frozen: Any, windows: np.ndarray):
  """`params -> metrics` on held-out windows `u16[n, length]`.

  "error" is the mean absolute error of the predictor, "constant" that of the
  best prediction that looks at nothing, the median; the rest as of `decoded`.
  """

  @jax.jit
  def measure(params, frozen, tokens):
    embeds, features, labels = examples(model, frozen, tokens, options.depth)
    predicted = options.network.apply({"params": params}, embeds, features)
    return {"error": jnp.abs(predicted - labels).mean(),
            "constant": jnp.abs(labels - jnp.median(labels)).mean()
            } | decoded(predicted, labels, options.depth)

  return lambda params: {
      key: float(value) for key, value in measure(
          params, frozen, windows.astype(np.int32)).items()}
