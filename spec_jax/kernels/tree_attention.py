"""Attention of tree nodes over a committed prefix and over each other.

Axes as in `models.attention`: B rows, T fresh tokens, K key/value heads, G
query heads per key/value head, C head size, S cache slots, F fresh keys
(in-flight ones first, then the T); and of a paged prefix Z pages of H slots,
of which a row's table lists M.

One softmax, computed block by block (Milakov and Gimelshein 2018, Sec. 3); a
long prefix is split over programs whose partial results are joined by their
log-sum-exp (Dao et al. 2023, Flash-Decoding).
"""

import dataclasses
import functools

import chex
from flax import struct
import jax
import jax.numpy as jnp

from spec_jax.kernels import attention_layout as layout
from spec_jax.kernels import backend as backend_lib
from spec_jax.kernels import tree_attention_gpu
from spec_jax.kernels import tree_attention_tpu

MASKED = layout.MASKED


@struct.dataclass
class Prefix:
  """Committed keys and values, contiguous or in pages.

  Attributes:
    keys: `[B, K, S, C]`, or pages `[Z, K, H, C]`.
    values: likewise.
    length: `i32[B]`, slots that count; what lies beyond is never read.
    table: `i32[B, M]`, the pages of each row in order; None = contiguous.
  """

  keys: jax.Array
  values: jax.Array
  length: jax.Array
  table: jax.Array | None = None

  @property
  def capacity(self) -> int:
    """Slots of a row (S, or M * H)."""
    pages = 1 if self.table is None else self.table.shape[1]
    return pages * self.keys.shape[2]

  def contiguous(self) -> tuple[jax.Array, jax.Array]:
    """Keys and values `[B, K, S, C]`; pages are copied together."""
    if self.table is None:
      return self.keys, self.values
    return gather(self.keys, self.table), gather(self.values, self.table)

  def mask(self, positions: jax.Array, window: int) -> jax.Array:
    """`bool[B, T, S]`: which slots a query at `positions[B, T]` sees."""
    slots = jnp.arange(self.capacity)[None, None]
    seen = slots < self.length[:, None, None]
    if window:
      seen &= positions[:, :, None] - slots < window
    return jnp.broadcast_to(seen, positions.shape + (self.capacity,))


def gather(pages: jax.Array, table: jax.Array) -> jax.Array:
  """Pages `[Z, K, H, C]` of each row of `table[B, M]` -> `[B, K, M*H, C]`."""
  rows = pages[table].swapaxes(1, 2)
  return rows.reshape(rows.shape[:2] + (-1, rows.shape[-1]))


@dataclasses.dataclass(frozen=True)
class Options:
  """What is static about a call.

  Attributes:
    window: of the prefix: seen iff position - slot < window; 0 = unlimited.
    softcap: tanh cap on the scores; 0 = none.
    num_splits: parts that the prefix is cut into; None = by its capacity.
    block: slots per step of a contiguous prefix; None = by its capacity.
  """

  window: int = 0
  softcap: float = 0.0
  num_splits: int | None = None
  block: int | None = None


def tree_attention(
    queries: jax.Array,
    fresh_keys: jax.Array,
    fresh_values: jax.Array,
    fresh_mask: jax.Array,
    prefix: Prefix,
    positions: jax.Array,
    options: Options = Options(),
    backend: str = "auto",
) -> tuple[jax.Array, jax.Array]:
  """One softmax over the prefix and the fresh tokens together.

  Args:
    queries: `[B, K, T, G, C]`, already scaled.
    fresh_keys: `[B, K, F, C]`.
    fresh_values: `[B, K, F, C]`.
    fresh_mask: `bool[B, T, F]`, True where a query may look (ancestors).
    prefix: what all may look at, but for a window.
    positions: `i32[B, T]` of the queries; read only with a window.
    options: static.
    backend: see `backend.BACKENDS`.

  Returns:
    `[B, K, T, G, C]` in the dtype of `queries`, and the log-sum-exp of the
    scores `f32[B, K, T, G]`. A query that sees nothing gets finite values and
    a log-sum-exp of at most `MASKED / 2`.

  Raises:
    ValueError: no such backend.
  """
  chex.assert_rank([queries, fresh_keys, fresh_values, fresh_mask, positions],
                   [5, 4, 4, 3, 2])
  arrays = (queries, fresh_keys, fresh_values, fresh_mask, prefix, positions)
  tpu = functools.partial(tree_attention_tpu.attend, options=options)
  gpu = functools.partial(tree_attention_gpu.attend, options=options)
  has_tpu = tree_attention_tpu.supports(queries, fresh_keys, prefix)
  has_gpu = tree_attention_gpu.supports(queries, fresh_keys, prefix) and (
      backend == "pallas" or tree_attention_gpu.is_faster(queries))
  return backend_lib.dispatch(
      backend, functools.partial(reference, options=options), *arrays,
      tpu=tpu if has_tpu else None, gpu=gpu if has_gpu else None,
      interpreted=functools.partial(tpu, interpret=True) if has_tpu else None)


def reference(queries, fresh_keys, fresh_values, fresh_mask, prefix, positions,
              options=Options()) -> tuple[jax.Array, jax.Array]:
  """`tree_attention` in plain JAX."""
  return attend_segments(queries, [
      (fresh_keys, fresh_values, fresh_mask),
      (*prefix.contiguous(), prefix.mask(positions, options.window)),
  ], options.softcap)


def attend_segments(queries: jax.Array, segments, softcap: float
                    ) -> tuple[jax.Array, jax.Array]:
  """One softmax over several segments of keys.

  Args:
    queries: `[B, K, T, G, C]`, already scaled.
    segments: keys and values `[B, K, S, C]` and masks `bool[B, T, S]`.
    softcap: tanh cap on the scores, 0 for none.

  Returns:
    As `tree_attention`.
  """
  # With the queries of a group as one axis XLA has plain products of matrices.
  batch, heads, num_tokens, groups, size = queries.shape
  flat = queries.reshape(batch, heads, num_tokens * groups, size)
  scores = [_scores(flat, keys, mask, softcap) for keys, _, mask in segments]
  top = scores[0].max(-1)
  for score in scores[1:]:
    top = jnp.maximum(top, score.max(-1))
  weights = [jnp.exp(score - top[..., None]) for score in scores]
  total = sum(weight.sum(-1) for weight in weights)
  outputs = sum(
      jnp.einsum("bkns,bksc->bknc", weight.astype(values.dtype), values,
                 preferred_element_type=jnp.float32)
      for weight, (_, values, _) in zip(weights, segments))
  out = (outputs / total[..., None]).astype(queries.dtype)
  return out.reshape(queries.shape), (
      top + jnp.log(total)).reshape(queries.shape[:-1])


def _scores(queries, keys, mask, softcap):
  """`f32[B, K, T * G, S]` of queries `[B, K, T * G, C]`."""
  num_tokens, groups = mask.shape[1], queries.shape[2] // mask.shape[1]
  if num_tokens == 1:
    # What stands on the right XLA transposes in memory. The scores of a single
    # token are fewer than the numbers in the keys.
    scores = jnp.einsum("bksc,bknc->bksn", keys, queries,
                        preferred_element_type=jnp.float32).swapaxes(2, 3)
  else:
    scores = jnp.einsum("bknc,bksc->bkns", queries, keys,
                        preferred_element_type=jnp.float32)
  if softcap:
    scores = softcap * jnp.tanh(scores / softcap)
  is_seen = jnp.repeat(mask, groups, axis=1)[:, None]
  return jnp.where(is_seen, scores, MASKED)
