"""Relaxed acceptance: a draft is backed by the tokens that resemble it."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from spec_jax.core import sampling as sampling_lib
from spec_jax.verifiers import couplings
from spec_jax.verifiers.lossy import neighbours as neighbours_lib
from spec_jax.verifiers.lossy import thresholds


@dataclasses.dataclass(frozen=True)
class Relaxed:
  """Rejection where near tokens lend their mass (LANTERN, Jang et al. 2025).

  The acceptance of x counts the mass of its nearest neighbours, as many of
  them as stay within the budget, as x's own (repository jadohu/LANTERN,
  `evaluate_posterior`). After a rejection the residual (p - q)+ goes to the
  next draft and x leaves q, as in `RecursiveWithoutReplacement`; but where a
  neighbourhood was used, nothing is subtracted on its row of the table.
  Drafts that were not random pass with their backed probability, and else
  leave p together with such a row (LANTERN++, Park et al. 2025).

  The budget bounds how far p moves for a given x. What is emitted may move
  much further: ask `exact_bias`.

  At temperature 0 x passes if it is the argmax once backed. Departures: a
  neighbourhood without mass counts as none, so that delta = 0 is exact; the
  table has one width, where the published code clears one neighbour more than
  it adds up; there, delta > 1 stands for a budget relative to p(x).

  Attributes:
    delta: the budget, in probability; 0 is exact.
    is_relative: the budget is `delta * p(x)` (LANTERN++, its lambda - 1).
    neighbours: which tokens are near, a constant of the compiled program;
      None = none, then it is exact. The paper takes the 1000 nearest codes of
      an image tokenizer.
  """

  exact: ClassVar[bool] = False
  draws: ClassVar[tuple[str, ...]] = (
      "without_replacement",) + thresholds.DETERMINISTIC
  max_drafts: ClassVar[int | None] = None

  delta: float = 0.1
  is_relative: bool = False
  neighbours: neighbours_lib.Neighbours | None = None

  def __post_init__(self):
    if not self.delta >= 0 or (self.delta > 1 and not self.is_relative):
      raise ValueError(
          f"delta={self.delta} with is_relative={self.is_relative}, expected"
          " in [0, 1], or >= 0 if relative.")

  def borrowed(self, p: jax.Array, token: jax.Array) -> jax.Array:
    """`f[]`: the neighbours' mass that backs `token`; within the budget."""
    near = self._near(p, token)
    budget = self.delta * (p[token] if self.is_relative else 1)
    mass = jnp.cumsum(p[near])
    # What rounding leaves of a residual is not a neighbourhood.
    tiny = 8 * jnp.finfo(p.dtype).eps
    return jnp.where((mass > tiny) & (mass <= budget), mass, 0).max(initial=0)

  def law(self, p, q, drafts, is_draft):
    law, alive = jnp.zeros_like(p), jnp.ones((), p.dtype)
    uniform = jnp.full_like(p, 1 / p.shape[-1])
    for k in range(drafts.shape[0]):
      token, exists = drafts[k], is_draft[k]
      mass = self.borrowed(p, token)
      drawn = jax.nn.one_hot(token, p.shape[-1], dtype=p.dtype)
      backed = p + mass * drawn
      accept = jnp.where(exists, couplings.acceptance_ratio(
          backed, drawn if q is None else q, token), 0)
      law = law + alive * accept * drawn
      alive = alive * (1 - accept)
      is_near = jnp.zeros(p.shape, bool).at[self._near(p, token)].set(True)
      is_near &= mass > 0
      if q is None:
        left = jnp.where(is_near, 0, p) * (1 - drawn)
      else:
        left = jnp.maximum(p - jnp.where(is_near, 0, q), 0)
        others = q * (1 - drawn)
        total = others.sum()
        q = jnp.where(exists, others / jnp.where(total > 0, total, 1), q)
      p = jnp.where(exists, couplings.normalise(left, uniform), p)
    return law + alive * p

  def at_zero(self, p, drafts, is_draft):
    """The rule at temperature 0, from p at temperature 1."""
    is_best = jax.vmap(lambda token: token == sampling_lib.most_likely(
        p.at[token].add(self.borrowed(p, token))))(drafts)
    return thresholds.likeliest(
        p, jnp.ones(p.shape, bool), sampling_lib.greedy_law(p), drafts,
        is_draft & is_best)

  def _near(self, p, token):
    """`i32[k]`, nearest first."""
    if self.neighbours is None:
      return jnp.zeros((0,), jnp.int32)
    if self.neighbours.vocab_size != p.shape[-1]:
      raise ValueError(
          f"neighbours of {self.neighbours.vocab_size} tokens, the target has"
          f" {p.shape[-1]}.")
    return jnp.asarray(self.neighbours.table)[token]
