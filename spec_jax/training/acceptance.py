"""Trains heads that predict whether a drafted token will be accepted.

On texts of the target; at every position the draft draws a token, whose label
is min(1, p/q). In SpecDec++ (Huang et al. 2025, arXiv 2405.19715) the draft
model reads those draws, among which a share of the target's tokens is mixed,
and the head judges each draw from the features after it; elsewhere (Lu et al.
2024, arXiv 2409.10644) from the features it was drawn with. Target and draft
stay as they are.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from spec_jax.controllers import learned
from spec_jax.training import loop
from spec_jax.training import recorded


@dataclasses.dataclass(frozen=True)
class AcceptanceRecipe:
  """How a head is trained.

  Attributes:
    network: the head, features to two log-probabilities.
    is_ahead: whether it judges from the features that a token is drawn with.
    num_steps: optimiser steps.
    batch: windows per step.
    length: tokens per window.
    own_windows: windows that the target writes; the training data.
    learning_rate: peak; falls to 0 along a cosine.
    mix: share of the target's tokens among those the draft model reads.
    mismatch_weight: of rejections in the loss.
    temperature: of target and draft.
  """

  network: nn.Module = learned.AcceptanceHead()
  is_ahead: bool = False
  num_steps: int = 300
  batch: int = 8
  length: int = 128
  own_windows: int = 256
  learning_rate: float = 2e-3
  mix: float = 0.15
  mismatch_weight: float = 6.0
  temperature: float = 1.0

  @property
  def hyper(self) -> dict[str, Any]:
    """What a bundle keeps of it: the head's own."""
    return {field.name: getattr(self.network, field.name)
            for field in dataclasses.fields(self.network)
            if field.name not in ("parent", "name")}


def recipe(options: AcceptanceRecipe, target, draft) -> loop.Recipe:
  """For `loop.fit`; `frozen` is `{"target": params, "draft": params}`."""
  head, width = options.network, draft.config.d_model

  def init(key):
    return head.init(key, jnp.zeros((1, width)))["params"]

  def loss(params, frozen, tokens, key):
    features, accept, is_draw = examples(
        options, target, draft, frozen, tokens, key)
    log_probs = head.apply({"params": params}, features)
    return weighted_loss(log_probs, accept, is_draw,
                         options.mismatch_weight), {
        "divergence": divergence(log_probs, accept, is_draw)}

  schedule = optax.warmup_cosine_decay_schedule(
      0.0, options.learning_rate, max(1, options.num_steps // 30),
      options.num_steps)
  return loop.Recipe(
      init, loss, optax.adam(schedule), recorded.Reads(target, ()))


def examples(options: AcceptanceRecipe, target, draft, frozen: Any,
             tokens: jax.Array, key: jax.Array
             ) -> tuple[jax.Array, jax.Array, jax.Array]:
  """What the head sees and should say.

  Args:
    options: gives mixing and temperature.
    target: a model with `score`.
    draft: the same.
    frozen: their parameters by name.
    tokens: `i32[B, T]`, text of the target.
    key: of the draws.

  Returns:
    Features `[B, T - 1, E]` after each token but the first, or with which it
    was drawn, `f32[B, T - 1]` the probability with which that token is
    accepted, and `bool[B, T - 1]`, whether it counts: the draft drew it.
  """
  draw_key, mix_key = jax.random.split(key)
  law = lambda out: out.logits[:, :-1] / options.temperature
  p_logits = law(recorded.said(target, frozen, tokens, ()))
  q_logits = law(draft.score(frozen["draft"], tokens))
  drawn = jax.random.categorical(draw_key, q_logits).astype(jnp.int32)
  log_prob = lambda logits: jnp.take_along_axis(
      jax.nn.log_softmax(logits), drawn[:, :, None], axis=2)[:, :, 0]
  accept = jnp.exp(jnp.minimum(log_prob(p_logits) - log_prob(q_logits), 0))
  if options.is_ahead:
    taps = draft.score(frozen["draft"], tokens, taps=("final",),
                       with_logits=False).taps
    return taps["final"][:, :-1], accept, jnp.ones(drawn.shape, bool)
  is_draw = ~jax.random.bernoulli(mix_key, options.mix, drawn.shape)
  read = jnp.where(is_draw, drawn, tokens[:, 1:])
  read = jnp.concatenate([tokens[:, :1], read], axis=1)
  taps = draft.score(frozen["draft"], read, taps=("final",),
                     with_logits=False).taps
  return taps["final"][:, 1:], accept, is_draw


def weighted_loss(log_probs: jax.Array, accept: jax.Array, is_draw: jax.Array,
                  mismatch_weight: float) -> jax.Array:
  """Cross-entropy with soft labels, rejections weighted.

  Args:
    log_probs: `f32[..., 2]`, of rejection and acceptance.
    accept: `f32[...]`, probability of acceptance.
    is_draw: `bool[...]`; other positions do not count.
    mismatch_weight: w.
  """
  reject = mismatch_weight * (1 - accept)
  entropy = -(reject * log_probs[..., 0] + accept * log_probs[..., 1])
  counted = lambda a: jnp.where(is_draw, a, 0).sum()
  return counted(entropy) / counted(reject + accept)


def divergence(log_probs: jax.Array, accept: jax.Array, is_draw: jax.Array
               ) -> jax.Array:
  """Mean KL of the prediction from the soft label, in nats."""
  safe = lambda a: jnp.log(jnp.maximum(a, jnp.finfo(jnp.float32).tiny))
  terms = (accept * (safe(accept) - log_probs[..., 1])
           + (1 - accept) * (safe(1 - accept) - log_probs[..., 0]))
  return jnp.where(is_draw, terms, 0).sum() / is_draw.sum()


def evaluator(options: AcceptanceRecipe, target, draft, frozen: Any,
              windows: np.ndarray):
  """`params -> metrics` on held-out text of the target, `u16[n, length]`.

  "divergence" is the head's, with the weights that the loss puts on rejections
  undone; "constant" that of the best prediction that looks at nothing.
  """
  head = options.network
  weight = jnp.asarray([1 / options.mismatch_weight, 1.0])

  @jax.jit
  def measure(params, frozen, tokens):
    features, accept, is_draw = examples(
        options, target, draft, frozen, tokens, jax.random.key(0))
    log_probs = jax.nn.log_softmax(
        head.apply({"params": params}, features)
        + jnp.log(weight)[None, None])
    mean = jnp.where(is_draw, accept, 0).sum() / is_draw.sum()
    constant = jnp.log(jnp.stack([1 - mean, mean]))
    return {"divergence": divergence(log_probs, accept, is_draw),
            "constant": divergence(constant, accept, is_draw),
            "acceptance": mean}

  return lambda params: {
      key: float(value) for key, value in measure(
          params, frozen, windows.astype(np.int32)).items()}
