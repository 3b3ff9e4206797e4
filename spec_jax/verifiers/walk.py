"""Carries a token rule through a draft tree, from the root down."""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from spec_jax.core import keys as keys_lib
from spec_jax.core import sampling as sampling_lib
from spec_jax.core import tree as tree_lib
from spec_jax.core import types
from spec_jax.kernels import backend as backend_lib
from spec_jax.kernels import verify_gpu
from spec_jax.kernels import verify_tpu
from spec_jax.verifiers import matching
from spec_jax.verifiers import recursive

# Up to this many logits, all nodes are decided at once and the walk only looks
# them up: one pass over a small table is cheaper than several short ones.
# Beyond, or if a law costs more than that, only the nodes on the path are.
_AT_ONCE = 2 ** 17

# Rules that a kernel knows, and what it calls them.
_KERNEL_RULES = {
    matching.SampleAndMatch: "match",
    recursive.Rejection: "iid",
    recursive.Recursive: "iid",
    recursive.RecursiveWithoutReplacement: "without_replacement",
}


def walk(verifier, sampling: sampling_lib.Sampling, tree: types.DraftTree,
         p_logits: jax.Array, ctx: types.Context, backend: str = "auto"
         ) -> types.Verdict:
  """Emits a token at the root; descends while the token is a child.

  At temperature 0 every exact rule emits the target's argmax, whatever was
  drafted and however; that path needs no noise and no draft law.

  Args:
    verifier: the rule.
    sampling: logits to law.
    tree: the drafts.
    p_logits: `f32[B, N, V]`, the target's logits at each node.
    ctx: gives the row keys, the lengths and the text.
    backend: who computes, see `kernels.backend.BACKENDS`; all draw the same.
      On GPUs "auto" is XLA until the kernel has been timed on one.
  """
  if verifier.exact and sampling.is_greedy:
    verifier, tree = matching.SampleAndMatch(), tree.replace(q=None)
  seen = None
  if sampling.needs_seen:
    seen = sampling_lib.seen_tokens(
        ctx.tokens, ctx.length, p_logits.shape[-1])
  rows = jax.vmap(functools.partial(_walk_row, verifier, sampling))
  rule = _KERNEL_RULES.get(type(verifier))
  tpu = gpu = interpreted = None
  if verify_tpu.supports(rule, sampling, tree, p_logits, ctx.keys):
    tpu = functools.partial(walk_on_chip, verify_tpu.walk, rule, sampling)
    interpreted = functools.partial(tpu, interpret=True)
  if backend != "auto" and verify_gpu.supports(rule, sampling, tree, p_logits):
    gpu = functools.partial(walk_on_chip, verify_gpu.walk, rule, sampling)
  verdict = backend_lib.dispatch(
      backend, rows, tree, p_logits, ctx.keys, ctx.length, seen, tpu=tpu,
      gpu=gpu, interpreted=interpreted)
  return verdict.replace(carry=ctx.carry)


@dataclasses.dataclass(frozen=True)
class Walk:
  """`walk` on a backend of choice, as a `System.walk` hashed by value.

  Rules, samplings and shapes that no kernel takes are left to XLA.
  """

  backend: str = "auto"

  def __call__(self, verifier, sampling, tree, p_logits, ctx):
    return walk(verifier, sampling, tree, p_logits, ctx, self.backend)


def is_plain(walk_fn) -> bool:
  """Whether a `System.walk` is `walk`, on whichever backend."""
  return walk_fn is walk or isinstance(walk_fn, Walk)


def on(backend: str, walk_fn):
  """A `System.walk` on one of `kernels.backend.BACKENDS`.

  Walks other than `walk` have no kernel and stay what they are.

  Raises:
    ValueError: no such backend.
  """
  backend_lib.check(backend)
  if not is_plain(walk_fn):
    return walk_fn
  # As systems are composed, so that what was compiled for them serves.
  return walk if backend == "auto" else Walk(backend)


def walk_on_chip(kernel, rule, sampling, tree, p_logits, keys, length,
                 seen=None, **options) -> types.Verdict:
  """`walk` by a kernel, `kernels.verify_tpu.walk` or `verify_gpu.walk`."""
  del seen  # Rules that need it are not supported.
  levels = jnp.arange(tree.depth + 1)
  draw_keys = jax.vmap(lambda key, length: jax.vmap(
      lambda level: keys_lib.at(key, length + level, types.Role.EMIT))(levels)
                       )(keys, length)
  return kernel(tree, p_logits, draw_keys, rule=rule, sampling=sampling,
                **options)


def _walk_row(verifier, sampling, tree, p_logits, key, length, seen):
  """One row: `tree` without its batch axis."""

  def emit(node, depth, seen):
    drafts, exists = tree_lib.children(
        tree.parents, tree.valid, node, tree.max_children)
    p = sampling.probs(p_logits[node], seen)
    q = None if tree.q is None else tree.q[node].astype(p.dtype)
    law = verifier.law(p, q, tree.tokens[drafts], exists)
    if sampling.is_greedy:
      token = sampling_lib.most_likely(law)
    else:
      token = sampling_lib.draw(
          keys_lib.at(key, length + depth, types.Role.EMIT), law)
    hit = exists & (tree.tokens[drafts] == token)
    return token, drafts[jnp.argmax(hit)], hit.any()

  decide = emit
  is_costly = getattr(verifier, "is_costly", False)
  if seen is None and p_logits.size <= _AT_ONCE and not is_costly:
    depths = tree_lib.depths(tree.parents[None])[0]
    table = jax.vmap(lambda node, depth: emit(node, depth, None))(
        jnp.arange(tree.num_nodes), depths)
    decide = lambda node, depth, seen: [column[node] for column in table]

  def body(carry):
    path, depth, node, _, seen, _ = carry
    token, child, is_hit = decide(node, depth, seen)
    if seen is not None:
      seen = seen.at[token].set(True)
    node = jnp.where(is_hit, child, node)
    # Slots beyond the path repeat its last node.
    path = jnp.where(jnp.arange(path.shape[0]) > depth, node, path)
    return path, depth + 1, node, token, seen, is_hit

  def descends(carry):
    *_, is_hit = carry
    return is_hit

  path = jnp.zeros((tree.depth + 1,), jnp.int32)
  zero = jnp.zeros((), jnp.int32)
  path, count, _, token, _, _ = jax.lax.while_loop(
      descends, body, (path, zero, zero, zero, seen, jnp.ones((), bool)))
  return types.Verdict(path, count, token)
