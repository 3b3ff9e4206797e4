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
  """Selects a draft by rates, rejects only inside H* (Thomas and Pal 2026).

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
  Newton steps of a fixed number. Only the `num_tokens` most likely tokens of q
  have rates (the paper takes the fewest that meet its tolerance); others are
  ignored beside a token with a rate, and if no draft has one, the first is
  selected.

  The table of all drafted multisets has C(num_tokens + K + 1, K) rows.

  Attributes:
    num_tokens: tokens with a rate.
    num_steps: of the solver.
  """

  exact: ClassVar[bool] = True
  draws: ClassVar[tuple[str, ...]] = ("iid",)
  max_drafts: ClassVar[int | None] = 4

  num_tokens: int = 8
  num_steps: int = 24

  def law(self, p, q, drafts, is_draft):
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
    is_inner, sums = _optimal_sums(p, q, count)
    q_top, tokens = jax.lax.top_k(q, min(self.num_tokens, p.shape[0]))
    q_rest = q.at[tokens].set(0)
    table = _multisets(tokens.shape[0], is_draft.shape[0])
    mass = _masses(table, q_top, q_rest.sum(), count)
    contest = _contest(jnp.asarray(table.has_token), is_inner[tokens], mass,
                       (q_top > 0) & (sums[tokens] > 0))
    log_rates = contest.balance(sums[tokens], self.num_steps)
    none_known = q_rest * q_rest.sum() ** jnp.maximum(count - 1, 0)
    selected = jnp.where(count > 0, none_known, 0).at[tokens].set(
        contest.shares(log_rates)[1])
    rates = jnp.where(contest.is_eligible, jnp.exp(log_rates), 0)
    return Plan(tokens, rates, is_inner[tokens], selected)


@struct.dataclass
class Plan:
  """How one draft is selected.

  Attributes:
    tokens: `i32[T]` with rates.
    rates: `f[T]`.
    is_inner: `bool[T]`, the tokens in H*.
    selected: `f[V]`, the law of the selected token; sums to 1 - Pr(none).
  """

  tokens: jax.Array
  rates: jax.Array
  is_inner: jax.Array
  selected: jax.Array

  def choose(self, drafts: jax.Array, is_draft: jax.Array) -> jax.Array:
    """`f[K]`, the chance of each draft; together at most 1."""
    is_here = (self.tokens[None] == drafts[:, None]) & is_draft[:, None]
    # The set counts: only the first of equal drafts competes.
    is_here &= jnp.cumsum(is_here, 0) == 1
    is_outer = is_here & ~self.is_inner[None]
    has_outer = is_outer.any()
    competes = jnp.where(has_outer, is_outer, is_here)
    rates = jnp.where(competes, self.rates[None], 0)
    total = rates.sum() + jnp.where(has_outer, 0.0, 1.0)
    by_rate = rates.sum(1) / jnp.where(total > 0, total, 1)
    is_first = jnp.arange(drafts.shape[0]) == jnp.argmax(is_draft)
    alone = (is_first & is_draft).astype(by_rate.dtype)
    return jnp.where(is_here.any(), by_rate, alone)


@struct.dataclass
class _Contest:
  """Which tokens compete in which multiset.

  Attributes:
    competes: `f[M, T]`, 0 or 1.
    reject: `f[M]`, the rate of the reject clock.
    mass: `f[M]`.
    is_eligible: `bool[T]`.
    is_inner: `bool[T]`.
  """

  competes: jax.Array
  reject: jax.Array
  mass: jax.Array
  is_eligible: jax.Array
  is_inner: jax.Array

  def shares(self, log_rates):
    """Winning chances `f[M, T]`, and the mass that each token gets `f[T]`."""
    weight = self.competes * jnp.exp(log_rates)[None]
    total = self.reject[:, None] + weight.sum(1, keepdims=True)
    chance = weight / jnp.where(total > 0, total, 1)
    return chance, self.mass @ chance

  def balance(self, target, num_steps):
    """Log rates `f[T]` at which each token gets its target: damped Newton."""
    target = jnp.where(self.is_eligible, target, 0)
    # Rates outside H* matter up to a factor; what truncation took from the
    # sums must not push it.
    outer = jnp.where(self.is_inner, 0, target)
    is_contest = (self.reject == 0) & (self.competes.sum(1) > 0)
    got = jnp.where(is_contest, self.mass, 0).sum()
    asked = outer.sum()
    target = jnp.where(self.is_inner, target,
                       outer * got / jnp.where(asked > 0, asked, 1))
    # Below this a curvature is rounding, or a rate on its way to infinity.
    tiny = jnp.finfo(target.dtype).eps ** (2 / 3)

    def step(_, log_rates):
      chance, given = self.shares(log_rates)
      gradient = given - target
      hessian = jnp.diag(given) - chance.T @ (self.mass[:, None] * chance)
      # Scaled, so that one ridge does for all tokens.
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


def _contest(has_token, is_inner, mass, is_eligible):
  """Outer tokens compete where there are any, else inner ones and reject."""
  is_outer = has_token & ~is_inner[None]
  has_outer = is_outer.any(1)
  competes = jnp.where(has_outer[:, None], is_outer, has_token)
  competes = competes & is_eligible[None]
  dtype = mass.dtype
  return _Contest(competes.astype(dtype), (~has_outer).astype(dtype), mass,
                  is_eligible, is_inner)


def _optimal_sums(p, q, count):
  """Membership of H* `bool[V]` and what the optimal plan emits `f[V]`."""
  ratio = jnp.where(q > 0, p / jnp.where(q > 0, q, 1), jnp.inf)
  order = jnp.argsort(ratio)
  prefix = lambda values: jnp.pad(jnp.cumsum(values[order]), (1, 0))
  gain = prefix(p) - jnp.minimum(prefix(q), 1) ** count
  gain = gain.at[-1].set(0)
  size = jnp.argmin(gain)
  rank = jnp.zeros_like(order).at[order].set(jnp.arange(order.shape[0]))
  is_inner = rank < size
  least = jax.lax.cummin(gain, reverse=True)
  outer = p + (least[:-1] - least[1:])[rank]
  return is_inner, jnp.where(is_inner, p, jnp.clip(outer, 0, p))


class _Table(NamedTuple):
  """Multisets of at most K of T tokens and one symbol for all others.

  Attributes:
    counts: `i32[M, T + 1]`, the last for the others.
    ways: `f64[M]`, orders in which a multiset can be drawn.
  """

  counts: np.ndarray
  ways: np.ndarray

  @property
  def has_token(self) -> np.ndarray:
    """`bool[M, T]`."""
    return self.counts[:, :-1] > 0

  @property
  def size(self) -> np.ndarray:
    """`i32[M]`, the number of drafts."""
    return self.counts.sum(1, dtype=np.int32)


@functools.cache
def _multisets(num_tokens, max_drafts):
  rows = [np.bincount(drawn, minlength=num_tokens + 1)
          for size in range(1, max_drafts + 1)
          for drawn in itertools.combinations_with_replacement(
              range(num_tokens + 1), size)]
  counts = np.asarray(rows, np.int32)
  ways = [math.factorial(int(row.sum()))
          / math.prod(map(math.factorial, row.tolist())) for row in counts]
  return _Table(counts, np.asarray(ways))


def _masses(table, q_top, q_rest, count):
  """`f[M]`, the probability of each multiset for `count` iid drafts."""
  laws = jnp.append(q_top, q_rest)
  powers = laws[None] ** table.counts.astype(laws.dtype)
  mass = powers.prod(1) * table.ways.astype(laws.dtype)
  return jnp.where(table.size.astype(laws.dtype) == count, mass, 0)
