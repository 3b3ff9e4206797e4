"""Losses on logits, each a mean over tokens in nats."""

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
  p, q = jax.nn.softmax(p_logits), jax.nn.softmax(q_logits)
  return 0.5 * jnp.abs(p - q).sum(-1).mean()


def agreement(p_logits: jax.Array, q_logits: jax.Array) -> jax.Array:
  """How often the most likely tokens coincide: acceptance at temperature 0."""
  same = jnp.argmax(p_logits, -1) == jnp.argmax(q_logits, -1)
  return same.astype(jnp.float32).mean()
