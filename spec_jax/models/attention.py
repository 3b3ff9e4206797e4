"""Attention of fresh tokens over a committed prefix and over each other.

The only place where a kernel plugs in. Axes: B rows, T fresh tokens, K
key/value heads, G query heads per key/value head, C head size, S cache slots,
P in-flight tokens of earlier calls, F = P + T.
"""

import chex
import jax
import jax.numpy as jnp

from spec_jax.kernels import tree_attention


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


def two_segment_attention(
    queries: jax.Array,
    fresh_keys: jax.Array,
    fresh_values: jax.Array,
    fresh_mask: jax.Array,
    prefix: tree_attention.Prefix | None,
    positions: jax.Array,
    window: int = 0,
    softcap: float = 0.0,
    backend: str = "auto",
) -> jax.Array:
  """One softmax over the prefix and the fresh tokens together.

  Args:
    queries: `[B, K, T, G, C]`, already scaled.
    fresh_keys: `[B, K, F, C]`.
    fresh_values: `[B, K, F, C]`.
    fresh_mask: `bool[B, T, F]`, True where a query may look.
    prefix: committed keys and values, or None.
    positions: `i32[B, T]` of the queries.
    window: a query sees a slot of the prefix iff it is less than this many
      tokens away; 0 = unlimited.
    softcap: tanh cap on the scores, 0 for none.
    backend: who computes, see `kernels.backend.BACKENDS`.

  Returns:
    `[B, K, T, G, C]` in the dtype of `queries`.
  """
  chex.assert_rank([queries, fresh_keys, fresh_values, fresh_mask],
                   [5, 4, 4, 3])
  if prefix is None:
    fresh = (fresh_keys, fresh_values, fresh_mask)
    return tree_attention.attend_segments(queries, [fresh], softcap)[0]
  return tree_attention.tree_attention(
      queries, fresh_keys, fresh_values, fresh_mask, prefix, positions,
      tree_attention.Options(window, softcap), backend)[0]
