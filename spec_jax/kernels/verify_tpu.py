"""The walk through a draft tree on a TPU (Pallas, Mosaic).

One program per row. At each node of the path the logits and the draft law are
brought on chip once, laid over all eight sublanes; shaping, rejection and the
race of clocks are passes over them there. Nodes off the path are never read,
and nothing of the size of a vocabulary is written back.

Thresholds are found by bisection of the ordered bits of a float, which needs
no sorting and is exact: 32 counts give the k-th largest logit.
"""

import functools
import math

import jax
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
import jax.numpy as jnp

from spec_jax.core import tree as tree_lib
from spec_jax.core import types

RULES = ("match", "iid", "without_replacement")
_SUBLANES, _LANES, _CHUNK = 8, 128, 512
_MOST_VOCAB, _MOST_SCALARS = 2 ** 18, 2 ** 16
_INT_MAX = 2 ** 31 - 1
_TINY = 8 * float(jnp.finfo(jnp.float32).eps)
# Bits of `threefry2x32`: rotations by round, and a constant of the key.
_ROTATIONS, _PARITY = ((13, 15, 26, 6), (17, 29, 16, 24)), 0x1BD11BDA


def supports(rule, sampling, tree, p_logits, keys) -> bool:
  """Whether the kernel computes exactly this walk."""
  batch, num_nodes, vocab = p_logits.shape
  return (rule in RULES and not sampling.is_greedy and not sampling.needs_seen
          and (rule == "match" or tree.q is not None)
          and p_logits.dtype == jnp.float32
          and (tree.q is None or tree.q.dtype == jnp.float32)
          and vocab % _LANES == 0 and vocab <= _MOST_VOCAB
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
    rule: one of `RULES`.
    sampling: a `core.sampling.Sampling`.
    interpret: whether to run on a CPU.
  """
  batch, num_nodes, vocab = p_logits.shape
  depth = tree.depth + 1
  find = lambda parents, valid: jax.vmap(
      lambda node: tree_lib.children(parents, valid, node, tree.max_children)
  )(jnp.arange(num_nodes))
  nodes, exists = jax.vmap(find)(tree.parents, tree.valid)
  children = jnp.where(exists, nodes, -1).astype(jnp.int32)
  key_words = lax.bitcast_convert_type(jax.random.key_data(keys), jnp.int32)
  width = pl.cdiv(vocab, _SUBLANES * _CHUNK) * _CHUNK
  has_q = rule != "match"
  anywhere = pl.BlockSpec(memory_space=pl.ANY)
  laws = (p_logits, tree.q) if has_q else (p_logits,)
  tile = pltpu.VMEM((_SUBLANES, width), jnp.float32)
  out = pl.pallas_call(
      functools.partial(
          _kernel, rule=rule, sampling=sampling, vocab=vocab,
          num_nodes=num_nodes, num_drafts=tree.max_children, depth=depth),
      grid_spec=pltpu.PrefetchScalarGridSpec(
          num_scalar_prefetch=3, grid=(batch,),
          in_specs=[anywhere] * len(laws),
          out_specs=pl.BlockSpec(memory_space=pltpu.SMEM),
          scratch_shapes=[tile] * 3 + [pltpu.SemaphoreType.DMA]),
      out_shape=jax.ShapeDtypeStruct((batch * (depth + 2),), jnp.int32),
      compiler_params=pltpu.CompilerParams(
          dimension_semantics=("arbitrary",),
          vmem_limit_bytes=3 * _SUBLANES * width * 4 + 2 ** 24),
      interpret=interpret,
      name="verify",
  )(children.reshape(-1), tree.tokens.astype(jnp.int32).reshape(-1),
    key_words.reshape(-1), *laws)
  out = out.reshape(batch, depth + 2)
  return types.Verdict(out[:, :depth], out[:, depth], out[:, depth + 1])


def _kernel(children_ref, tokens_ref, keys_ref, *refs, rule, sampling, vocab,
            num_nodes, num_drafts, depth):
  *law_refs, out_ref, logits, probs, q, arrived = refs
  row = pl.program_id(0)
  rows = _Tile(vocab, logits.shape[1])
  begins = row * (depth + 2)

  def step(carry):
    level, node, _, _ = carry
    for source, target in zip(law_refs, (logits, q)):
      rows.fetch(source.at[row], node, target, arrived)
    _shape(rows, sampling, logits, probs)
    drafts = [children_ref[(row * num_nodes + node) * num_drafts + k]
              for k in range(num_drafts)]
    tokens = [tokens_ref[row * num_nodes + jnp.maximum(draft, 0)]
              for draft in drafts]
    shares, alive = [], jnp.float32(1)
    if rule != "match":
      shares, alive = _reject(rows, rule, probs, q, drafts, tokens)
    at = 2 * (row * depth + level)
    token = _race(rows, probs, alive, tokens, shares,
                  keys_ref[at], keys_ref[at + 1])
    child = jnp.int32(-1)
    for draft, drafted in reversed(list(zip(drafts, tokens))):
      child = jnp.where((draft >= 0) & (drafted == token), draft, child)
    node = jnp.where(child >= 0, child, node)

    def store(slot, _):  # Slots beyond the path repeat its last node.
      out_ref[begins + slot] = node
      return 0

    lax.fori_loop(level + 1, depth, store, 0)
    return level + 1, node, token, child >= 0

  out_ref[begins] = 0
  zero = jnp.int32(0)
  count, _, token, _ = lax.while_loop(
      lambda carry: carry[3], step, (zero, zero, zero, row >= 0))
  out_ref[begins + depth] = count
  out_ref[begins + depth + 1] = token


class _Tile:
  """A vocabulary over eight sublanes: token v stands at (v // W, v % W)."""

  def __init__(self, vocab, width):
    self.vocab, self._width = vocab, width

  def fetch(self, source, node, target, arrived):
    """Row `node` of `source[N, V]`."""
    copies = []
    for sublane, begin in enumerate(range(0, self.vocab, self._width)):
      size = min(self._width, self.vocab - begin)
      copies.append(pltpu.make_async_copy(
          source.at[pl.ds(node, 1), pl.ds(begin, size)],
          target.at[pl.ds(sublane, 1), pl.ds(0, size)], arrived))
    for copy in copies:
      copy.start()
    for copy in copies:
      copy.wait()

  def passes(self, visit, init):
    """`carry = visit(columns, tokens, is_token, carry)` over all chunks."""
    shape = (_SUBLANES, _CHUNK)
    sublanes = lax.broadcasted_iota(jnp.int32, shape, 0) * self._width
    lanes = lax.broadcasted_iota(jnp.int32, shape, 1)

    def body(i, carry):
      begin = pl.multiple_of(i * _CHUNK, _CHUNK)
      tokens = sublanes + lanes + begin
      # A short last sublane leaves columns that hold no token.
      return visit(pl.ds(begin, _CHUNK), tokens, tokens < self.vocab, carry)

    return lax.fori_loop(0, self._width // _CHUNK, body, init)

  def sum(self, term):
    """Sum of `term(columns, tokens)` over the vocabulary; f32 scalar."""
    add = lambda columns, tokens, real, total: total + jnp.where(
        real, term(columns, tokens), 0.0)
    return jnp.sum(self.passes(
        add, jnp.zeros((_SUBLANES, _CHUNK), jnp.float32)))

  def max(self, term):
    larger = lambda columns, tokens, real, top: jnp.maximum(
        top, jnp.where(real, term(columns, tokens), -jnp.inf))
    return jnp.max(self.passes(
        larger, jnp.full((_SUBLANES, _CHUNK), -jnp.inf, jnp.float32)))

  def update(self, target, value):
    """Writes `value(columns, tokens)`; 0 where there is no token."""
    def visit(columns, tokens, real, carry):
      target[:, columns] = jnp.where(real, value(columns, tokens), 0.0)
      return carry
    self.passes(visit, 0)


def _ordered(x):
  """Integers in the order of the floats."""
  bits = lax.bitcast_convert_type(x, jnp.int32)
  return jnp.where(bits < 0, bits ^ jnp.int32(_INT_MAX), bits)


def _bisect(holds, low, high, num_steps=32):
  """The largest t in [low, high) with `holds(t)`, which holds up to it."""
  def halve(_, bounds):
    low, high = bounds
    # Half of the sum, without its overflow.
    middle = (low >> 1) + (high >> 1) + (low & high & 1)
    good = holds(middle)
    return jnp.where(good, middle, low), jnp.where(good, high, middle)
  return lax.fori_loop(
      0, num_steps, halve, (jnp.int32(low), jnp.int32(high)))[0]


def _shape(rows, sampling, logits, probs):
  """Turns `logits` into `probs`; see `core.sampling.Sampling`."""
  def scaled(columns, tokens):
    del tokens
    x = logits[:, columns] / sampling.temperature
    return jnp.where(x == 0, 0.0, x)  # One zero: its order is by bits.

  rows.update(logits, scaled)
  read = lambda columns, _: logits[:, columns]
  if 0 < sampling.top_k < rows.vocab:
    is_above = lambda t: rows.sum(lambda columns, _: (
        _ordered(logits[:, columns]) >= t).astype(jnp.float32)
                                  ) >= sampling.top_k
    kth = _bisect(is_above, -_INT_MAX, _INT_MAX)
    rows.update(logits, lambda columns, _: jnp.where(
        _ordered(logits[:, columns]) >= kth, logits[:, columns], -jnp.inf))
  top = rows.max(read)
  rows.update(probs, lambda columns, _: jnp.exp(logits[:, columns] - top))
  if sampling.top_p < 1:
    _keep_nucleus(rows, sampling.top_p, logits, probs)
  if sampling.min_p > 0:
    floor = top + math.log(sampling.min_p)
    rows.update(probs, lambda columns, _: jnp.where(
        logits[:, columns] >= floor, probs[:, columns], 0.0))
  total = rows.sum(lambda columns, _: probs[:, columns])
  rows.update(probs, lambda columns, _: probs[:, columns] / total)


def _keep_nucleus(rows, top_p, logits, probs):
  """Zeroes the tokens before which at least `top_p` of the mass stands."""
  mass = lambda keep: rows.sum(
      lambda columns, tokens: jnp.where(
          keep(logits[:, columns], tokens), probs[:, columns], 0.0))
  wanted = top_p * mass(lambda x, _: x == x)
  # The last threshold with too much above it: the next value is the boundary.
  last = _bisect(lambda t: mass(lambda x, _: _ordered(x) > t) >= wanted,
                 -_INT_MAX, _INT_MAX)
  edge = -rows.max(lambda columns, _: jnp.where(
      _ordered(logits[:, columns]) > last, -logits[:, columns], -jnp.inf))
  above = mass(lambda x, _: x > edge)
  # Equal tokens at the boundary enter in order, as long as there is room.
  at_edge = lambda token: above + mass(
      lambda x, tokens: (x == edge) & (tokens < token))
  num_equal = rows.sum(
      lambda columns, _: (logits[:, columns] == edge).astype(jnp.float32))
  num_steps = jnp.where(num_equal > 1, 19, 0)
  final = _bisect(lambda token: at_edge(token) < wanted, 0,
                  jnp.where(num_equal > 1, rows.vocab, 1), num_steps)
  final = jnp.where(num_equal > 1, final, rows.vocab)
  rows.update(probs, lambda columns, tokens: jnp.where(
      (logits[:, columns] > edge)
      | ((logits[:, columns] == edge) & (tokens <= final)),
      probs[:, columns], 0.0))


def _reject(rows, rule, probs, q, drafts, tokens):
  """Recursive rejection; leaves the last residual in `probs`.

  Returns:
    The mass that each draft receives, and the mass left to the residual.
  """
  alive, shares = jnp.float32(1), []
  for draft, token in zip(drafts, tokens):
    share, alive = _attempt(rows, probs, q, draft >= 0, token, alive)
    shares.append(share)
    if rule == "without_replacement":
      _drop(rows, q, draft >= 0, token)
  return shares, alive


def _attempt(rows, probs, q, is_draft, token, alive):
  """One try: what the draft receives, what is left alive, and the residual."""
  at = lambda ref: rows.sum(lambda columns, tokens: jnp.where(
      tokens == token, ref[:, columns], 0.0))
  p_token, q_token = at(probs), at(q)
  accept = jnp.where(
      is_draft & (q_token > 0),
      jnp.minimum(1.0, p_token / jnp.where(q_token > 0, q_token, 1.0)), 0.0)
  residual = lambda columns, _: jnp.maximum(
      probs[:, columns] - q[:, columns], 0.0)
  total = rows.sum(residual)

  # Where nothing but rounding is left, as in `couplings.normalise`.
  @pl.when(is_draft & (total > _TINY))
  def _():
    rows.update(probs, lambda *at: residual(*at) / total)

  return alive * accept, alive * (1 - accept)


def _drop(rows, q, is_draft, token):
  """Takes a tried token out of the draft law."""
  rest = lambda columns, tokens: jnp.where(tokens == token, 0.0, q[:, columns])
  left = rows.sum(rest)
  safe = jnp.where(left > 0, left, 1.0)

  @pl.when(is_draft)
  def _():
    rows.update(q, lambda *at: rest(*at) / safe)


def _race(rows, probs, alive, tokens, shares, key_0, key_1):
  """The first token to ring, as `core.sampling.first_to_ring` draws it."""
  def visit(columns, numbers, real, carry):
    best, winner = carry
    law = jnp.zeros(numbers.shape, jnp.float32)
    for token, share in zip(tokens, shares):
      law = law + jnp.where(numbers == token, share, 0.0)
    rate = (law + alive * probs[:, columns]) / _clocks(key_0, key_1, numbers)
    is_better = real & (rate > best)
    return (jnp.where(is_better, rate, best),
            jnp.where(is_better, numbers, winner))

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
