"""Global Resolution: optimal transport of iid drafts by two softmaxes."""

import dataclasses
import functools
import itertools
import math
from typing import ClassVar
from typing import NamedTuple

from flax import struct
import jax
import jax.numpy as jnp
import numpy as np

from spec_jax.verifiers import couplings

# Rates that should go to 0 or infinity are stopped here (natural log).
_MAX_LOG_RATE = 60.0


@dataclasses.dataclass(frozen=True)
class GlobalResolution:
  """Selects a draft by rates, rejects only inside H* (Thomas and Pal 2025).

  H*, the set with the least p(H) - q(H)^n, is a prefix of the tokens by
  ascending p/q. Drafts outside H* are never rejected: the emitted one is drawn
  in proportion to rates e^a over the distinct drafts outside H*. If all drafts
  lie in H*, rates compete with a reject clock of rate 1. The rates minimise a
  convex function whose gradient is what each token is given minus what the
  optimal plan gives it: p inside H*, outside it the polymatroid greedy sums
  `p + R(prefix) - R(next prefix)`, R = the least p(T) - q(T)^n of T beyond.

  Departures. The paper stops at a tolerance and is then that far from p; here
  the true law s of what is selected is summed for the rates in use, a selected
  x is kept with probability min(1, p(x)/s(x)) and the residual is (p - s)+, so
  that the output is exact at any rates and truncation. L-BFGS becomes damped
  Newton steps of a fixed number. Truncation: the paper gives rates to the
  fewest tokens that meet its tolerance and none to the others; here only the
  `num_tokens` most likely tokens of q have one of their own, all others share
  one with those of about their p/q, in `num_pools` pools on either side of H*.

  The table of all multisets of K drafts has C(num_tokens + 2 num_pools + K, K)
  rows.

  Attributes:
    num_tokens: tokens with a rate of their own.
    num_pools: pools of the other tokens inside H*, and again outside.
    num_steps: of the solver.
  """

  exact: ClassVar[bool] = True
  draws: ClassVar[tuple[str, ...]] = ("iid",)
  max_drafts: ClassVar[int | None] = 4
  is_costly: ClassVar[bool] = True

  num_tokens: int = 8
  num_pools: int = 4
  num_steps: int = 24

  def law(self, p, q, drafts, is_draft):
    return couplings.unless_single(self._several, p, q, drafts, is_draft)

  def _several(self, p, q, drafts, is_draft):
    plan = self.solve(p, q, is_draft)
    chosen = plan.choose(drafts, is_draft)
    accepts = jax.vmap(couplings.acceptance_ratio, (None, None, 0))(
        p, plan.selected, drafts)
    kept = chosen * accepts
    residual = couplings.normalise(jnp.maximum(p - plan.selected, 0), p)
    return ((1 - kept.sum()) * residual).at[drafts].add(kept)

  def solve(self, p: jax.Array, q: jax.Array, is_draft: jax.Array) -> "Plan":
    """Rates and the law of the selected token.

    Args:
      p: `f[V]`, the target's law.
      q: `f[V]`, the draft law.
      is_draft: `bool[K]`; the number of True is n.
    """
    count = is_draft.sum().astype(p.dtype)
    order = jnp.argsort(
        jnp.where(q > 0, p / jnp.where(q > 0, q, 1), jnp.inf))
    is_inner, sums = _optimal_sums(p, q, order, count)
    groups, group_is_inner = self._groups(q, order, is_inner)
    pooled = lambda values: jnp.zeros(
        group_is_inner.shape, p.dtype).at[groups].add(values)
    group_q, target = pooled(q), pooled(sums)
    contest = _contest(
        _multisets(group_q.shape[0], is_draft.shape[0]), group_is_inner,
        group_q, count, (group_q > 0) & (target > 0))
    log_rates = contest.balance(target, self.num_steps)
    given = contest.shares(log_rates)[1]
    each = jnp.where(group_q > 0, given / jnp.where(group_q > 0, group_q, 1), 0)
    rates = jnp.where(contest.is_eligible, jnp.exp(log_rates), 0)
    return Plan(groups, rates, group_is_inner, each[groups] * q)

  def _groups(self, q, order, is_inner):
    """The group `i32[V]` of each token, and whether a group is in H*."""
    size = min(self.num_tokens, q.shape[0])
    _, tokens = jax.lax.top_k(q, size)
    rest = q.at[tokens].set(0)
    position = jnp.cumsum(rest[order])  # In the draft mass, by p/q.
    position = jnp.zeros_like(rest).at[order].set(position - rest[order])
    inner_mass = jnp.where(is_inner, rest, 0).sum()
    start = jnp.where(is_inner, 0, inner_mass)
    mass = jnp.where(is_inner, inner_mass, rest.sum() - inner_mass)
    part = (position - start) / jnp.where(mass > 0, mass, 1)
    pool = jnp.floor(part * self.num_pools).astype(jnp.int32)
    pool = jnp.clip(pool, 0, self.num_pools - 1)
    pool = size + pool + jnp.where(is_inner, 0, self.num_pools)
    pools = jnp.arange(2 * self.num_pools) < self.num_pools
    return (pool.at[tokens].set(jnp.arange(size, dtype=jnp.int32)),
            jnp.concatenate([is_inner[tokens], pools]))


@struct.dataclass
class Plan:
  """How one draft is selected; G groups of tokens that share a rate.

  Attributes:
    groups: `i32[V]`, of each token.
    rates: `f[G]`.
    is_inner: `bool[G]`, the groups in H*.
    selected: `f[V]`, the law of the selected token; sums to 1 - Pr(none).
  """

  groups: jax.Array
  rates: jax.Array
  is_inner: jax.Array
  selected: jax.Array

  def choose(self, drafts: jax.Array, is_draft: jax.Array) -> jax.Array:
    """`f[K]`, the chance of each draft; together at most 1."""
    group = self.groups[drafts]
    is_equal = (group[:, None] == group[None]) & is_draft[None]
    # The set counts: only the first draft of a group competes.
    competes = is_draft & ~jnp.tril(is_equal, -1).any(1)
    is_outer = competes & ~self.is_inner[group]
    has_outer = is_outer.any()
    competes = jnp.where(has_outer, is_outer, competes)
    rates = jnp.where(competes, self.rates[group], 0)
    total = rates.sum() + jnp.where(has_outer, 0.0, 1.0)
    return rates / jnp.where(total > 0, total, 1)


@struct.dataclass
class _Contest:
  """Which groups compete in which multiset.

  Attributes:
    competes: `f[M, G]`, 0 or 1.
    reject: `f[M]`, the rate of the reject clock.
    mass: `f[M]`, probabilities of the multisets.
    is_eligible: `bool[G]`.
    is_inner: `bool[G]`.
  """

  competes: jax.Array
  reject: jax.Array
  mass: jax.Array
  is_eligible: jax.Array
  is_inner: jax.Array

  def shares(self, log_rates):
    """Winning chances `f[M, G]`, and the mass that each group gets `f[G]`."""
    weight = self.competes * jnp.exp(log_rates)[None]
    total = self.reject[:, None] + weight.sum(1, keepdims=True)
    chance = weight / jnp.where(total > 0, total, 1)
    return chance, self.mass @ chance

  def balance(self, target, num_steps):
    """Log rates `f[G]` at which each group gets its target: damped Newton."""
    target = jnp.where(self.is_eligible, target, 0)
    # Below this a curvature is rounding, or a rate on its way to infinity.
    tiny = jnp.finfo(target.dtype).eps ** (2 / 3)

    def step(_, log_rates):
      chance, given = self.shares(log_rates)
      gradient = given - target
      hessian = jnp.diag(given) - chance.T @ (self.mass[:, None] * chance)
      # Scaled, so that one ridge does for all groups.
      scale = jnp.where(self.is_eligible, jnp.sqrt(given), 0)
      scale = jnp.where(scale > 0, 1 / jnp.where(scale > 0, scale, 1), 0)
      ridge = jnp.diag(jnp.where(scale > 0, tiny, 1).astype(scale.dtype))
      move = scale * jnp.linalg.solve(
          scale[:, None] * hessian * scale[None] + ridge, scale * gradient)
      # The third derivative is bounded by the second times the spread of the
      # move, for which this damping descends (Bach 2010, Prop. 2).
      spread = jnp.where(self.is_inner, _spread(move, self.is_inner),
                         _spread(move, ~self.is_inner))
      move = move * jnp.log1p(spread) / spread
      moved = jnp.clip(log_rates - move, -_MAX_LOG_RATE, _MAX_LOG_RATE)
      return jnp.where(jnp.isfinite(moved), moved, log_rates)

    return jax.lax.fori_loop(0, num_steps, step, jnp.zeros_like(target))


def _spread(move, block):
  """Range of the moves of a block, which is solved for by itself."""
  move = jnp.where(block, move, 0)
  return jnp.maximum(move.max() - move.min(), jnp.finfo(move.dtype).tiny)


def _contest(table, is_inner, group_q, count, is_eligible):
  """Outer groups compete where there are any, else inner ones and reject."""
  dtype = group_q.dtype
  powers = group_q[None] ** table.counts.astype(dtype)
  mass = powers.prod(1) * table.ways.astype(dtype)
  mass = jnp.where(table.counts.sum(1).astype(dtype) == count, mass, 0)
  is_there = jnp.asarray(table.counts > 0)
  is_outer = is_there & ~is_inner[None]
  has_outer = is_outer.any(1)
  competes = jnp.where(has_outer[:, None], is_outer, is_there)
  return _Contest((competes & is_eligible[None]).astype(dtype),
                  (~has_outer).astype(dtype), mass, is_eligible, is_inner)


def _optimal_sums(p, q, order, count):
  """H* `bool[V]` and what the optimal plan keeps of each draft `f[V]`."""
  prefix = lambda values: jnp.pad(jnp.cumsum(values[order]), (1, 0))
  gain = prefix(p) - jnp.minimum(prefix(q), 1) ** count
  gain = gain.at[-1].set(0)
  rank = jnp.zeros_like(order).at[order].set(jnp.arange(order.shape[0]))
  is_inner = rank < jnp.argmin(gain)
  least = jax.lax.cummin(gain, reverse=True)
  outer = p + (least[:-1] - least[1:])[rank]
  return is_inner, jnp.where(is_inner, p, jnp.clip(outer, 0, p))


class _Table(NamedTuple):
  """Multisets of 1 to K out of G groups.

  Attributes:
    counts: `i32[M, G]`.
    ways: `f64[M]`, orders in which a multiset can be drawn.
  """

  counts: np.ndarray
  ways: np.ndarray


@functools.cache
def _multisets(num_groups, max_drafts):
  rows = [np.bincount(drawn, minlength=num_groups)
          for size in range(1, max_drafts + 1)
          for drawn in itertools.combinations_with_replacement(
              range(num_groups), size)]
  ways = [math.factorial(int(row.sum()))
          / math.prod(map(math.factorial, row.tolist())) for row in rows]
  return _Table(np.asarray(rows, np.int32), np.asarray(ways))
