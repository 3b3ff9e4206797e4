"""Rules that judge a whole tree of drafts at once, and their walk.

A token rule decides node by node, from the root down. A joint rule looks at all
drafts first and gives the law over (last kept node, next token); it may keep a
long path whose first token alone would have failed. Kept is the first node that
passes its test, leaves before their parents and branches in draw order, so the
law of that node is a product over the nodes before it. Block verification
(Sun et al. 2025, Algorithm 2) and traversal verification (Weng et al. 2025)
differ in the tests only.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from spec_jax.core import keys as keys_lib
from spec_jax.core import sampling as sampling_lib
from spec_jax.core import tree as tree_lib
from spec_jax.core import types
from spec_jax.verifiers import matching
from spec_jax.verifiers import walk as walk_lib


class JointRule:
  """What joint rules share. A rule gives `masses` and `next_law`.

  Trees are `types.DraftTree` without the batch axis, called rows. `masses`
  takes the laws `p[N, V]`, `q[N, V]` at all nodes of a row and returns two
  `f[N]`: the mass with which each node is entered, and the probability of
  keeping it last once nothing below it was kept (0 for padding, 1 for the
  root). `next_law(p[V], q[V], mass, drafts[K], is_draft[K])` is the law `f[V]`
  of the token after a node entered with `mass` that is kept last.

  A rule with a state of its own (`protocols.Verifier`) also overrides `target`
  and `settle`.
  """

  def target(self, p: jax.Array, q: jax.Array, row: types.DraftTree,
             carry: Any) -> jax.Array:
    """The laws `f[N, V]` that this round must follow, given the state."""
    del q, row, carry
    return p

  def settle(self, p: jax.Array, q: jax.Array, row: types.DraftTree,
             carry: Any, node: jax.Array, token: jax.Array) -> Any:
    """The state after a round that kept `node` and emitted `token`.

    Args:
      p: `f[N, V]`, the target's laws, as `target` got them.
      q: `f[N, V]`, the laws that drew the children of each node.
      row: the drafts.
      carry: the state before the round, one row of it.
      node: the last kept node.
      token: emitted after it.
    """
    del p, q, row, node, token
    return carry

  def joint_law(self, p: jax.Array, q: jax.Array, row: types.DraftTree
                ) -> jax.Array:
    """The law `f[N, V]` over (last kept node, next token); sums to 1.

    Args:
      p: `f[N, V]`, the target's laws.
      q: `f[N, V]`, the laws that drew the children of each node.
      row: the drafts, one row of the batch.
    """
    entry, keep = self.masses(p, q, row)
    laws = jax.vmap(lambda node: self._law_after(p, q, row, entry, node))(
        jnp.arange(row.num_nodes, dtype=jnp.int32))
    kept = stop_law(keep, row)[:, None]
    return jnp.where(kept > 0, kept * laws, 0)  # Padding may hold anything.

  def law(self, p, q, drafts, is_draft):
    """The one-level case: law `f[V]` of the first token emitted."""
    num_drafts = drafts.shape[0]
    row = types.DraftTree(
        tokens=jnp.append(jnp.zeros((1,), drafts.dtype), drafts),
        parents=jnp.append(-1, jnp.zeros((num_drafts,), jnp.int32)),
        valid=jnp.append(True, is_draft), q=None, draw=self.draws[0],
        depth=1, max_children=num_drafts)
    everywhere = lambda law: jnp.broadcast_to(
        law, (num_drafts + 1,) + law.shape)
    joint = self.joint_law(everywhere(p), everywhere(q), row)
    return joint[0].at[drafts].add(joint[1:].sum(-1))

  def draw(self, p, q, row, key, length) -> tuple[jax.Array, jax.Array]:
    """A (node, token) from `joint_law`, the node first, then its token.

    The token is the `EMIT` draw of its own position, as in every other system;
    the node is draw 0 of that role at the first position of the round.
    """
    entry, keep = self.masses(p, q, row)
    node = sampling_lib.draw(
        keys_lib.at(key, length, types.Role.EMIT, 0), stop_law(keep, row))
    # The decision read every law. A path through a broken one fails the row.
    is_bad = jnp.isnan(keep)
    node = jnp.where(is_bad.any(), jnp.argmax(is_bad).astype(jnp.int32), node)
    depth = depths(row)[node]
    token = sampling_lib.draw(
        keys_lib.at(key, length + depth, types.Role.EMIT),
        self._law_after(p, q, row, entry, node))
    return node, token

  def _law_after(self, p, q, row, entry, node):
    kids, exists = tree_lib.children(
        row.parents, row.valid, node, row.max_children)
    return self.next_law(p[node], q[node], entry[node], row.tokens[kids],
                         exists)


def stop_law(keep: jax.Array, row: types.DraftTree) -> jax.Array:
  """Probability `f[N]` that a node is the first to pass its test.

  Args:
    keep: `f[N]`, probabilities of the tests; 0 for padding.
    row: tells which nodes are tested before which.
  """
  nodes = jnp.arange(row.num_nodes)
  above = _above(row)
  is_older = ((row.parents[:, None] == row.parents[None])
              & (nodes[None] < nodes[:, None]))
  ones = above.astype(jnp.float32)
  in_older_branch = ones @ is_older.astype(jnp.float32) @ ones.T > 0
  is_below = above.T & (nodes[:, None] != nodes[None])
  failed = jnp.where(in_older_branch | is_below, 1 - keep[None], 1)
  return keep * failed.prod(1)


def _above(row):
  """`bool[N, N]`: entry (i, j) is True iff j is i or an ancestor of i."""
  parents = row.parents.astype(int)  # 64 bits where a proof enables them.
  return tree_lib.ancestor_mask(parents[None], row.valid[None])[0]


def depths(row: types.DraftTree) -> jax.Array:
  """`i32[N]`, edges between a node and the root; -1 for padding."""
  return _above(row).sum(-1, dtype=jnp.int32) - 1


def reclaimed(left: jax.Array, mass: jax.Array) -> jax.Array:
  """`left / (left + 1 - mass)`: the mass of a node whose drafts failed.

  Args:
    left: sum of the residual of the node.
    mass: with which it was entered; a node entered for sure is kept for sure.
  """
  failed = left + (1 - mass)
  return jnp.where(failed == 0, 1, left / jnp.where(failed == 0, 1, failed))


def verdict(row: types.DraftTree, node: jax.Array, token: jax.Array
            ) -> types.Verdict:
  """The verdict that keeps the path to `node` and emits `token` after it."""
  above = _above(row)
  counts = above.sum(-1, dtype=jnp.int32)
  slots = jnp.where(above[node], counts - 1, row.depth + 1)
  path = jnp.full((row.depth + 1,), node, jnp.int32).at[slots].set(
      jnp.arange(row.num_nodes, dtype=jnp.int32), mode="drop")
  return types.Verdict(path, counts[node], token)


def node_laws(sampling: sampling_lib.Sampling, tree: types.DraftTree,
              p_logits: jax.Array, ctx: types.Context) -> jax.Array:
  """The target's law `f[B, N, V]` at every node, each with its own past."""
  if not sampling.needs_seen:
    return sampling.probs(p_logits)
  vocab_size = p_logits.shape[-1]
  seen = sampling_lib.seen_tokens(ctx.tokens, ctx.length, vocab_size)
  above = tree_lib.ancestor_mask(tree.parents, tree.valid)
  slots = jnp.where(above, tree.tokens[:, None, :], vocab_size)
  add = lambda seen, slots: seen.at[slots].set(True, mode="drop")
  return sampling.probs(
      p_logits, jax.vmap(jax.vmap(add, (None, 0)))(seen, slots))


def walk(verifier, sampling: sampling_lib.Sampling, tree: types.DraftTree,
         p_logits: jax.Array, ctx: types.Context) -> types.Verdict:
  """Samples the joint law of the verifier; arguments as `walk.walk`.

  At temperature 0 every lossless rule keeps what the target's argmax matches.
  """
  if sampling.is_greedy:
    return walk_lib.walk(
        matching.SampleAndMatch(), sampling, tree, p_logits, ctx)
  p = node_laws(sampling, tree, p_logits, ctx)
  row = functools.partial(_walk_row, verifier)
  return jax.vmap(row)(tree, p, ctx.keys, ctx.length, ctx.carry)


def _walk_row(verifier, row, p, key, length, carry):
  q = row.q.astype(p.dtype)
  owed = verifier.target(p, q, row, carry)
  node, token = verifier.draw(owed, q, row, key, length)
  return verdict(row, node, token).replace(
      carry=verifier.settle(p, q, row, carry, node, token))
