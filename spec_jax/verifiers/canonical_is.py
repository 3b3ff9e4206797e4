"""Two steps: one draft is selected, then verified as the only draft."""

import dataclasses
from typing import ClassVar

from flax import struct
import jax
import jax.numpy as jnp

from spec_jax.verifiers import couplings

# Twice the mean draft law is all that a pair can give a token, so beyond this
# ratio a token is short of mass in any case and its rank among such is idle.
_MAX_RATIO = 3


@dataclasses.dataclass(frozen=True)
class CanonicalIS:
  """Importance-weighted selection of one draft (Khisti et al. 2024, Sec. 3-4).

  Step 1 selects one of the drafts with weights chosen so that the winner's law
  comes close to p; step 2 is speculative sampling of the winner against that
  law. That law is summed in closed form for the weights in use, so the output
  is exact however good they are. Drafts enter two at a time: the winner so
  far, whose law is known, meets the next draft.

  Weights of a pair (Sec. 4, the truncated program): free within the `num_free`
  tokens of largest p(i) - q(i)^2. Of all free weights those that bring the
  winner's law nearest to p also keep most (the nearest point of a base
  polytope: Fujishige 1980), which turns the linear program into a projection,
  solved by accelerated steps. In any other pair i is selected with probability
  (1 + clip(r_i - r_j, -1, 1)) / 2, r = p/q: a choice of our own that hits p
  itself where all ratios lie within 1 of each other.

  Optimal for two iid drafts if every token is free. The paper's best rate was
  measured with an alphabet cut to 40 tokens, 5 of them free; here the alphabet
  is not cut and 40 are free.

  Attributes:
    num_free: tokens whose mutual weights are solved for.
    num_steps: of the solver.
  """

  exact: ClassVar[bool] = True
  draws: ClassVar[tuple[str, ...]] = ("iid", "independent")
  max_drafts: ClassVar[int | None] = None
  is_costly: ClassVar[bool] = True

  num_free: int = 40
  num_steps: int = 24

  def law(self, p, q, drafts, is_draft):
    return couplings.unless_single(self._several, p, q, drafts, is_draft)

  def _several(self, p, q, drafts, is_draft):
    num_drafts = drafts.shape[0]
    winner = jnp.zeros_like(p)
    chances = jnp.zeros((num_drafts,), p.dtype)
    for k in range(num_drafts):
      q_draft = q if q.ndim == 1 else q[k]
      is_new = jnp.arange(num_drafts) == k
      # The first draft there is wins alone.
      next_winner, next_chances = q_draft, is_new.astype(p.dtype)
      if k:
        duel = self.solve(p, winner, q_draft)
        stays = chances * jax.vmap(duel.preference, (0, None))(
            drafts, drafts[k])
        has_winner = is_draft[:k].any()
        next_winner = jnp.where(has_winner, duel.winner, next_winner)
        next_chances = jnp.where(
            has_winner, jnp.where(is_new, chances.sum() - stays.sum(), stays),
            next_chances)
      winner = jnp.where(is_draft[k], next_winner, winner)
      chances = jnp.where(is_draft[k], next_chances, chances)
    accepts = jax.vmap(couplings.acceptance_ratio, (None, None, 0))(
        p, winner, drafts)
    kept = chances * accepts
    residual = couplings.normalise(jnp.maximum(p - winner, 0), p)
    return ((1 - kept.sum()) * residual).at[drafts].add(kept)

  def solve(self, p: jax.Array, q_first: jax.Array, q_second: jax.Array
            ) -> "Duel":
    """The weights of two independent drafts, and the law of the winner.

    Args:
      p: `f[V]`, the target's law.
      q_first: `f[V]`, the law of one draft.
      q_second: `f[V]`, the law of the other.
    """
    mean = (q_first + q_second) / 2
    safe = jnp.where(mean > 0, mean, 1)
    ratio = jnp.where(mean > 0, jnp.minimum(p / safe, _MAX_RATIO), _MAX_RATIO)
    winner = mean + (q_first * _mean_lead(ratio, q_second)
                     + q_second * _mean_lead(ratio, q_first)) / 2
    _, free = jax.lax.top_k(p - q_first * q_second,
                            min(self.num_free, p.shape[0]))
    one, two = q_first[free], q_second[free]
    mass = (one[:, None] * two[None] + two[:, None] * one[None]) / 2
    fixed = mass * _lead(ratio[free][:, None], ratio[free][None])
    rest = (winner - p)[free] - fixed.sum(1)
    shift = self._project(rest, mass, fixed)
    lead = jnp.where(mass > 0, shift / jnp.where(mass > 0, mass, 1), 0)
    return Duel(ratio, free, jnp.clip(lead, -1, 1),
                winner.at[free].add(shift.sum(1) - fixed.sum(1)))

  def _project(self, rest, mass, start):
    """Least squares of `rest + shift.sum(1)` over |shift| <= mass.

    Nesterov steps with restarts. Shifts `f[S, S]` are antisymmetric, so the
    squared norm has curvature S and the step length is 1 / S.
    """

    def step(_, carry):
      shift, ahead, momentum = carry
      excess = rest + ahead.sum(1)
      gradient = excess[:, None] - excess[None]
      new = jnp.clip(ahead - gradient / rest.shape[0], -mass, mass)
      momentum = jnp.where(
          ((ahead - new) * (new - shift)).sum() > 0, 1, momentum)
      next_momentum = (1 + jnp.sqrt(1 + 4 * momentum ** 2)) / 2
      ahead = new + (momentum - 1) / next_momentum * (new - shift)
      return new, ahead, next_momentum

    one = jnp.ones((), rest.dtype)
    return jax.lax.fori_loop(0, self.num_steps, step, (start, start, one))[0]


@struct.dataclass
class Duel:
  """Who wins between two drafts.

  Attributes:
    ratio: `f[V]`, decides where not both tokens are free.
    free: `i32[S]`, tokens with weights of their own.
    lead: `f[S, S]`, antisymmetric: the winning chance of the first of a pair
      minus that of the second.
    winner: `f[V]`, the law of the winner.
  """

  ratio: jax.Array
  free: jax.Array
  lead: jax.Array
  winner: jax.Array

  def preference(self, token: jax.Array, other: jax.Array) -> jax.Array:
    """The probability that `token` wins against `other`."""
    is_token, is_other = self.free == token, self.free == other
    free = self.lead[jnp.argmax(is_token), jnp.argmax(is_other)]
    fixed = _lead(self.ratio[token], self.ratio[other])
    return (1 + jnp.where(is_token.any() & is_other.any(), free, fixed)) / 2


def _lead(ratio, other):
  return jnp.clip(ratio - other, -1, 1)


def _mean_lead(ratio, q):
  """`sum_j q_j clip(r_i - r_j, -1, 1)` for all i: a sort and two sums."""
  order = jnp.argsort(ratio)
  ranked = ratio[order]
  mass = _prefix_sums(q[order])
  moment = _prefix_sums((q * ratio)[order])
  below = jnp.searchsorted(ranked, ratio - 1)
  above = jnp.searchsorted(ranked, ratio + 1, side="right")
  near = mass[above] - mass[below]
  return (mass[below] - (mass[-1] - mass[above]) + ratio * near
          - (moment[above] - moment[below]))


def _prefix_sums(values):
  return jnp.pad(jnp.cumsum(values), (1, 0))
