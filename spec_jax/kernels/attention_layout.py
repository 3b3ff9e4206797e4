"""What the attention kernels of both platforms share: packing and joining."""

import jax
import jax.numpy as jnp

# Finite in place of minus infinity: differences of two stay numbers, and a
# query whose every key is masked yields a mean instead of NaN.
MASKED = -1e30
WORD = 32  # Mask bits per word.


def pack_mask(mask: jax.Array, num_keys: int) -> jax.Array:
  """`bool[B, T, F]` -> `i32[B, T, num_keys / 32]`; bit j of word w is 32w + j.

  Args:
    mask: True where a query may look.
    num_keys: at least F, a multiple of 32; keys beyond F are hidden.
  """
  batch, num_queries, num_fresh = mask.shape
  mask = jnp.pad(mask, ((0, 0), (0, 0), (0, num_keys - num_fresh)))
  bits = mask.reshape(batch, num_queries, num_keys // WORD, WORD)
  shifts = jnp.arange(WORD, dtype=jnp.uint32).reshape(1, 1, 1, WORD)
  words = (bits.astype(jnp.uint32) << shifts).sum(-1, dtype=jnp.uint32)
  return jax.lax.bitcast_convert_type(words, jnp.int32)


def flatten_queries(queries: jax.Array, num_rows: int) -> jax.Array:
  """`[B, K, T, G, C]` -> `[B, K, num_rows, C]`, zeros behind the T * G."""
  batch, heads, num_queries, groups, size = queries.shape
  flat = queries.reshape(batch, heads, num_queries * groups, size)
  extra = num_rows - num_queries * groups
  return jnp.pad(flat, ((0, 0), (0, 0), (0, extra), (0, 0)))


def repeat_rows(values: jax.Array, groups: int, num_rows: int) -> jax.Array:
  """Per token `[B, T, ...]` -> per query row `[B, num_rows, ...]`."""
  rows = jnp.repeat(values, groups, axis=1)
  extra = num_rows - rows.shape[1]
  return jnp.pad(rows, ((0, 0), (0, extra)) + ((0, 0),) * (rows.ndim - 2))


def pad_keys(keys: jax.Array, multiple: int) -> jax.Array:
  """Fresh keys or values `[B, K, F, C]` with F a multiple."""
  extra = -keys.shape[2] % multiple
  return jnp.pad(keys, ((0, 0), (0, 0), (0, extra), (0, 0)))


def join(outputs: jax.Array, log_sums: jax.Array
         ) -> tuple[jax.Array, jax.Array]:
  """Joins partial softmaxes over disjoint keys, which lie along axis 2.

  Args:
    outputs: `f32[B, K, P, R, C]`, each normalised by itself.
    log_sums: `f32[B, K, P, R]`, log-sum-exp of the scores of each part;
      `MASKED` where a part saw nothing.

  Returns:
    `f32[B, K, R, C]` and `f32[B, K, R]`.
  """
  if outputs.shape[2] == 1:
    return outputs[:, :, 0], log_sums[:, :, 0]
  top = log_sums.max(2)
  weights = jnp.exp(log_sums - top[:, :, None])
  total = weights.sum(2)
  mixed = (outputs * weights[..., None]).sum(2) / total[..., None]
  return mixed, top + jnp.log(total)


def unflatten(outputs: jax.Array, log_sums: jax.Array, like: jax.Array
              ) -> tuple[jax.Array, jax.Array]:
  """From query rows `[B, K, R, ...]` back to `[B, K, T, G, ...]` of `like`."""
  num_rows = like.shape[2] * like.shape[3]
  out = outputs[:, :, :num_rows].reshape(like.shape).astype(like.dtype)
  return out, log_sums[:, :, :num_rows].reshape(like.shape[:-1])


def visible_range(prefix, positions: jax.Array, window: int
                  ) -> tuple[jax.Array, jax.Array]:
  """The slots `[start, end)` that some query of a row sees, `i32[B]` each."""
  end = jnp.minimum(prefix.length, prefix.capacity).astype(jnp.int32)
  if not window:
    return jnp.zeros_like(end), end
  oldest = positions.min(-1).astype(jnp.int32)
  return jnp.clip(oldest - window + 1, 0, end), end
