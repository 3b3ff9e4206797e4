"""The walk through a draft tree on a Hopper GPU (Pallas, Mosaic GPU).

A program of four warp groups per row. A vocabulary does not fit on chip, so
nothing of it is kept: each pass streams the logits and the draft law of a node
from memory (from the second pass on from the cache), and what earlier steps
made of them is computed anew from a few scalars. Nodes off the path are never
read and nothing is written back but the path.

The clocks are drawn before, by XLA: twenty rounds of a hash for each token are
the longest pass by far, and there all multiprocessors share it.
"""

import functools

import jax
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
import jax.numpy as jnp

from spec_jax.core import sampling as sampling_lib
from spec_jax.core import types
from spec_jax.kernels import verify_law

_LANES, _WARP = 128, 32
_TOKENS = 16  # Of a lane in one step of a pass; fewer for few tokens.
_BITS = 2  # Of a threshold settled by a pass, which then sums three terms.
_DTYPES = ("float32", "bfloat16")


def supports(rule, sampling, tree, p_logits) -> bool:
  """Whether the kernel computes exactly this walk."""
  vocab = p_logits.shape[-1]
  return (verify_law.supports(rule, sampling, tree, p_logits)
          and (rule == "match" or not sampling.is_greedy)
          and p_logits.dtype.name in _DTYPES
          and (rule == "match" or tree.q.dtype.name in _DTYPES)
          and vocab >= _LANES * _width(vocab))


def walk(tree, p_logits, keys, *, rule, sampling, num_groups=4,
         interpret=None) -> types.Verdict:
  """As `verifiers.walk.walk` with that rule and that sampling.

  Args:
    tree: the drafts.
    p_logits: `f[B, N, V]`.
    keys: `key[B, P]`, of the draw at each depth; of any kind.
    rule: one of `verify_law.RULES`.
    sampling: a `core.sampling.Sampling`.
    num_groups: warp groups of a program.
    interpret: parameters of the GPU interpreter, to run on a CPU.
  """
  batch, _, vocab = p_logits.shape
  num_levels = tree.depth + 1
  laws = [p_logits]
  if rule != "match":
    laws.append(tree.q)
  if not sampling.is_greedy:
    clocks = lambda key: sampling_lib.clocks(key, vocab)
    laws.append(jax.vmap(jax.vmap(clocks))(keys))
  tile = _LANES * _width(vocab)
  [out] = plgpu.kernel(
      functools.partial(
          _kernel, rule=rule, sampling=sampling,
          num_drafts=tree.max_children, num_levels=num_levels,
          num_groups=num_groups, is_interpreted=interpret is not None),
      out_type=[jax.ShapeDtypeStruct((batch, num_levels + 2), jnp.int32)],
      grid=(batch,), grid_names=("row",),
      num_threads=num_groups, thread_name="group",
      scratch_types=[
          plgpu.SMEM((2 ** _BITS - 1, num_groups * tile), jnp.float32),
          plgpu.Barrier(num_arrivals=num_groups, num_barriers=2)],
      # Of the two ways to lower a kernel, the one in which layouts are said.
      compiler_params=plgpu.CompilerParams(
          lowering_semantics=plgpu.LoweringSemantics.Lane),
      interpret=interpret if interpret is not None else False,
      kernel_name="verify",
  )(verify_law.children(tree), tree.tokens.astype(jnp.int32), *laws)
  return verify_law.verdict(out)


def _kernel(children_ref, tokens_ref, logits_ref, *refs, rule, sampling,
            num_drafts, num_levels, num_groups, is_interpreted):
  *law_refs, out_ref, partial_sums, barriers = refs
  row, group = lax.axis_index("row"), lax.axis_index("group")
  rows = _Rows(logits_ref.shape[-1], group, num_groups, partial_sums,
               barriers, is_interpreted)

  def drafts_of(node):
    drafts = [children_ref[row, node, k] for k in range(num_drafts)]
    return drafts, [tokens_ref[row, jnp.maximum(draft, 0)]
                    for draft in drafts]

  def emit(level, node, drafts, tokens):
    logits = rows.reader(logits_ref, row, node)
    if sampling.is_greedy:
      return rows.first_largest(logits)
    q = rows.reader(law_refs[0], row, node)
    clocks = rows.reader(law_refs[-1], row, level)
    law = verify_law.law(
        rows, rule, sampling, logits, None, q, drafts, tokens)
    return rows.first_largest(lambda at: law(at) / clocks(at))

  def write(slot, value):
    @pl.when(group == 0)
    def _():
      out_ref[row, slot] = value

  verify_law.descend(num_levels, drafts_of, emit, write)


def _width(vocab: int) -> int:
  """Neighbouring tokens of a lane: rows must begin at a multiple of them."""
  return next(width for width in (4, 2, 1) if vocab % width == 0)


class _At:
  """Some tokens; values that were computed for them are known."""

  def __init__(self, tokens, load):
    self.tokens, self.load, self.known = tokens, load, {}


class _Rows:
  """Passes over a vocabulary, shared by the groups of a program."""

  bits = _BITS

  def __init__(self, vocab, group, num_groups, partial_sums, barriers,
               is_interpreted):
    self.vocab, self._group, self._num_groups = vocab, group, num_groups
    self._partial_sums, self._barriers = partial_sums, barriers
    self._is_interpreted = is_interpreted
    self._width = _width(vocab)
    self._tile = _LANES * self._width
    self._num_tiles = min(_TOKENS // self._width,
                          pl.cdiv(vocab, num_groups * self._tile))

  def reader(self, ref, row, node):
    """Of row `node` of `ref[B, N, V]`."""
    return self.keep(None, lambda at: at.load(ref, row, node))

  def keep(self, old, new, when=None):
    """Keeps nothing: computed once for each part of a pass."""
    def reader(at):
      if reader not in at.known:
        at.known[reader] = new(at) if when is None else jnp.where(
            when, new(at), old(at))
      return at.known[reader]
    return reader

  def sums(self, readers):
    add = lambda at, real, totals: tuple(
        total + jnp.where(real, reader(at), 0.0)
        for total, reader in zip(totals, readers))
    return self._join(jnp.sum, self._pass(add, tuple(
        self._full(0.0) for _ in readers)))

  def max(self, reader):
    larger = lambda at, real, tops: (jnp.maximum(
        tops[0], jnp.where(real, reader(at), -jnp.inf)),)
    return self._join(jnp.max, self._pass(larger, (self._full(-jnp.inf),)))[0]

  def at_token(self, reader, token):
    load = lambda ref, row, node: ref[row, node, token].astype(jnp.float32)
    return reader(_At(token, load))

  def first_largest(self, reader):
    """The first token with the largest value."""
    def visit(at, real, carry):
      best, winner = carry
      value = reader(at)
      is_better = real & (value > best)
      # Floats hold these integers exactly.
      return (jnp.where(is_better, value, best),
              jnp.where(is_better, at.tokens.astype(jnp.float32), winner))

    best, winner = self._pass(visit, (self._full(-jnp.inf), self._full(0.0)))
    [top] = self._join(jnp.max, [best])
    [first] = self._join(jnp.min, [
        jnp.where(best == top, winner, self.vocab - 1.0)])
    return first.astype(jnp.int32)

  def _pass(self, visit, init):
    """`carry = visit(at, is_new, carry)` over this group's part."""
    step = self._num_groups * self._num_tiles * self._tile
    lanes = self._iota()

    def body(i, carry):
      for tile in range(self._num_tiles):
        begin = i * step + self._tile * (
            self._group * self._num_tiles + tile)
        # The last tile is moved back rather than read past the row.
        moved = jnp.minimum(begin, self.vocab - self._tile)
        tokens = moved + lanes
        load = functools.partial(self._load, begin=moved)
        carry = visit(_At(tokens, load), tokens >= begin, carry)
      return carry

    return lax.fori_loop(0, pl.cdiv(self.vocab, step), body, init)

  def _join(self, reduce_fn, parts):
    """Reduces over all lanes of all groups; the same scalars in each."""
    mine = pl.ds(self._group * self._tile, self._tile)
    for i, part in enumerate(parts):
      self._partial_sums[i, mine] = part
    self._meet(0)
    joined = [reduce_fn(self._load_all(i)) for i in range(len(parts))]
    self._meet(1)  # All have read before anyone writes again.
    return joined

  def _meet(self, which):
    plgpu.barrier_arrive(self._barriers.at[which])
    plgpu.barrier_wait(self._barriers.at[which])

  # What the hardware wants told about registers, and the interpreter not.

  def _layout(self):
    return plgpu.Layout.WG_STRIDED((self._tile,), self._width)

  def _full(self, value):
    filled = jnp.full((self._tile,), value, jnp.float32)
    if self._is_interpreted:
      return filled
    return plgpu.layout_cast(filled, self._layout())

  def _iota(self):
    if self._is_interpreted:
      return lax.broadcasted_iota(jnp.int32, (self._tile,), 0)
    return plgpu.broadcasted_iota(
        jnp.int32, (self._tile,), 0, layout=self._layout())

  def _load(self, ref, row, node, begin):
    at = (row, node, pl.ds(begin, self._tile))
    if self._is_interpreted:
      return ref[at].astype(jnp.float32)
    return plgpu.load(ref, at, layout=self._layout()).astype(jnp.float32)

  def _load_all(self, i):
    if self._is_interpreted:
      return self._partial_sums[i]
    # Every warp reads all of it, so that none has to ask another.
    layout = plgpu.Layout.TILED(
        plgpu.Tiling(((_LANES,), (_LANES // _WARP,))),
        warp_dims=(plgpu.Replicated(_LANES // _WARP),), lane_dims=(-2,),
        vector_dim=-1)
    return plgpu.load(self._partial_sums, (i,), layout=layout,
                      optimized=False)
