"""Tree attention on a TPU (Pallas, Mosaic).

The grid is (row, key/value head, part, step). A step brings one block of the
prefix on chip; its address is computed from the row's length and page table,
which are prefetched. A step outside what the row sees names the block that is
already there, so that nothing is copied, and computes nothing. Heads larger
than 256 are left to XLA.
"""

import functools

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
import jax.numpy as jnp

from spec_jax.kernels import attention_layout as layout

_LANES = 128
# Bounds of what stays on chip, in elements: of scores, and of keys per step.
_MOST_ROWS, _MOST_FRESH = 1024, 512
_MOST_SCORES, _MOST_KEYS = 2 ** 19, 2 ** 17
_DTYPES = ("float32", "bfloat16")
# Enough for these bounds in float32, whose products take temporaries of their
# own; compilers grant 2^24 by themselves.
_MOST_BYTES = 2 ** 25


def supports(queries, fresh_keys, prefix) -> bool:
  """Whether the kernel takes these shapes and types."""
  rows = queries.shape[2] * queries.shape[3]
  slots, size = prefix.keys.shape[2:]
  is_page = prefix.table is None or _fits_page(slots, rows, size,
                                               queries.dtype)
  return (queries.dtype.name in _DTYPES
          and prefix.keys.dtype == fresh_keys.dtype == queries.dtype
          and rows <= _MOST_ROWS and fresh_keys.shape[2] <= _MOST_FRESH
          and size <= 256 and size % 8 == 0
          # Mosaic has no product with a single 16-bit row.
          and is_page and slots * queries.dtype.itemsize >= 4)


def attend(queries, fresh_keys, fresh_values, fresh_mask, prefix, positions,
           options, interpret=False):
  """See `tree_attention.tree_attention`."""
  batch, heads, num_queries, groups, size = queries.shape
  num_rows = _round_up(num_queries * groups, _sublanes(queries.dtype))
  fresh_keys, fresh_values = (
      layout.pad_keys(a, _LANES) for a in (fresh_keys, fresh_values))
  num_fresh = fresh_keys.shape[2]
  start, end = layout.visible_range(prefix, positions, options.window)
  # One table a query row: its position, then its packed mask.
  meta = jnp.concatenate(
      [positions.astype(jnp.int32)[..., None],
       layout.pack_mask(fresh_mask, num_fresh)], axis=-1)
  meta = layout.repeat_rows(meta, groups, num_rows)
  is_paged = prefix.table is not None
  block = prefix.keys.shape[2] if is_paged else (
      options.block or _block_size(prefix.capacity, num_rows, size))
  num_blocks = pl.cdiv(prefix.capacity, block)
  num_parts = min(options.num_splits or 1, num_blocks)
  num_steps = pl.cdiv(num_blocks, num_parts)
  table = prefix.table if is_paged else jnp.zeros((1, 1), jnp.int32)

  def prefix_index(b, k, part, step, start, end, table):
    first = jax.lax.div(start[b], jnp.int32(block))
    last = jnp.maximum(pl.cdiv(end[b], block) - 1, first)
    at = jnp.clip(part * num_steps + step, first, last)
    return (table[b * num_blocks + at], k, 0, 0) if is_paged else (b, k, at, 0)

  per_head = lambda rows, width: pl.BlockSpec(
      (1, 1, rows, width), lambda b, k, *_: (b, k, 0, 0))
  partial_out = lambda width: pl.BlockSpec(
      (1, 1, 1, num_rows, width), lambda b, k, part, *_: (b, k, part, 0, 0))
  slots = pl.BlockSpec((1, 1, block, size), prefix_index)
  part_shape = (batch, heads, num_parts, num_rows)
  out, log_sums = pl.pallas_call(
      functools.partial(_kernel, block=block, num_steps=num_steps,
                        window=options.window, softcap=options.softcap),
      grid_spec=pltpu.PrefetchScalarGridSpec(
          num_scalar_prefetch=3,
          grid=(batch, heads, num_parts, num_steps),
          in_specs=[
              per_head(num_rows, size),
              pl.BlockSpec((1,) + meta.shape[1:], lambda b, *_: (b, 0, 0)),
              per_head(num_fresh, size), per_head(num_fresh, size),
              slots, slots],
          out_specs=[partial_out(size), partial_out(1)],
          scratch_shapes=[pltpu.VMEM((num_rows, width), jnp.float32)
                          for width in (1, 1, size)]),
      out_shape=[
          jax.ShapeDtypeStruct(
              part_shape + (size,),
              queries.dtype if num_parts == 1 else jnp.float32),
          jax.ShapeDtypeStruct(part_shape + (1,), jnp.float32)],
      compiler_params=pltpu.CompilerParams(
          dimension_semantics=("parallel", "parallel", "parallel",
                               "arbitrary"),
          vmem_limit_bytes=_MOST_BYTES),
      interpret=interpret,
      name="tree_attention",
  )(start, end, table.reshape(-1), layout.flatten_queries(queries, num_rows),
    meta, fresh_keys, fresh_values, prefix.keys, prefix.values)
  out, log_sums = layout.join(out, log_sums[..., 0])
  return layout.unflatten(out, log_sums, queries)


def _kernel(start_ref, end_ref, table_ref, queries_ref, meta_ref,
            fresh_keys_ref, fresh_values_ref, keys_ref, values_ref, out_ref,
            log_sums_ref, top_ref, total_ref, mixed_ref, *, block, num_steps,
            window, softcap):
  del table_ref  # Read by the index map.
  b, part, step = pl.program_id(0), pl.program_id(2), pl.program_id(3)
  queries = queries_ref[0, 0]
  meta = meta_ref[0]
  precision = (jax.lax.Precision.HIGHEST if queries.dtype == jnp.float32
               else jax.lax.Precision.DEFAULT)

  def absorb(keys, values, is_seen):
    scores = jax.lax.dot_general(
        queries, keys, (((1,), (1,)), ((), ())), precision=precision,
        preferred_element_type=jnp.float32)
    if softcap:
      scores = softcap * jnp.tanh(scores / softcap)
    scores = jnp.where(is_seen, scores, layout.MASKED)
    old_top = top_ref[...]
    top = jnp.maximum(old_top, scores.max(1, keepdims=True))
    # Masked again: where nothing was seen so far, top is MASKED itself.
    weights = jnp.where(is_seen, jnp.exp(scores - top), 0.0)
    fade = jnp.exp(old_top - top)
    top_ref[...] = top
    total_ref[...] = total_ref[...] * fade + weights.sum(1, keepdims=True)
    mixed_ref[...] = mixed_ref[...] * fade + jax.lax.dot_general(
        weights.astype(values.dtype), values, (((1,), (0,)), ((), ())),
        precision=precision, preferred_element_type=jnp.float32)

  @pl.when(step == 0)
  def _():
    top_ref[...] = jnp.full_like(top_ref, layout.MASKED)
    total_ref[...] = jnp.zeros_like(total_ref)
    mixed_ref[...] = jnp.zeros_like(mixed_ref)

  @pl.when((step == 0) & (part == 0))
  def _():
    shape = (queries.shape[0], fresh_keys_ref.shape[2])
    columns = jax.lax.broadcasted_iota(jnp.int32, shape, 1)
    words = jnp.zeros(shape, jnp.int32)
    for w in range(meta.shape[1] - 1):
      words = jnp.where(jax.lax.div(columns, layout.WORD) == w,
                        meta[:, w + 1:w + 2], words)
    bits = jax.lax.shift_right_logical(
        words, jax.lax.rem(columns, layout.WORD)) & 1
    absorb(fresh_keys_ref[0, 0], fresh_values_ref[0, 0], bits != 0)

  first = (part * num_steps + step) * block

  @pl.when((first < end_ref[b]) & (first + block > start_ref[b]))
  def _():
    shape = (queries.shape[0], block)
    slots = first + jax.lax.broadcasted_iota(jnp.int32, shape, 1)
    is_seen = slots < end_ref[b]
    if window:
      is_seen &= meta[:, :1] - slots < window
    # What lies beyond the length may be anything, infinities included.
    values = values_ref[0, 0]
    rows = first + jax.lax.broadcasted_iota(jnp.int32, values.shape, 0)
    values = jnp.where(rows < end_ref[b], values, jnp.zeros_like(values))
    absorb(keys_ref[0, 0], values, is_seen)

  @pl.when(step == num_steps - 1)
  def _():
    total = total_ref[...]
    safe = jnp.where(total > 0, total, 1.0)
    out_ref[0, 0, 0] = (mixed_ref[...] / safe).astype(out_ref.dtype)
    log_sums_ref[0, 0, 0] = jnp.where(
        total > 0, top_ref[...] + jnp.log(safe), layout.MASKED)


def _sublanes(dtype) -> int:
  return 32 // jnp.dtype(dtype).itemsize


def _round_up(value: int, multiple: int) -> int:
  return -(-value // multiple) * multiple


def _fits_page(slots: int, rows: int, size: int, dtype) -> bool:
  """Whether a page can be the block of a step; see `_block_size`."""
  return (slots % _sublanes(dtype) == 0
          and slots * _round_up(rows, _sublanes(dtype)) <= _MOST_SCORES
          and slots * _round_up(size, _LANES) <= _MOST_KEYS)


def _block_size(capacity: int, num_rows: int, size: int) -> int:
  """Slots per step: few steps of a long prefix, little waste of a short one."""
  most = min(_MOST_SCORES // num_rows, _MOST_KEYS // _round_up(size, _LANES),
             max(512, capacity // 16))
  block = _LANES
  while 2 * block <= most:
    block *= 2
  return min(block, capacity)
