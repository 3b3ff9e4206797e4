"""Gumbel coupling with a list of drafts, each on a noise of its own."""

import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp

from spec_jax.core import keys as keys_lib
from spec_jax.core import sampling as sampling_lib
from spec_jax.core import tree as tree_lib
from spec_jax.core import types
from spec_jax.verifiers import joint
from spec_jax.verifiers import matching
from spec_jax.verifiers import walk as walk_lib


@dataclasses.dataclass(frozen=True)
class ListCoupling:
  """Emits the first token to ring in any of several noises (Rowan et al. 2025).

  With clocks E_d, draft d is argmin_x E_d(x) / q(x) and the emitted token is
  argmin_x min_d E_d(x) / p(x) (Gumbel-max list sampling): it follows p and is
  a function of noise and target alone. Drafts drawn otherwise leave it exact,
  but seldom hit.

  Attributes:
    num_drafts: noises, the size of the list; 1 is `SampleAndMatch`.
  """

  num_drafts: int
  exact: ClassVar[bool] = True
  draws: ClassVar[tuple[str, ...]] = types.DRAWS
  max_drafts: ClassVar[int | None] = None

  def __post_init__(self):
    if self.num_drafts < 1:
      raise ValueError(f"num_drafts={self.num_drafts}, expected at least 1.")

  def law(self, p, q, drafts, is_draft):
    """Of drafts that were not drawn with its noise."""
    return matching.SampleAndMatch().law(p, q, drafts, is_draft)


def walk(verifier: ListCoupling, sampling: sampling_lib.Sampling,
         tree: types.DraftTree, p_logits: jax.Array, ctx: types.Context
         ) -> types.Verdict:
  """Follows the emitted tokens; arguments as `walk.walk`.

  Chains with equal beginnings all stay in play, the deepest match is kept.
  """
  if sampling.is_greedy:
    return walk_lib.walk(
        matching.SampleAndMatch(), sampling, tree, p_logits, ctx)
  p = joint.node_laws(sampling, tree, p_logits, ctx)
  row = functools.partial(_walk_row, verifier.num_drafts)
  return jax.vmap(row)(tree, p, ctx.keys, ctx.length)


def _walk_row(num_drafts, row, p, key, length):
  """One row: `row` is a tree without its batch axis, `p` is `f[N, V]`."""
  depths = tree_lib.depths(row.parents[None])[0]
  first = _first_clocks(num_drafts, key, length + jnp.arange(row.depth + 1),
                        p.shape[-1], p.dtype)
  emitted = sampling_lib.first_to_ring(p, first[depths])
  is_hit = row.tokens == emitted[jnp.maximum(row.parents, 0)]
  above = tree_lib.ancestor_mask(row.parents[None], row.valid[None])[0]
  is_root = row.parents < 0
  is_kept = row.valid & ((is_hit | is_root)[None] | ~above).all(-1)
  node = jnp.argmax(jnp.where(is_kept, depths, -1)).astype(jnp.int32)
  return joint.verdict(row, node, emitted[node])


def _first_clocks(num_drafts, key, positions, vocab_size, dtype):
  """The least of all clocks of a token, `f[P, V]`, at each position."""

  def clocks(position, index):
    key_at = keys_lib.at(key, position, types.Role.EMIT, index)
    return sampling_lib.clocks(key_at, vocab_size, dtype)

  if num_drafts == 1:  # The draw of every other system.
    return jax.vmap(lambda position: clocks(position, None))(positions)
  over_drafts = jax.vmap(clocks, (None, 0))
  return jax.vmap(lambda position: over_drafts(
      position, jnp.arange(num_drafts)).min(0))(positions)
