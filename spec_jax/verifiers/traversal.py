"""Traversal verification: a tree of drafts, judged from its leaves up."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from spec_jax.core import tree as tree_lib
from spec_jax.verifiers import couplings
from spec_jax.verifiers import joint


@dataclasses.dataclass(frozen=True)
class TraversalVerification(joint.JointRule):
  """Tests leaves first, iid siblings (Weng et al. 2025).

  A child x of a node of mass a is entered with min(1, a p(x)/q(x)). When all
  below it failed, the node goes on with the residual (a p - q)+ for p and with
  S / (S + 1 - a), S its sum, for a. A node whose children all failed is kept
  last with what a has become then. Equals block verification on chains and
  recursive rejection on trees of one level.
  """

  exact: ClassVar[bool] = True
  draws: ClassVar[tuple[str, ...]] = ("iid",)
  max_drafts: ClassVar[int | None] = None

  def masses(self, p, q, row):
    num_nodes = row.num_nodes
    kids, exists = jax.vmap(lambda node: tree_lib.children(
        row.parents, row.valid, node, row.max_children))(
            jnp.arange(num_nodes, dtype=jnp.int32))
    is_inner = exists.any(-1)
    # Leaves need no visit; among the others parents stay before children.
    order = jnp.argsort(~is_inner, stable=True)

    def visit(step, carry):
      entry, keep = carry
      node = order[step]
      below, mass, _ = self._try_children(
          p[node], q[node], entry[node], row.tokens[kids[node]], exists[node])
      slots = jnp.where(exists[node], kids[node], num_nodes)
      return (entry.at[slots].set(below, mode="drop"),
              keep.at[node].set(mass))

    entry = jnp.zeros((num_nodes,), p.dtype).at[0].set(1)
    entry, keep = jax.lax.fori_loop(
        0, is_inner.sum(), visit, (entry, jnp.zeros_like(entry)))
    return entry, jnp.where(is_inner, keep, entry)

  def next_law(self, p, q, mass, drafts, is_draft):
    return self._try_children(p, q, mass, drafts, is_draft)[2]

  def _try_children(self, p, q, mass, drafts, is_draft):
    """Masses `f[K]` of the children; mass and law left when all failed.

    The drafts are those of `core.tree.children`, padding comes last.
    """

    def fail(k, carry):
      p, q, mass, below = carry
      scaled = mass * p
      below = below.at[k].set(
          couplings.acceptance_ratio(scaled, q, drafts[k]))
      residual = jnp.maximum(scaled - q, 0)
      mass = joint.reclaimed(residual.sum(), mass)
      return (couplings.normalise(residual, p), self._next_q(q, drafts[k]),
              mass, below)

    p, _, mass, below = jax.lax.fori_loop(
        0, is_draft.sum(), fail,
        (p, q, mass, jnp.zeros(drafts.shape, p.dtype)))
    return below, mass, p

  def _next_q(self, q, tried):
    """The law of the next sibling."""
    del tried
    return q


@dataclasses.dataclass(frozen=True)
class TraversalWithoutReplacement(TraversalVerification):
  """Tests leaves first, distinct siblings (Weng et al. 2025).

  As `TraversalVerification`, and a tried token also leaves q.
  """

  draws: ClassVar[tuple[str, ...]] = ("without_replacement",)

  def _next_q(self, q, tried):
    # A plain sum, however small: the next sibling was drawn from this.
    rest = q.at[tried].set(0)
    total = rest.sum()
    return rest / jnp.where(total > 0, total, 1)
