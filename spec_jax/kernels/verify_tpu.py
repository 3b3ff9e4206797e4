"""The walk through a draft tree on a TPU (Pallas, Mosaic).

One program per row. At each node of the path the logits and the draft law are
brought on chip once, laid over all eight sublanes; shaping, rejection and the
race of clocks are passes over them there. Nodes off the path are never read,
and nothing of the size of a vocabulary is written back.

Copies are of whole lanes. A vocabulary of another size is padded by XLA, where
it can be part of what makes the logits; no pass counts what stands there.
"""

import functools
from typing import Any
from typing import NamedTuple

import jax
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
import jax.numpy as jnp

from spec_jax.core import types
from spec_jax.kernels import verify_law

_SUBLANES, _LANES, _CHUNK = 8, 128, 512
_MOST_SCALARS = 2 ** 16
# Bits of `threefry2x32`: rotations by round, and a constant of the key.
_ROTATIONS, _PARITY = ((13, 15, 26, 6), (17, 29, 16, 24)), 0x1BD11BDA


def supports(rule, sampling, tree, p_logits, keys) -> bool:
  """Whether the kernel computes exactly this walk."""
  batch, num_nodes, vocab = p_logits.shape
  return (verify_law.supports(rule, sampling, tree, p_logits)
          and not sampling.is_greedy
          and p_logits.dtype == jnp.float32
          and (tree.q is None or tree.q.dtype == jnp.float32)
          and batch * num_nodes * (tree.max_children + 1) <= _MOST_SCALARS
          and jax.config.jax_threefry_partitionable
          and str(jax.random.key_impl(keys)) == "threefry2x32")


def walk(tree, p_logits, keys, *, rule, sampling, interpret=False
         ) -> types.Verdict:
  """As `verifiers.walk.walk` with that rule and that sampling.

  Args:
    tree: the drafts.
    p_logits: `f32[B, N, V]`.
    keys: `key[B, P]`, of the draw at each depth.
    rule: one of `verify_law.RULES`.
    sampling: a `core.sampling.Sampling`.
    interpret: whether to run on a CPU.
  """
  batch, num_nodes, vocab = p_logits.shape
  num_levels = tree.depth + 1
  laws = (p_logits,) if rule == "match" else (p_logits, tree.q)
  laws = tuple(map(_whole_lanes, laws))
  key_words = lax.bitcast_convert_type(jax.random.key_data(keys), jnp.int32)
  width = pl.cdiv(vocab, _SUBLANES * _CHUNK) * _CHUNK
  anywhere = pl.BlockSpec(memory_space=pl.ANY)
  tile = pltpu.VMEM((_SUBLANES, width), jnp.float32)
  out = pl.pallas_call(
      functools.partial(
          _kernel, rule=rule, sampling=sampling, vocab=vocab,
          num_nodes=num_nodes, num_drafts=tree.max_children,
          num_levels=num_levels),
      grid_spec=pltpu.PrefetchScalarGridSpec(
          num_scalar_prefetch=3, grid=(batch,),
          in_specs=[anywhere] * len(laws),
          out_specs=pl.BlockSpec(memory_space=pltpu.SMEM),
          scratch_shapes=[tile] * 3 + [pltpu.SemaphoreType.DMA]),
      out_shape=jax.ShapeDtypeStruct((batch * (num_levels + 2),), jnp.int32),
      compiler_params=pltpu.CompilerParams(
          dimension_semantics=("arbitrary",),
          vmem_limit_bytes=3 * _SUBLANES * width * 4 + 2 ** 24),
      interpret=interpret,
      name="verify",
  )(verify_law.children(tree).reshape(-1),
    tree.tokens.astype(jnp.int32).reshape(-1), key_words.reshape(-1), *laws)
  return verify_law.verdict(out.reshape(batch, -1))


def _whole_lanes(law):
  """`law[B, N, V]` with zeros up to a multiple of the lanes."""
  return jnp.pad(law, ((0, 0), (0, 0), (0, -law.shape[-1] % _LANES)))


def _kernel(children_ref, tokens_ref, keys_ref, *refs, rule, sampling, vocab,
            num_nodes, num_drafts, num_levels):
  *law_refs, out_ref, logits, probs, q, arrived = refs
  row = pl.program_id(0)
  rows = _Tile(vocab, logits.shape[1])

  def drafts_of(node):
    drafts = [children_ref[(row * num_nodes + node) * num_drafts + k]
              for k in range(num_drafts)]
    return drafts, [tokens_ref[row * num_nodes + jnp.maximum(draft, 0)]
                    for draft in drafts]

  def emit(level, node, drafts, tokens):
    for source, target in zip(law_refs, (logits, q)):
      rows.fetch(source.at[row], node, target, arrived)
    law = verify_law.law(rows, rule, sampling, *map(_Reader, (
        logits, probs, q)), drafts, tokens)
    at = 2 * (row * num_levels + level)
    return _race(rows, law, keys_ref[at], keys_ref[at + 1])

  def write(slot, value):
    out_ref[row * (num_levels + 2) + slot] = value

  verify_law.descend(num_levels, drafts_of, emit, write)


class _At(NamedTuple):
  columns: pl.Slice
  tokens: jax.Array


class _Reader(NamedTuple):
  """What stands in a tile."""

  ref: Any

  def __call__(self, at):
    return self.ref[:, at.columns]


class _Tile:
  """A vocabulary over eight sublanes: token v stands at (v // W, v % W)."""

  bits = 1

  def __init__(self, vocab, width):
    self.vocab, self._width = vocab, width

  def fetch(self, source, node, target, arrived):
    """Row `node` of `source[N, V]`, what pads it included."""
    copies, stored = [], source.shape[-1]
    for sublane, begin in enumerate(range(0, stored, self._width)):
      size = min(self._width, stored - begin)
      copies.append(pltpu.make_async_copy(
          source.at[pl.ds(node, 1), pl.ds(begin, size)],
          target.at[pl.ds(sublane, 1), pl.ds(0, size)], arrived))
    for copy in copies:
      copy.start()
    for copy in copies:
      copy.wait()

  def passes(self, visit, init):
    """`carry = visit(at, is_token, carry)` over all chunks."""
    shape = (_SUBLANES, _CHUNK)
    sublanes = lax.broadcasted_iota(jnp.int32, shape, 0) * self._width
    lanes = lax.broadcasted_iota(jnp.int32, shape, 1)

    def body(i, carry):
      begin = pl.multiple_of(i * _CHUNK, _CHUNK)
      tokens = sublanes + lanes + begin
      # A short last sublane leaves columns that hold no token.
      return visit(_At(pl.ds(begin, _CHUNK), tokens), tokens < self.vocab,
                   carry)

    return lax.fori_loop(0, self._width // _CHUNK, body, init)

  def sums(self, readers):
    add = lambda at, real, totals: tuple(
        total + jnp.where(real, reader(at), 0.0)
        for total, reader in zip(totals, readers))
    totals = self.passes(add, tuple(
        jnp.zeros((_SUBLANES, _CHUNK), jnp.float32) for _ in readers))
    return [jnp.sum(total) for total in totals]

  def max(self, reader):
    larger = lambda at, real, top: jnp.maximum(
        top, jnp.where(real, reader(at), -jnp.inf))
    return jnp.max(self.passes(
        larger, jnp.full((_SUBLANES, _CHUNK), -jnp.inf, jnp.float32)))

  def at_token(self, reader, token):
    [value] = self.sums([
        lambda at: jnp.where(at.tokens == token, reader(at), 0.0)])
    return value

  def keep(self, old, new, when=None):
    """Writes `new` over `old`; 0 where there is no token."""
    def write():
      def visit(at, real, carry):
        old.ref[:, at.columns] = jnp.where(real, new(at), 0.0)
        return carry
      self.passes(visit, 0)

    write() if when is None else pl.when(when)(write)
    return old


def _race(rows, law, key_0, key_1):
  """The first token to ring, as `core.sampling.first_to_ring` draws it."""
  def visit(at, real, carry):
    best, winner = carry
    rate = law(at) / _clocks(key_0, key_1, at.tokens)
    is_better = real & (rate > best)
    return (jnp.where(is_better, rate, best),
            jnp.where(is_better, at.tokens, winner))

  shape = (_SUBLANES, _CHUNK)
  best, winner = rows.passes(visit, (
      jnp.full(shape, -1.0, jnp.float32), jnp.zeros(shape, jnp.int32)))
  # Floats hold these integers exactly; of equal rates the first token wins.
  number = jnp.where(best == jnp.max(best), winner, rows.vocab - 1)
  return jnp.min(number.astype(jnp.float32)).astype(jnp.int32)


def _clocks(key_0, key_1, counts):
  """`core.sampling.clocks` of the tokens `counts`, bit for bit."""
  bits = _threefry(key_0, key_1, counts)
  ones = lax.shift_right_logical(bits, 9) | jnp.int32(0x3F800000)
  uniform = lax.bitcast_convert_type(ones, jnp.float32) - 1.0
  return -jnp.log(jnp.maximum(uniform, jnp.finfo(jnp.float32).tiny))


def _threefry(key_0, key_1, counts):
  """32 random bits for each count (Salmon et al. 2011, Threefry-2x32-20)."""
  keys = (key_0, key_1, key_0 ^ key_1 ^ jnp.int32(_PARITY))
  first, second = jnp.full_like(counts, 0) + key_0, counts + key_1
  for group in range(5):
    for turn in _ROTATIONS[group % 2]:
      first = first + second
      second = first ^ (
          (second << turn) | lax.shift_right_logical(second, 32 - turn))
    first = first + keys[(group + 1) % 3]
    second = second + keys[(group + 2) % 3] + (group + 1)
  return first ^ second
