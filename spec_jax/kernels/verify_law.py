"""What the verification kernels of both platforms share: the law, the walk.

A kernel brings its `rows`, which make passes over a vocabulary. A *reader*
gives the values of a part of it, `reader(at)`; `at.tokens` are its tokens.

  rows.vocab, rows.bits         size; bits that a search settles in one pass
  rows.sums(readers)            `f32[]` of each, in one pass
  rows.max(reader)              `f32[]`
  rows.at_token(reader, token)  its value at one token
  rows.keep(old, new, when)     the reader `new` (where `when`, else `old`);
                                may write over the memory behind `old`

Thresholds are found by counting: the bits of a float are put in order and the
k-th largest is built from its first bit down, exactly and without sorting.
"""

import math

import jax
from jax import lax
import jax.numpy as jnp

from spec_jax.core import tree as tree_lib
from spec_jax.core import types

RULES = ("match", "iid", "without_replacement")
MOST_VOCAB = 2 ** 18
_TOKEN_BITS = 18
_INT_MIN, _INT_MAX = -2 ** 31, 2 ** 31 - 1
_TINY = 8 * float(jnp.finfo(jnp.float32).eps)


def supports(rule, sampling, tree, p_logits) -> bool:
  """Whether `law` is that of this rule and this sampling."""
  return (rule in RULES and not sampling.needs_seen
          and p_logits.shape[-1] <= MOST_VOCAB
          and (rule == "match" or (tree.q is not None
                                   and tree.q.shape == p_logits.shape)))


def children(tree) -> jax.Array:
  """`i32[B, N, K]`, the children of each node; -1 = none."""
  find = lambda parents, valid: jax.vmap(
      lambda node: tree_lib.children(parents, valid, node, tree.max_children)
  )(jnp.arange(tree.num_nodes))
  nodes, exists = jax.vmap(find)(tree.parents, tree.valid)
  return jnp.where(exists, nodes, -1).astype(jnp.int32)


def descend(num_levels, drafts_of, emit_fn, write):
  """The walk of one row: emits at the root, descends while it hits a child.

  Args:
    num_levels: P, levels of the tree.
    drafts_of: node -> its children, -1 = none, and their tokens.
    emit_fn: (level, node, children, tokens) -> the emitted token.
    write: (slot, value): path in slots below P, then count and next token.
  """
  def step(carry):
    level, node, _, _ = carry
    drafts, tokens = drafts_of(node)
    token = emit_fn(level, node, drafts, tokens)
    child = jnp.int32(-1)
    for draft, drafted in reversed(list(zip(drafts, tokens))):
      child = jnp.where((draft >= 0) & (drafted == token), draft, child)
    node = jnp.where(child >= 0, child, node)

    def store(slot, _):  # Slots beyond the path repeat its last node.
      write(slot, node)
      return 0

    lax.fori_loop(level + 1, num_levels, store, 0)
    return level + 1, node, token, child

  zero = jnp.int32(0)
  write(0, zero)
  count, _, token, _ = lax.while_loop(
      lambda carry: carry[3] >= 0, step, (zero, zero, zero, zero))
  write(num_levels, count)
  write(num_levels + 1, token)


def verdict(out: jax.Array) -> types.Verdict:
  """From what `descend` wrote, `i32[B, P + 2]`."""
  return types.Verdict(out[:, :-2], out[:, -2], out[:, -1])


def law(rows, rule, sampling, logits, probs, q, drafts, tokens):
  """A reader of the law of the emitted token; the others may be written over.

  Args:
    rows: see above.
    rule: one of `RULES`.
    sampling: a `core.sampling.Sampling`, not greedy.
    logits: reader.
    probs: reader of memory for the law; None where none is needed.
    q: reader of the draft law; not read by "match".
    drafts: the children of the node, -1 = none.
    tokens: theirs.
  """
  probs = _shape(rows, sampling, logits, probs)
  if rule == "match":
    return probs
  shares, alive = [], jnp.float32(1)
  for draft, token in zip(drafts, tokens):
    share, alive, probs = _attempt(rows, probs, q, draft >= 0, token, alive)
    shares.append(share)
    if rule == "without_replacement":
      q = _drop(rows, q, draft >= 0, token)

  def emitted(at):
    shared = jnp.zeros_like(probs(at))
    for token, share in zip(tokens, shares):
      shared = shared + jnp.where(at.tokens == token, share, 0.0)
    return shared + alive * probs(at)

  return emitted


def ordered(x):
  """Integers in the order of the floats."""
  bits = lax.bitcast_convert_type(x, jnp.int32)
  return jnp.where(bits < 0, bits ^ jnp.int32(_INT_MAX), bits)


def largest(holds, low, num_bits, bits, num_steps=None):
  """The largest t in [low, low + 2^num_bits) with `holds`, true up to it.

  Args:
    holds: thresholds `i32[]` -> whether, for each.
    low: where it surely holds.
    num_bits: a multiple of `bits`.
    bits: settled by one call of `holds`.
    num_steps: calls; 0 gives `low`; None = all.
  """
  def settle(step, found):
    unit = jnp.int32(1) << (num_bits - bits - step * bits)
    candidates = [found + i * unit for i in range(1, 2 ** bits)]
    for candidate, good in zip(candidates, holds(candidates)):
      found = jnp.where(good, candidate, found)
    return found

  num_steps = num_bits // bits if num_steps is None else num_steps
  return lax.fori_loop(0, num_steps, settle, jnp.int32(low))


def _shape(rows, sampling, logits, probs):
  """From logits to the law; see `core.sampling.Sampling`."""
  def scaled(at):
    x = logits(at) / sampling.temperature
    return jnp.where(x == 0, 0.0, x)  # One zero: its order is by bits.

  x = rows.keep(logits, scaled)
  if 0 < sampling.top_k < rows.vocab:
    x = _keep_top(rows, sampling.top_k, x)
  top = rows.max(x)
  mass = rows.keep(probs, lambda at: jnp.exp(x(at) - top))
  if sampling.top_p < 1:
    mass = _keep_nucleus(rows, sampling.top_p, x, mass)
  if sampling.min_p > 0:
    floor = top + math.log(sampling.min_p)
    mass = _keep_where(rows, mass, lambda at: x(at) >= floor)
  [total] = rows.sums([mass])
  return rows.keep(mass, lambda at: mass(at) / total)


def _keep_where(rows, mass, is_in):
  return rows.keep(mass, lambda at: jnp.where(is_in(at), mass(at), 0.0))


def _keep_top(rows, k, x):
  """Sets all below the k-th largest to -inf."""
  def holds(thresholds):
    counts = rows.sums([
        lambda at, t=t: (ordered(x(at)) >= t).astype(jnp.float32)
        for t in thresholds])
    return [count >= k for count in counts]

  kth = largest(holds, _INT_MIN, 32, rows.bits)
  return rows.keep(x, lambda at: jnp.where(
      ordered(x(at)) >= kth, x(at), -jnp.inf))


def _keep_nucleus(rows, top_p, x, mass):
  """Zeroes the tokens before which at least `top_p` of the mass stands."""
  where = lambda is_in: lambda at: jnp.where(is_in(at), mass(at), 0.0)
  [everything] = rows.sums([mass])
  wanted = top_p * everything
  # The last threshold with too much above it: the next value is the boundary.
  last = largest(lambda thresholds: [
      above >= wanted for above in rows.sums([
          where(lambda at, t=t: ordered(x(at)) > t) for t in thresholds])],
                 _INT_MIN, 32, rows.bits)
  edge = -rows.max(lambda at: jnp.where(
      ordered(x(at)) > last, -x(at), -jnp.inf))
  above, num_equal = rows.sums([
      where(lambda at: x(at) > edge),
      lambda at: (x(at) == edge).astype(jnp.float32)])
  # Equal tokens at the boundary enter in order, as long as there is room.
  has_room = lambda thresholds: [
      above + before < wanted for before in rows.sums([
          where(lambda at, t=t: (x(at) == edge) & (at.tokens < t))
          for t in thresholds])]
  steps = jnp.where(num_equal > 1, _TOKEN_BITS // rows.bits, 0)
  final = largest(has_room, 0, _TOKEN_BITS, rows.bits, steps)
  final = jnp.where(num_equal > 1, final, rows.vocab)
  return _keep_where(rows, mass, lambda at: (x(at) > edge) | (
      (x(at) == edge) & (at.tokens <= final)))


def _attempt(rows, probs, q, is_draft, token, alive):
  """One try: what the draft receives, what is left alive, and the residual."""
  p_token, q_token = rows.at_token(probs, token), rows.at_token(q, token)
  accept = jnp.where(
      is_draft & (q_token > 0),
      jnp.minimum(1.0, p_token / jnp.where(q_token > 0, q_token, 1.0)), 0.0)
  residual = lambda at: jnp.maximum(probs(at) - q(at), 0.0)
  [total] = rows.sums([residual])
  # Where nothing but rounding is left, as in `couplings.normalise`.
  left = rows.keep(probs, lambda at: residual(at) / total,
                   is_draft & (total > _TINY))
  return alive * accept, alive * (1 - accept), left


def _drop(rows, q, is_draft, token):
  """Takes a tried token out of the draft law."""
  rest = lambda at: jnp.where(at.tokens == token, 0.0, q(at))
  [left] = rows.sums([rest])
  safe = jnp.where(left > 0, left, 1.0)
  return rows.keep(q, lambda at: rest(at) / safe, is_draft)
