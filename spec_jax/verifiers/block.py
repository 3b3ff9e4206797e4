"""Block verification: a chain of drafts is kept or cut as a whole."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from spec_jax.core import tree as tree_lib
from spec_jax.verifiers import couplings
from spec_jax.verifiers import joint

# Bounds unclamped ratios of float32; beyond it a draft is kept for certain.
_MOST = 1e18


@dataclasses.dataclass(frozen=True)
class BlockVerification(joint.JointRule):
  """Keeps the longest part of a chain that passes (Sun et al. 2025, Alg. 2).

  Node i is entered with r_i = min(1, r_{i-1} p(x_i)/q(x_i)), the probability
  that it, or more, is kept. With S_i = sum (r_i p - q)+ it is kept last with
  S_i / (S_i + 1 - r_i), the end of the chain with r_i; the next token comes
  from (r_i p - q)+. Never keeps fewer tokens in expectation than rejection.
  """

  exact: ClassVar[bool] = True
  draws: ClassVar[tuple[str, ...]] = ("iid", "without_replacement")
  max_drafts: ClassVar[int | None] = 1
  cap: ClassVar[float] = 1.0  # Of the ratios, as they are multiplied up.

  def masses(self, p, q, row):
    if row.max_children > 1:
      raise ValueError(
          f"rule {self!r} takes chains, the tree has up to"
          f" max_children={row.max_children}; expected 1.")
    parents = jnp.maximum(row.parents, 0)
    p_token, q_token = (law[parents, row.tokens] for law in (p, q))
    # A token without mass in q cannot be drawn.
    possible = row.valid & (q_token > 0)
    q_token = jnp.where(possible, q_token, 1)

    def enter(node, entry):
      ratio = entry[parents[node]] * p_token[node] / q_token[node]
      return entry.at[node].set(
          jnp.where(possible[node], jnp.minimum(self.cap, ratio), 0))

    entry = jnp.zeros_like(p_token).at[0].set(1)
    entry = jax.lax.fori_loop(1, row.num_nodes, enter, entry)
    has_child = jax.vmap(lambda node: tree_lib.children(
        row.parents, row.valid, node, 1)[1][0])(
            jnp.arange(row.num_nodes, dtype=jnp.int32))
    left = jnp.maximum(entry[:, None] * p - q, 0).sum(-1)
    mass = jnp.minimum(entry, 1)
    keep = jnp.where(has_child, joint.reclaimed(left, mass), mass)
    return entry, jnp.where(row.valid, keep, 0)

  def next_law(self, p, q, mass, drafts, is_draft):
    residual = couplings.normalise(jnp.maximum(mass * p - q, 0), p)
    return jnp.where(is_draft.any(), residual, p)


@dataclasses.dataclass(frozen=True)
class GreedyBlockVerification(BlockVerification):
  """Block verification with unclamped ratios (Sun et al. 2025, greedy variant).

  With R_i the product of the ratios p(x)/q(x), node i is kept last with
  S_i / (S_i + 1 - R_i) or 1, S_i = sum (R_i p - q)+; no rule keeps more of one
  block in expectation. A rule on its own it is not exact: the tokens after the
  emitted one, up to the length of the block, must follow (R p - q)+ with R
  multiplied up along them, which is `next_law`. A round that carries nothing
  but text to the next cannot do that, so no system is built on it. One draft
  has no such tokens, and there it equals rejection.
  """

  exact: ClassVar[bool] = False
  cap: ClassVar[float] = _MOST
