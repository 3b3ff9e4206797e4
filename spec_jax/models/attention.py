"""Attention of fresh tokens over a committed prefix and over each other.

The only place where a kernel plugs in. Axes: B rows, T fresh tokens, K
key/value heads, G query heads per key/value head, C head size, S cache slots,
P in-flight tokens of earlier calls, F = P + T.
"""

import chex
import jax
import jax.numpy as jnp

# Finite, so that a row whose every key is masked yields a mean instead of NaN.
_MASKED = -1e30


def rope_frequencies(head_dim, theta, scaling) -> jax.Array:
  """Rotary frequencies `f32[C/2]` (RoFormer, eq. 15; Llama 3 scaling)."""
  exponents = jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim
  frequencies = 1.0 / (jnp.float32(theta) ** exponents)
  if scaling is None:
    return frequencies
  wavelengths = 2 * jnp.pi / frequencies
  periods = scaling.original_max_positions / wavelengths
  blend = jnp.clip(
      (periods - scaling.low_freq_factor)
      / (scaling.high_freq_factor - scaling.low_freq_factor), 0.0, 1.0)
  return frequencies * (blend + (1 - blend) / scaling.factor)


def rotate(x: jax.Array, angles: jax.Array) -> jax.Array:
  """Rotates the two halves of the last axis of `x` by `angles`.

  Args:
    x: `[B, T, ..., C]`.
    angles: `f32[B, T, C/2]`, positions times frequencies.
  """
  shape = angles.shape[:2] + (1,) * (x.ndim - 3) + angles.shape[2:]
  cos, sin = (f(angles).reshape(shape) for f in (jnp.cos, jnp.sin))
  first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  rotated = jnp.concatenate(
      [first * cos - second * sin, second * cos + first * sin], axis=-1)
  return rotated.astype(x.dtype)


def _scores(queries, keys, mask, softcap):
  # Keys first: as the right-hand side XLA would transpose them in memory, the
  # whole cache in every forward. What is transposed now are the scores.
  scores = jnp.einsum(
      "bksc,bktgc->bkstg", keys, queries, preferred_element_type=jnp.float32)
  scores = jnp.moveaxis(scores, 2, -1)
  if softcap:
    scores = softcap * jnp.tanh(scores / softcap)
  return jnp.where(mask[:, None, :, None, :], scores, _MASKED)


def two_segment_attention(
    queries: jax.Array,
    fresh_keys: jax.Array,
    fresh_values: jax.Array,
    fresh_mask: jax.Array,
    prefix: tuple[jax.Array, jax.Array, jax.Array] | None = None,
    softcap: float = 0.0,
) -> jax.Array:
  """One softmax over the prefix and the fresh tokens together.

  Args:
    queries: `[B, K, T, G, C]`, already scaled.
    fresh_keys: `[B, K, F, C]`.
    fresh_values: `[B, K, F, C]`.
    fresh_mask: `bool[B, T, F]`, True where a query may look.
    prefix: committed keys and values `[B, K, S, C]` and `bool[B, T, S]`.
    softcap: tanh cap on the scores, 0 for none.

  Returns:
    `[B, K, T, G, C]` in the dtype of `queries`.
  """
  chex.assert_rank([queries, fresh_keys, fresh_values, fresh_mask],
                   [5, 4, 4, 3])
  segments = [(fresh_keys, fresh_values, fresh_mask)]
  if prefix is not None:
    segments.append(prefix)
  scores = [_scores(queries, keys, mask, softcap) for keys, _, mask in segments]
  top = scores[0].max(-1)
  for score in scores[1:]:
    top = jnp.maximum(top, score.max(-1))
  weights = [jnp.exp(score - top[..., None]) for score in scores]
  total = sum(weight.sum(-1) for weight in weights)
  outputs = sum(
      jnp.einsum("bktgs,bksc->bktgc", weight.astype(values.dtype), values,
                 preferred_element_type=jnp.float32)
      for weight, (_, values, _) in zip(weights, segments))
  return (outputs / total[..., None]).astype(queries.dtype)
