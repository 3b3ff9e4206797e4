"""Lenience: the rejection test with the target's probability inflated."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from spec_jax.core import sampling as sampling_lib
from spec_jax.verifiers import couplings
from spec_jax.verifiers.lossy import thresholds

_INFLATED = {
    "linear": lambda p, epsilon: p / epsilon,
    "square": lambda p, epsilon: p / epsilon ** 2,
    "power": lambda p, epsilon: p ** epsilon,
}


@dataclasses.dataclass(frozen=True)
class Lenience:
  """Accepts x with probability `min(1, f(p(x)) / q(x))`, f inflating p.

  DistillSpec (Zhou et al. 2024, Sec. 5.3); "linear" is the lenience of
  Leviathan et al. 2023 (Appendix A.5). A rejected draft is replaced from the
  usual residual (p - q)+, a choice made here. No token is then emitted with
  more than `f(p(x))`, and the bias equals the acceptance gained over the exact
  rule.

  A draft that was not random counts as drawn from a point mass. At
  temperature 0 p and q are point masses and lenience is without effect, so
  there x passes if `f(p(x)) >= max p`, both at temperature 1 (Appendix A.5).
  One draft a node, as in both papers.

  Attributes:
    epsilon: in (0, 1]; 1 is exact. Neither paper names a default.
    kind: "linear" p/epsilon, "square" p/epsilon^2, "power" p^epsilon.
  """

  exact: ClassVar[bool] = False
  draws: ClassVar[tuple[str, ...]] = thresholds.ANY_DRAW
  max_drafts: ClassVar[int | None] = 1

  epsilon: float = 0.5
  kind: str = "linear"

  def __post_init__(self):
    if not 0 < self.epsilon <= 1:
      raise ValueError(f"epsilon={self.epsilon}, expected in (0, 1].")
    if self.kind not in _INFLATED:
      raise ValueError(
          f"kind={self.kind!r}, expected one of {tuple(_INFLATED)}.")

  def inflated(self, p: jax.Array) -> jax.Array:
    """`f[V]`, at least p; no law."""
    return _INFLATED[self.kind](p, self.epsilon)

  def law(self, p, q, drafts, is_draft):
    drawn = jnp.zeros_like(p).at[drafts].add(is_draft.astype(p.dtype))
    q = drawn if q is None else q
    ratio = couplings.acceptance_ratio(self.inflated(p), q, drafts)
    kept = jnp.where(is_draft, ratio, 0)
    residual = couplings.normalise(jnp.maximum(p - q, 0), p)
    rest = jnp.where(is_draft.any(), residual, p)
    law = (1 - kept.sum()) * rest
    return law.at[drafts].add(kept)

  def at_zero(self, p, drafts, is_draft):
    """The rule at temperature 0, from p at temperature 1."""
    is_accepted = self.inflated(p) >= p.max(-1)
    return thresholds.likeliest(
        p, is_accepted, sampling_lib.greedy_law(p), drafts, is_draft)
