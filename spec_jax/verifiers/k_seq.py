"""K-SEQ: iid drafts tried in order, each against the same discounted target."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from spec_jax.verifiers import couplings


@dataclasses.dataclass(frozen=True)
class KSeq:
  """Sequential selection of iid drafts (SpecTr, Algorithm 2).

  Draft x is accepted with probability min(1, p(x) / (rho q(x))); the target is
  not updated between tries, so that one residual in closed form serves after
  the last. With beta(rho) = sum min(q, p/rho) and n drafts the rule is exact
  for any rho at which `1 - (1 - beta)^n <= rho beta`; the least such rho in
  [1, n] accepts most, and at least (1 - 1/e) of the transport optimum
  (Theorem 2). Both n and rho are those of the drafts that exist: fewer than
  the padding suggests ask for a smaller rho.
  """

  exact: ClassVar[bool] = True
  draws: ClassVar[tuple[str, ...]] = ("iid",)
  max_drafts: ClassVar[int | None] = None

  def law(self, p, q, drafts, is_draft):
    rho = self.division_factor(p, q, is_draft)
    common = jnp.minimum(q, p / rho)
    accepts = jax.vmap(couplings.acceptance_ratio, (None, None, 0))(
        p, rho * q, drafts)
    law, alive = jnp.zeros_like(p), jnp.ones((), p.dtype)
    for k in range(drafts.shape[0]):
      accept = jnp.where(is_draft[k], accepts[k], 0)
      law = law.at[drafts[k]].add(alive * accept)
      alive = alive * (1 - accept)
    num_tries = _expected_tries(common.sum(), is_draft)
    unused = jnp.maximum(p - common * num_tries, 0)
    return law + alive * couplings.normalise(unused, p)

  def division_factor(self, p: jax.Array, q: jax.Array, is_draft: jax.Array
                      ) -> jax.Array:
    """The least exact rho, from above, to the resolution of the dtype.

    Args:
      p: `f[V]`, the target's law.
      q: `f[V]`, the draft law.
      is_draft: `bool[K]`; the number of True is n.

    Returns:
      `f[]` in [1, max(n, 1)].
    """
    low = jnp.ones((), p.dtype)
    high = jnp.maximum(low, is_draft.sum().astype(p.dtype))

    def halve(_, bounds):
      low, high = bounds
      rho = (low + high) / 2
      # Dividing the condition by beta saves it from underflow at small beta.
      is_exact = _expected_tries(
          jnp.minimum(q, p / rho).sum(), is_draft) <= rho
      return jnp.where(is_exact, low, rho), jnp.where(is_exact, rho, high)

    halvings = jnp.finfo(p.dtype).nmant + 2
    return jax.lax.fori_loop(0, halvings, halve, (low, high))[1]


def _expected_tries(beta, is_draft):
  """`(1 - (1 - beta)^n) / beta`, as the sum of `(1 - beta)^j` over j < n."""
  tries, alive = jnp.zeros_like(beta), jnp.ones_like(beta)
  for k in range(is_draft.shape[0]):
    tries = tries + jnp.where(is_draft[k], alive, 0)
    alive = jnp.where(is_draft[k], alive * (1 - beta), alive)
  return tries
