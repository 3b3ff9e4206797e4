"""Losses on logits, each a mean over tokens in nats."""

from collections.abc import Sequence

import chex
import jax
import jax.numpy as jnp
import optax


def next_token(logits: jax.Array, tokens: jax.Array) -> jax.Array:
  """Cross-entropy of `tokens[:, 1:]` under `logits[:, :-1]`."""
  chex.assert_rank([logits, tokens], [3, 2])
  return optax.softmax_cross_entropy_with_integer_labels(
      logits[:, :-1], tokens[:, 1:]).mean()


def forward_kl(p_logits: jax.Array, q_logits: jax.Array) -> jax.Array:
  """KL(p || q), p the teacher (DistillSpec, Sec. 3.2: forward KL).

  Tokens that p cannot draw, such as a vocabulary's padding, add nothing.
  """
  p_log = jax.nn.log_softmax(p_logits)
  q_log = jax.nn.log_softmax(q_logits)
  ratio = jnp.where(p_log > -jnp.inf, p_log - q_log, 0)
  return (jnp.exp(p_log) * ratio).sum(-1).mean()


def total_variation(p_logits: jax.Array, q_logits: jax.Array) -> jax.Array:
  """TV(p, q) = 1 - acceptance of single-draft rejection at temperature 1."""
  return _distance(p_logits, q_logits).mean()


def _distance(p_logits, q_logits):
  p, q = jax.nn.softmax(p_logits), jax.nn.softmax(q_logits)
  return 0.5 * jnp.abs(p - q).sum(-1)


def rejection(p_logits: jax.Array, q_logits: jax.Array,
              temperatures: Sequence[float] = (0.5, 1.0)) -> jax.Array:
  """How often single-draft rejection turns a draft down, over temperatures.

  1 - acceptance is the total variation of the two laws (DistillSpec, Sec. 3.1;
  Direct Alignment, Sec. 3.3). Its gradient vanishes where q gives next to
  nothing to what p draws: for drafts that imitate p already. A temperature
  below 1 asks for the likeliest tokens, which is what counts at 0.
  """
  return refusals(p_logits, q_logits, temperatures).mean()


def refusals(p_logits: jax.Array, q_logits: jax.Array,
             temperatures: Sequence[float] = (0.5, 1.0)) -> jax.Array:
  """The same of each token, `f32[...]`; see `rejection`."""
  return jnp.mean(jnp.stack([
      _distance(p_logits / t, q_logits / t) for t in temperatures]), axis=0)


def agreement(p_logits: jax.Array, q_logits: jax.Array) -> jax.Array:
  """How often the most likely tokens coincide: acceptance at temperature 0."""
  same = jnp.argmax(p_logits, -1) == jnp.argmax(q_logits, -1)
  return same.astype(jnp.float32).mean()
