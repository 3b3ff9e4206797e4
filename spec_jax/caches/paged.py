"""A key/value cache in pages, which rows need not hold next to each other.

A page table says where the tokens of a row stand (Kwon et al. 2023,
PagedAttention, Sec. 4.2). Who hands out pages is not the cache's business: the
table is data, and `empty` gives every row its own pages in order.
"""

import dataclasses

from flax import struct
import jax
import jax.numpy as jnp

from spec_jax.core import types


@struct.dataclass
class PagedCache:
  """Committed keys and values; token s of a row stands in its page s // H.

  The contract of `dense.DenseCache`, over Z pages of H slots. Two rows may
  share a page that neither writes to any more.

  Attributes:
    k: per layer `[Z, K, H, C]`.
    v: per layer `[Z, K, H, C]`.
    table: `i32[B, M]`, the pages of each row in order.
    length: `i32[B]`, committed tokens; slots beyond are never read.
  """

  k: tuple[jax.Array, ...]
  v: tuple[jax.Array, ...]
  table: jax.Array
  length: jax.Array

  @property
  def page_size(self) -> int:
    return self.k[0].shape[2]

  @property
  def capacity(self) -> int:
    return self.table.shape[1] * self.page_size

  def view(self, layer: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """What attention may read: pages `[Z, K, H, C]` and the table."""
    return self.k[layer], self.v[layer], self.table

  def commit(self, fresh: types.FreshKV, path: jax.Array, count: jax.Array
             ) -> "PagedCache":
    """Appends the first `count` tokens of `path` to each row.

    Args:
      fresh: from the forward pass over the tokens.
      path: `i32[B, P]`, which of the fresh tokens, in order.
      count: `i32[B]`, how many of them; 0 leaves the row as it is.
    """
    batch, num_slots = path.shape
    rows = jnp.arange(batch)[:, None]
    steps = jnp.arange(num_slots)[None]
    slots = self.length[:, None] + steps
    is_written = (steps < count[:, None]) & (slots < self.capacity)
    index = jnp.minimum(slots // self.page_size, self.table.shape[1] - 1)
    pages = jnp.where(
        is_written, jnp.take_along_axis(self.table, index, 1),
        self.k[0].shape[0])

    def write(buffer, new):
      # [B, P, K, C]: advanced indices around a slice come first.
      chosen = new[rows, :, path].astype(buffer.dtype)
      return buffer.at[pages, :, slots % self.page_size].set(
          chosen, mode="drop", unique_indices=False)

    return self.replace(
        k=tuple(write(b, n) for b, n in zip(self.k, fresh.k)),
        v=tuple(write(b, n) for b, n in zip(self.v, fresh.v)),
        length=self.length + count)

  def truncate(self, length: jax.Array) -> "PagedCache":
    """Forgets the tokens at or beyond `length`, `i32[B]`."""
    return self.replace(length=jnp.minimum(self.length, length))


def empty(model, batch: int, capacity: int, page_size: int = 64) -> PagedCache:
  """A cache for `model` with room for `capacity` tokens in each row.

  Args:
    model: gives `config.num_layers`, `num_kv_heads`, `head_dim` and `dtype`.
    batch: rows.
    capacity: tokens, rounded up to whole pages.
    page_size: tokens per page.

  Raises:
    ValueError: a page size below 1.
  """
  if page_size < 1:
    raise ValueError(f"page_size={page_size}, expected at least 1 token.")
  c = model.config
  num_pages = -(-capacity // page_size)
  shape = (batch * num_pages, c.num_kv_heads, page_size, c.head_dim)
  buffers = lambda: tuple(
      jnp.zeros(shape, model.dtype) for _ in range(c.num_layers))
  table = jnp.arange(batch * num_pages, dtype=jnp.int32)
  return PagedCache(buffers(), buffers(), table.reshape(batch, num_pages),
                    jnp.zeros((batch,), jnp.int32))


@dataclasses.dataclass(frozen=True)
class Paged:
  """`empty` with a page size, as a `System.make_cache` hashed by value."""

  page_size: int = 64

  def __call__(self, model, batch: int, capacity: int) -> PagedCache:
    return empty(model, batch, capacity, self.page_size)
