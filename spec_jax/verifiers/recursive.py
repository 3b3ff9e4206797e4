"""Recursive rejection: a failed draft leaves the residual to the next."""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp

from spec_jax.verifiers import couplings


@dataclasses.dataclass(frozen=True)
class Rejection:
  """Speculative sampling of one draft (Leviathan et al. 2023, Sec. 2.3).

  Accepts x with probability min(1, p(x)/q(x)), else draws from the normalised
  residual (p - q)+ (Chen et al. 2023, Theorem 1).
  """

  exact: ClassVar[bool] = True
  draws: ClassVar[tuple[str, ...]] = ("iid", "without_replacement")
  max_drafts: ClassVar[int | None] = 1

  def law(self, p, q, drafts, is_draft):
    return Recursive().law(p, q, drafts, is_draft)


@dataclasses.dataclass(frozen=True)
class Recursive:
  """Recursive rejection of iid drafts (SpecInfer, Algorithm 2; MCSD Sec. 3.2).

  Drafts are tried in order; each failure replaces p by the normalised
  residual (p - q)+. A repeated token has no mass left and fails by itself.
  With `q[K, V]` each draft is held against the law it came from.
  """

  exact: ClassVar[bool] = True
  draws: ClassVar[tuple[str, ...]] = ("iid", "independent")
  max_drafts: ClassVar[int | None] = None

  def law(self, p, q, drafts, is_draft):
    def next_q(q_now, token, k):
      del token
      return q_now if q.ndim == 1 else q[(k + 1) % len(q)]
    first = q if q.ndim == 1 else q[0]
    return couplings.sequential(p, first, drafts, is_draft, next_q)


@dataclasses.dataclass(frozen=True)
class RecursiveWithoutReplacement:
  """Recursive rejection of drafts without replacement (RSD, Algorithm 2).

  As `Recursive`, and a tried token also leaves q, which is renormalised over
  the tokens not yet tried: the law the next draft was drawn from.
  """

  exact: ClassVar[bool] = True
  draws: ClassVar[tuple[str, ...]] = ("without_replacement",)
  max_drafts: ClassVar[int | None] = None

  def law(self, p, q, drafts, is_draft):
    def drop(q, token, k):
      del k
      # However little is left of a peaked q, the next draft was drawn from it;
      # unlike a residual it is a plain sum, so small does not mean rounding.
      vocab = jnp.arange(q.shape[-1], dtype=token.dtype)
      rest = jnp.where(vocab == token, 0, q)
      total = rest.sum(-1, keepdims=True)
      return rest / jnp.where(total > 0, total, 1)
    return couplings.sequential(p, q, drafts, is_draft, drop)
