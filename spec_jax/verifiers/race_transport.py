"""Race transport: the optimal acceptance of iid drafts at any vocabulary."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from spec_jax.verifiers import couplings
from spec_jax.verifiers import race as race_lib


@dataclasses.dataclass(frozen=True)
class RaceTransport:
  """A race picks one draft, speculative sampling accepts it or not.

  The two steps of Khisti et al. (arXiv 2410.18234, Sec. 3): with E the law of
  the winner Y, accept Y with probability min(1, p(Y)/E(Y)), else draw from the
  normalised residual (p - E)+. Exact for every race, since E is its very law;
  the race of `race.solve` makes the acceptance sum min(p, E) optimal (Hu et
  al., arXiv 2502.18779, Theorem 3) up to the rounding to `num_nodes` laws.
  With `q[K, V]` the race is that of their mean: exact, but not optimal.

  Attributes:
    num_nodes: laws of the score that tokens share, at least 8.
  """

  exact: ClassVar[bool] = True
  draws: ClassVar[tuple[str, ...]] = ("iid", "independent")
  max_drafts: ClassVar[int | None] = None
  is_costly: ClassVar[bool] = True

  num_nodes: int = race_lib.NUM_NODES

  def __post_init__(self):
    if self.num_nodes < 8:
      raise ValueError(f"num_nodes={self.num_nodes}, expected at least 8.")

  def law(self, p, q, drafts, is_draft):
    return couplings.unless_single(self._several, p, q, drafts, is_draft)

  def _several(self, p, q, drafts, is_draft):
    race = race_lib.solve(p, _mean(q, is_draft), is_draft, self.num_nodes)
    return emitted_law(race, p, q, drafts, is_draft)


def emitted_law(race: race_lib.Race, p: jax.Array, q: jax.Array,
                drafts: jax.Array, is_draft: jax.Array) -> jax.Array:
  """The law of the emitted token, given the drafts; exact for every race."""
  winner = race_lib.winner_law(race, q, is_draft)
  kept = race_lib.draft_chances(race, drafts, is_draft) * (
      couplings.acceptance_ratio(p, winner, drafts))
  residual = couplings.normalise(jnp.maximum(p - winner, 0), p)
  return (jnp.maximum(1 - kept.sum(), 0) * residual).at[drafts].add(kept)


def _mean(q, is_draft):
  """The mean `f[V]` of the laws that drew a draft."""
  if q.ndim == 1:
    return q
  weights = is_draft.astype(q.dtype)
  return (weights[:, None] * q).sum(0) / jnp.maximum(weights.sum(), 1)
