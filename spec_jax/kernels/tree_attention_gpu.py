"""Tree attention on a Hopper GPU (Pallas, Mosaic GPU).

A program is one warp group: one tile of query rows against one part of what
one key/value head of one row sees. The parts of a row are cut at run time, by
its length, so that ragged rows keep all multiprocessors equally busy. Blocks
of keys and values arrive asynchronously, several ahead of their use; fresh
keys are the first blocks of the first part. No block beyond a row's length is
touched.

The fused products need 16-bit operands in tiles of 64 rows. Float32 is split
into a bfloat16 and the bfloat16 of what that leaves, the cache as its blocks
arrive; three products of such parts keep 16 bits of precision. Heads are
taken up to a size of 128 in float32, where a block and its parts fill the chip
sooner, and up to 256 in 16 bits; larger ones have no kernel here and are left
to XLA.
"""

import functools

import jax
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
import jax.numpy as jnp

from spec_jax.kernels import attention_layout as layout

_TILE = 64  # Query rows of a program: the smallest product of a warp group.
_BLOCK = 64  # Keys per step.
_FAR = 2 ** 30  # Beyond any slot or position.
_WIDEST = 128  # Columns of one product of weights with values.
_SHARED = 200 * 1024  # Bytes of shared memory of a program, of 227 KiB.
_PROCESSORS = 132  # An H100's; a program each is one full wave.
_MOST_ROWS, _MOST_FRESH = 1024, 512
_DTYPES = {"bfloat16": 256, "float16": 256, "float32": 128}  # Largest head.


def supports(queries, fresh_keys, prefix) -> bool:
  """Whether the kernel takes these shapes and types."""
  rows = queries.shape[2] * queries.shape[3]
  slots, size = prefix.keys.shape[2:]
  # Shared memory holds tiles of 8 slots; copies begin at a multiple of 8.
  fits = slots % 8 == 0 and (
      slots >= _BLOCK if prefix.table is None
      else _BLOCK % min(slots, _BLOCK) == 0 and slots % min(slots, _BLOCK) == 0)
  return (queries.dtype.name in _DTYPES
          and prefix.keys.dtype == fresh_keys.dtype == queries.dtype
          and rows <= _MOST_ROWS and fresh_keys.shape[2] <= _MOST_FRESH
          and 16 <= size <= _DTYPES[queries.dtype.name] and size % 16 == 0
          and fits)


def is_faster(queries) -> bool:
  """Whether the kernel beats XLA's program on an H200.

  In 16 bits always, see `experiments/results/h200`. In float32 it has to cut
  what it reads into parts, and takes up to 1.4 times as long.
  """
  return queries.dtype.itemsize == 2


def attend(queries, fresh_keys, fresh_values, fresh_mask, prefix, positions,
           options, interpret=None):
  """See `tree_attention.tree_attention`.

  `interpret`: parameters of the GPU interpreter, to run on a CPU.
  """
  batch, heads, num_queries, groups, size = queries.shape
  num_tiles = pl.cdiv(num_queries * groups, _TILE)
  num_rows = num_tiles * _TILE
  fresh_keys, fresh_values = (
      layout.pad_keys(a, _BLOCK) for a in (fresh_keys, fresh_values))
  start, end = layout.visible_range(prefix, positions, options.window)
  is_paged = prefix.table is not None
  page = prefix.keys.shape[2] if is_paged else _BLOCK
  table = prefix.table if is_paged else jnp.zeros((1, 1), jnp.int32)
  meta = jnp.concatenate(
      [positions.astype(jnp.int32)[..., None],
       layout.pack_mask(fresh_mask, fresh_keys.shape[2])], axis=-1)
  meta = layout.repeat_rows(meta, groups, num_rows).swapaxes(1, 2)
  num_parts = options.num_splits or _num_parts(
      prefix.capacity, num_tiles * heads * batch)
  chunk = min(page, _BLOCK)
  is_wide = queries.dtype == jnp.float32
  dtype = jnp.dtype(jnp.bfloat16) if is_wide else queries.dtype
  stored = lambda shape, dtype: plgpu.SMEM(
      shape, dtype, transforms=_tiles(size, dtype))
  num_stages = 1 if is_wide else _num_stages(size)
  landing = stored((num_stages, _BLOCK, size), queries.dtype)
  num_terms = 2 if is_wide else 1
  flat_queries = layout.flatten_queries(queries, num_rows)
  terms = [flat_queries]
  if is_wide:  # XLA would drop a conversion there and back.
    large = lax.reduce_precision(flat_queries, 8, 7)
    terms = [large.astype(dtype), (flat_queries - large).astype(dtype)]
  flat_queries = jnp.stack(terms, axis=2)
  part_shape = (batch, heads, num_parts, num_rows)
  kernel = plgpu.kernel(
      functools.partial(
          _kernel, page=page, chunk=chunk, is_paged=is_paged,
          window=options.window, softcap=options.softcap,
          tools=_Tools(interpret is not None)),
      out_type=[jax.ShapeDtypeStruct(part_shape + (size,), jnp.float32),
                jax.ShapeDtypeStruct(part_shape, jnp.float32)],
      grid=(batch, heads, num_parts, num_tiles),
      grid_names=("row", "head", "part", "tile"),
      scratch_types=[
          stored((num_terms, _TILE, size), dtype), landing, landing,
          stored((num_terms, _TILE, _BLOCK), dtype),
          plgpu.SMEM((meta.shape[1], _TILE), jnp.int32),
          plgpu.Barrier(num_arrivals=1 + num_terms),
          plgpu.Barrier(num_arrivals=2 * (_BLOCK // chunk),
                        num_barriers=num_stages),
          *[stored((2, _BLOCK, size), dtype)] * (2 if is_wide else 0)],
      compiler_params=plgpu.CompilerParams(approx_math=True),
      interpret=interpret if interpret is not None else False,
      kernel_name="tree_attention")
  out, log_sums = kernel(
      start, end, table, flat_queries, meta,
      fresh_keys, fresh_values, prefix.keys, prefix.values)
  return layout.unflatten(*layout.join(out, log_sums), queries)


def _kernel(start_ref, end_ref, table_ref, queries_ref, meta_ref,
            fresh_keys_ref, fresh_values_ref, keys_ref, values_ref, out_ref,
            log_sums_ref, queries_tile, keys_tiles, values_tiles, weights_tile,
            meta_tile, arrived, landed, *split_tiles, page, chunk, is_paged,
            window, softcap, tools):
  row, head, part, tile = (
      lax.axis_index(name) for name in ("row", "head", "part", "tile"))
  num_stages, _, size = keys_tiles.shape
  start, end = start_ref[row], end_ref[row]
  num_words = meta_tile.shape[0] - 1
  # The visible blocks, cut evenly; fresh blocks stand before those of part 0.
  first = lax.div(start, jnp.int32(_BLOCK))
  count = pl.cdiv(end, jnp.int32(_BLOCK)) - first
  share = pl.cdiv(jnp.maximum(count, 0), jnp.int32(log_sums_ref.shape[2]))
  begin = first + part * share
  num_fresh = jnp.where(part == 0, fresh_keys_ref.shape[2] // _BLOCK, 0)
  num_steps = num_fresh + jnp.clip(first + count - begin, 0, share)

  def first_slot(step):
    return (begin + step - num_fresh) * _BLOCK

  def fetch(step):
    for offset in range(0, _BLOCK, chunk):
      fetch_chunk(step, offset)

  def fetch_chunk(step, offset):
    slot = lax.rem(step, jnp.int32(num_stages))

    def copy(source, target, at):
      plgpu.copy_gmem_to_smem(
          source.at[at], target.at[slot, pl.ds(offset, chunk)],
          landed.at[slot])

    @pl.when(step < num_fresh)
    def _():
      at = (row, head, pl.ds(step * _BLOCK + offset, chunk))
      copy(fresh_keys_ref, keys_tiles, at)
      copy(fresh_values_ref, values_tiles, at)

    @pl.when(step >= num_fresh)
    def _():
      begins = first_slot(step) + offset
      if is_paged:
        # Chunks past the end repeat the last one in use; they are masked.
        begins = jnp.minimum(begins, lax.div(end - 1, chunk) * chunk)
        at = (table_ref[row, lax.div(begins, page)], head,
              pl.ds(lax.rem(begins, page), chunk))
      else:
        # The last block is moved back rather than read past the buffer.
        at = (row, head, pl.ds(
            jnp.minimum(begins, keys_ref.shape[2] - chunk), chunk))
      copy(keys_ref, keys_tiles, at)
      copy(values_ref, values_tiles, at)

  # Blocks of float32 give room to the next one as soon as they are split.
  for step in range(max(num_stages - 1, 1)):
    pl.when(step < num_steps)(functools.partial(fetch, jnp.int32(step)))
  rows = pl.ds(tile * _TILE, _TILE)
  for i in range(queries_tile.shape[0]):
    plgpu.copy_gmem_to_smem(
        queries_ref.at[row, head, i, rows], queries_tile.at[i], arrived)
  plgpu.copy_gmem_to_smem(meta_ref.at[row, :, rows], meta_tile, arrived)
  plgpu.barrier_wait(arrived)

  def block_begins(step):
    wanted = first_slot(step)
    return wanted if is_paged else jnp.minimum(
        wanted, keys_ref.shape[2] - _BLOCK)

  def clear_beyond_end(step, slot):
    shape = (_BLOCK, size)
    slots = block_begins(step) + tools.iota(shape, 0)
    values = tools.load_tile(values_tiles, slot)
    values_tiles[slot] = jnp.where(slots < end, values, jnp.zeros_like(values))
    plgpu.commit_smem()

  def is_seen(step):
    # Each kind of block passes the test of the other one: scalars decide.
    is_fresh = step < num_fresh
    shape = (_TILE, _BLOCK)
    columns = tools.iota(shape, 1)
    words = jnp.zeros(shape, jnp.int32)
    for i in range(_BLOCK // layout.WORD):
      w = jnp.minimum(step * (_BLOCK // layout.WORD) + i, num_words - 1)
      word = tools.load_row(meta_tile, w + 1)
      words = jnp.where(lax.div(columns, layout.WORD) == i,
                        lax.broadcast_in_dim(word, shape, [0]), words)
    words = words | jnp.where(is_fresh, 0, -1)
    bits = lax.shift_right_logical(words, lax.rem(columns, layout.WORD)) & 1
    slots = block_begins(step) + columns
    oldest = jnp.where(is_fresh, -_FAR, first_slot(step))
    newest = jnp.where(is_fresh, _FAR, end)
    seen = (bits != 0) & (slots >= oldest) & (slots < newest)
    if window:
      positions = lax.broadcast_in_dim(
          tools.load_row(meta_tile, 0), shape, [0])
      seen &= positions - slots < jnp.where(is_fresh, _FAR, window)
    return seen

  def absorb(step, carry):
    top, total, mixed = carry
    slot = lax.rem(step, jnp.int32(num_stages))
    plgpu.commit_smem()  # All four warps are done with all tiles.
    if not split_tiles:
      ahead = step + num_stages - 1
      pl.when(ahead < num_steps)(functools.partial(fetch, ahead))
    plgpu.barrier_wait(landed.at[slot])
    # Beyond the end may stand anything, infinities included.
    pl.when((step >= num_fresh) & (block_begins(step) + _BLOCK > end))(
        functools.partial(clear_beyond_end, step, slot))
    keys, values = [keys_tiles.at[slot]], [values_tiles.at[slot]]
    if split_tiles:
      for landed_tiles, tiles in zip((keys_tiles, values_tiles), split_tiles):
        tools.store(tiles, _split(tools.load_tile(landed_tiles, slot)))
      plgpu.commit_smem()
      pl.when(step + 1 < num_steps)(functools.partial(fetch, step + 1))
      keys, values = ([tiles.at[0], tiles.at[1]] for tiles in split_tiles)
    scores = tools.dots(queries_tile, keys, transposed=True)
    if softcap:
      scores = softcap * jnp.tanh(scores / softcap)
    seen = is_seen(step)
    scores = jnp.where(seen, scores, layout.MASKED)
    new_top = jnp.maximum(top, scores.max(axis=1))
    fade = jnp.exp(top - new_top)
    weights = jnp.exp(scores - lax.broadcast_in_dim(
        new_top, scores.shape, [0]))
    weights = jnp.where(seen, weights, 0.0)
    tools.store(weights_tile, _split(weights) if split_tiles else [
        weights.astype(weights_tile.dtype)])
    plgpu.commit_smem()
    total = total * fade + weights.sum(axis=1)
    mixed = tuple(
        old * lax.broadcast_in_dim(fade, old.shape, [0])
        + tools.dots(weights_tile, [v.at[:, columns] for v in values])
        for old, columns in zip(mixed, halves))
    return new_top, total, mixed

  # Sum and summand together must fit into the registers.
  halves = [pl.ds(at, min(_WIDEST, size - at))
            for at in range(0, size, _WIDEST)]
  top, total, mixed = lax.fori_loop(0, num_steps, absorb, (
      tools.full((_TILE,), layout.MASKED), tools.full((_TILE,), 0.0),
      tuple(tools.full((_TILE, half.size), 0.0) for half in halves)))
  safe = jnp.where(total > 0, total, 1.0)
  log_sums = jnp.where(total > 0, top + jnp.log(safe), layout.MASKED)
  for columns, half in zip(halves, mixed):
    out_ref[row, head, part, rows, columns] = half / lax.broadcast_in_dim(
        safe, half.shape, [0])
  log_sums_ref[row, head, part, rows] = log_sums


class _Tools:
  """What the hardware wants told about registers, and the interpreter not."""

  def __init__(self, is_interpreted: bool):
    self._is_interpreted = is_interpreted

  def full(self, shape, value):
    filled = jnp.full(shape, value, jnp.float32)
    if self._is_interpreted:
      return filled
    return plgpu.layout_cast(filled, _layout(len(shape)))

  def iota(self, shape, axis):
    if self._is_interpreted:
      return lax.broadcasted_iota(jnp.int32, shape, axis)
    return plgpu.broadcasted_iota(
        jnp.int32, shape, axis, layout=plgpu.Layout.WGMMA)

  def load_row(self, ref, index):
    return self._load(ref, index, 1)

  def load_tile(self, ref, index):
    return self._load(ref, index, 2)

  def _load(self, ref, index, rank):
    if self._is_interpreted:
      return ref[index]
    return plgpu.load(ref, (index,), layout=_layout(rank))

  def store(self, ref, terms):
    for i, term in enumerate(terms):
      ref[i] = term

  def dots(self, a_ref, b_refs, transposed=False):
    """Sum of the products of terms, but for small times small."""
    pairs = [(i, j) for i in range(len(b_refs)) for j in range(len(b_refs) - i)]
    return sum(self.dot(a_ref.at[i], b_refs[j], transposed) for i, j in pairs)

  def dot(self, a_ref, b_ref, transposed=False):
    """`a @ b` or `a @ b.T`, both in shared memory, in float32."""
    if self._is_interpreted:  # Its product takes no transposed operand.
      return lax.dot_general(
          a_ref[...], b_ref[...], (((1,), (1 if transposed else 0,)), ((), ())),
          preferred_element_type=jnp.float32)
    b_ref = plgpu.transpose_ref(b_ref, (1, 0)) if transposed else b_ref

    def multiply(sum_ref):
      plgpu.wgmma(sum_ref, a_ref, b_ref)
      return sum_ref[...]

    shape = (a_ref.shape[0], b_ref.shape[1])
    return pl.run_scoped(multiply, plgpu.ACC(shape, jnp.float32))


def _split(wide):
  """A float32 as the sum of two bfloat16, but for its last 8 bits."""
  large = wide.astype(jnp.bfloat16)
  return [large, (wide - large.astype(jnp.float32)).astype(jnp.bfloat16)]


def _layout(rank: int):
  wide = plgpu.Layout.WGMMA
  return wide if rank == 2 else wide.reduce(1)


def _tiles(size: int, dtype):
  """How shared memory is tiled and swizzled for rows of `size`."""
  itemsize = jnp.dtype(dtype).itemsize
  num_bytes = next(n for n in (128, 64, 32) if size * itemsize % n == 0)
  return (plgpu.TilingTransform((8, num_bytes // itemsize)),
          plgpu.SwizzleTransform(num_bytes))


def _num_stages(size: int) -> int:
  fixed = 2 * (_TILE * size + _TILE * _BLOCK)
  return max(2, min(4, (_SHARED - fixed) // (4 * _BLOCK * size)))


def _num_parts(capacity: int, num_programs: int) -> int:
  """Enough parts for a program per processor, none of fewer than 4 blocks."""
  wanted = max(1, _PROCESSORS // num_programs)
  return max(1, min(wanted, capacity // (4 * _BLOCK)))
