"""A contiguous key/value cache with one length per row."""

from flax import struct
import jax
import jax.numpy as jnp

from spec_jax.core import types


@struct.dataclass
class DenseCache:
  """Committed keys and values; slot s of a row holds its token s.

  A forward pass only reads the cache. `commit` is the only write, so a
  rejected token never enters and nothing is rolled back or compacted.

  Attributes:
    k: per layer `[B, K, S, C]`.
    v: per layer `[B, K, S, C]`.
    length: `i32[B]`, committed tokens; slots beyond are never read.
  """

  k: tuple[jax.Array, ...]
  v: tuple[jax.Array, ...]
  length: jax.Array

  @property
  def capacity(self) -> int:
    return self.k[0].shape[2]

  def view(self, layer: int) -> tuple[jax.Array, jax.Array]:
    """What attention may read: keys and values `[B, K, S, C]`."""
    return self.k[layer], self.v[layer]

  def commit(self, fresh: types.FreshKV, path: jax.Array, count: jax.Array
             ) -> "DenseCache":
    """Appends the first `count` tokens of `path` to each row.

    Args:
      fresh: from the forward pass over the tokens.
      path: `i32[B, P]`, which of the fresh tokens, in order.
      count: `i32[B]`, how many of them; 0 leaves the row as it is.
    """
    batch, num_slots = path.shape
    rows = jnp.arange(batch)[:, None]
    steps = jnp.arange(num_slots)[None]
    slots = jnp.where(
        steps < count[:, None], self.length[:, None] + steps, self.capacity)

    def write(buffer, new):
      # [B, P, K, C]: advanced indices around a slice come first.
      chosen = new[rows, :, path].astype(buffer.dtype)
      return buffer.at[rows, :, slots].set(
          chosen, mode="drop", unique_indices=False)

    return DenseCache(
        tuple(write(b, n) for b, n in zip(self.k, fresh.k)),
        tuple(write(b, n) for b, n in zip(self.v, fresh.v)),
        self.length + count)

  def truncate(self, length: jax.Array) -> "DenseCache":
    """Forgets the tokens at or beyond `length`, `i32[B]`."""
    return self.replace(length=jnp.minimum(self.length, length))


def empty(model, batch: int, capacity: int) -> DenseCache:
  """A cache for `model` with room for `capacity` tokens in each row.

  Args:
    model: gives `config.num_layers`, `num_kv_heads`, `head_dim` and `dtype`.
    batch: rows.
    capacity: tokens.
  """
  c = model.config
  shape = (batch, c.num_kv_heads, capacity, c.head_dim)
  buffers = lambda: tuple(
      jnp.zeros(shape, model.dtype) for _ in range(c.num_layers))
  return DenseCache(buffers(), buffers(), jnp.zeros((batch,), jnp.int32))
