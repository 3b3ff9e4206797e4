"""Block verification: a chain of drafts is kept or cut as a whole."""

import dataclasses
from typing import ClassVar

from flax import struct
import jax
import jax.numpy as jnp

from spec_jax.core import tree as tree_lib
from spec_jax.core import types
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
    entry = self.products(p, q, row, jnp.ones((), p.dtype))
    has_child = jax.vmap(lambda node: tree_lib.children(
        row.parents, row.valid, node, 1)[1][0])(
            jnp.arange(row.num_nodes, dtype=jnp.int32))
    left = jnp.maximum(entry[:, None] * p - q, 0).sum(-1)
    mass = jnp.minimum(entry, 1)
    keep = jnp.where(has_child, joint.reclaimed(left, mass), mass)
    return entry, jnp.where(row.valid, keep, 0)

  def products(self, p: jax.Array, q: jax.Array, row: types.DraftTree,
               start: jax.Array) -> jax.Array:
    """`f[N]`, `start` times the ratios p/q down to each node, capped."""
    parents = jnp.maximum(row.parents, 0)
    p_token, q_token = (law[parents, row.tokens] for law in (p, q))
    # A token without mass in q cannot be drawn.
    possible = row.valid & (q_token > 0)
    q_token = jnp.where(possible, q_token, 1)

    def enter(node, entry):
      ratio = entry[parents[node]] * p_token[node] / q_token[node]
      return entry.at[node].set(
          jnp.where(possible[node], jnp.minimum(self.cap, ratio), 0))

    return jax.lax.fori_loop(
        1, row.num_nodes, enter, jnp.zeros_like(p_token).at[0].set(start))

  def next_law(self, p, q, mass, drafts, is_draft):
    residual = couplings.normalise(jnp.maximum(mass * p - q, 0), p)
    return jnp.where(is_draft.any(), residual, p)


@struct.dataclass
class Debts:
  """What earlier blocks ask of the next tokens, one slot a block, oldest first.

  Attributes:
    ratio: `f[B, L - 1]`, P/Q of the text since the block began.
    left: `i32[B, L - 1]`, how many more tokens the block still decides.
  """

  ratio: jax.Array
  left: jax.Array


@dataclasses.dataclass(frozen=True)
class GreedyBlockVerification(BlockVerification):
  """Block verification with unclamped ratios (Sun et al. 2025, greedy variant).

  With R_i the product of the ratios p(x)/q(x), node i is kept last with
  S_i / (S_i + 1 - R_i) or 1, S_i = sum (R_i p - q)+; no rule keeps more of one
  block in expectation. For that the tokens after the emitted one, up to the
  length of the block, must follow (R p - q)+ with R multiplied up along them:
  `target` is that law, and `Debts` carry R from round to round. A block that
  begins before an older one ends takes the older one's law for its p, so debts
  nest, at most one for each token of a block. Exact with that state, which
  needs a drafter whose q is a function of the text alone and whose chains all
  have one length. One draft leaves no debts, and there it equals rejection.

  Attributes:
    length: L, most drafts of a block.
  """

  cap: ClassVar[float] = _MOST

  length: int = 8

  def __post_init__(self):
    if self.length < 1:
      raise ValueError(f"length={self.length}, expected at least 1 draft.")

  def init_state(self, batch: int) -> Debts:
    slots = (batch, self.length - 1)
    return Debts(jnp.ones(slots), jnp.zeros(slots, jnp.int32))

  def target(self, p, q, row, carry):
    return self._pay(p, q, row, carry)[0]

  def settle(self, p, q, row, carry, node, token):
    owed, laws, ratios = self._pay(p, q, row, carry)
    own = self.products(owed, q, row, jnp.ones((), p.dtype))
    before = jnp.append(ratios[:, node], own[node])
    p_token = jnp.append(laws[:, node, token], owed[node, token])
    q_token = q[node, token]
    step = jnp.where(
        q_token > 0, p_token / jnp.where(q_token > 0, q_token, 1), self.cap)
    depth = joint.depths(row)
    left = jnp.append(carry.left, depth.max()) - depth[node] - 1
    left = jnp.maximum(left, 0)
    ratio = jnp.where(left > 0, jnp.minimum(self.cap, before * step), 1)
    # The oldest block has ended: every round emits a token at least.
    return Debts(ratio[1:].astype(carry.ratio.dtype), left[1:])

  def _pay(self, p, q, row, carry):
    """The law with all debts paid; before each: law `[L-1, N, V]`, P/Q."""
    if row.depth > self.length:
      raise ValueError(
          f"rule {self!r} takes at most length={self.length} drafts, the tree"
          f" has depth={row.depth}.")
    depth = joint.depths(row)

    def pay(p, debt):
      ratio = self.products(p, q, row, debt.ratio.astype(p.dtype))
      owed = couplings.normalise(jnp.maximum(ratio[:, None] * p - q, 0), p)
      is_owed = depth < debt.left
      return jnp.where(is_owed[:, None], owed, p), (p, ratio)

    owed, (laws, ratios) = jax.lax.scan(pay, p, carry)
    return owed, laws, ratios
