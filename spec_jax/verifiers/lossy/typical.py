"""Typical acceptance: the threshold follows the target's entropy."""

import dataclasses

import jax
import jax.numpy as jnp

from spec_jax.core import sampling as sampling_lib
from spec_jax.verifiers.lossy import thresholds

_OTHERWISE = ("greedy", "truncated", "target")


@dataclasses.dataclass(frozen=True)
class Typical(thresholds.AcceptanceSet):
  """Accepts `p(x) > min(epsilon, delta exp(-H(p)))` (Medusa, Sec. 2.3.1).

  Not truncated sampling: an accepted draft is emitted as often as it is
  drafted, whatever p says. `truncated` is the law to compare with. At
  temperature 0 it is exact matching. Departures: the entropy carries no 1e-5
  inside its logarithm; see `AcceptanceSet` for trees.

  Attributes:
    epsilon: the highest threshold.
    delta: of the threshold that entropy lowers; the paper takes the square
      root of epsilon.
    otherwise: what is emitted when no draft passes: "greedy" the argmax (the
      paper, and the default of its code), "truncated" a draw from the tokens
      that pass (its code, with `fast=False`), "target" a draw from p, which
      with a threshold out of reach is exact.
  """

  epsilon: float = 0.09
  delta: float = 0.3
  otherwise: str = "greedy"

  def __post_init__(self):
    for name in ("epsilon", "delta"):
      if not getattr(self, name) >= 0:
        raise ValueError(f"{name}={getattr(self, name)}, expected >= 0.")
    if self.otherwise not in _OTHERWISE:
      raise ValueError(
          f"otherwise={self.otherwise!r}, expected one of {_OTHERWISE}.")

  def threshold(self, p: jax.Array) -> jax.Array:
    """`f[]`: what a probability must exceed."""
    return jnp.minimum(
        self.epsilon, self.delta * jnp.exp(-thresholds.entropy(p)))

  def accepts(self, p):
    return p > self.threshold(p)

  def truncated(self, p: jax.Array) -> jax.Array:
    """The target over the tokens that pass; its argmax if none does."""
    kept = jnp.where(self.accepts(p), p, 0)
    total = kept.sum(-1, keepdims=True)
    return jnp.where(total > 0, kept / jnp.where(total > 0, total, 1),
                     sampling_lib.greedy_law(p))

  def rest(self, p):
    if self.otherwise == "target":
      return p
    is_greedy = self.otherwise == "greedy"
    return sampling_lib.greedy_law(p) if is_greedy else self.truncated(p)

  def at_zero(self, p, drafts, is_draft):
    del drafts, is_draft
    return sampling_lib.greedy_law(p)
