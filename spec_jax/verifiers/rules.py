"""Token rules as laws: what is emitted, given target, draft law and drafts.

Every rule here is a frozen dataclass with one method,
`law(p[V], q[V] | None, drafts[K], is_draft[K]) -> probs[V]`. Sampling and exact
enumeration both call it; there is no second implementation of a rule.
"""

import dataclasses
import inspect
from typing import ClassVar

import jax
import jax.numpy as jnp

from spec_jax.core import registry
from spec_jax.core import types


def normalise(mass: jax.Array, fallback: jax.Array) -> jax.Array:
  """`mass / sum(mass)`; `fallback` where nothing (but rounding) is left.

  A residual is empty only if the event it serves has probability zero, so the
  fallback decides nothing; it keeps the branch not taken finite.
  """
  total = mass.sum(-1, keepdims=True)
  tiny = 8 * jnp.finfo(mass.dtype).eps
  is_empty = total <= tiny
  return jnp.where(is_empty, fallback, mass / jnp.where(is_empty, 1, total))


def acceptance_ratio(p: jax.Array, q: jax.Array, token: jax.Array) -> jax.Array:
  """`min(1, p(token) / q(token))`; 0 for a token that cannot be drawn."""
  p_token, q_token = p[token], q[token]
  safe = jnp.where(q_token > 0, q_token, 1)
  return jnp.where(q_token > 0, jnp.minimum(1, p_token / safe), 0)


@dataclasses.dataclass(frozen=True)
class SampleAndMatch:
  """The emitted token is the target's own draw; a draft is kept if it is hit.

  The law ignores the drafts, so it is valid for every way of drawing them,
  and with the same key the text equals autoregressive sampling token for
  token. Called naive sampling in SpecInfer (Sec. 4.3); with one-hot q every
  sequential rejection rule reduces to it.
  """

  exact: ClassVar[bool] = True
  draws: ClassVar[tuple[str, ...]] = types.DRAWS
  max_drafts: ClassVar[int | None] = None

  def law(self, p, q, drafts, is_draft):
    del q, drafts, is_draft
    return p


@dataclasses.dataclass(frozen=True)
class Greedy:
  """Emits the target's most likely token. Exact at temperature 0 only."""

  exact: ClassVar[bool] = False
  draws: ClassVar[tuple[str, ...]] = types.DRAWS
  max_drafts: ClassVar[int | None] = None

  def law(self, p, q, drafts, is_draft):
    del q, drafts, is_draft
    return jax.nn.one_hot(jnp.argmax(p, -1), p.shape[-1], dtype=p.dtype)


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
  """

  exact: ClassVar[bool] = True
  draws: ClassVar[tuple[str, ...]] = ("iid",)
  max_drafts: ClassVar[int | None] = None

  def law(self, p, q, drafts, is_draft):
    return _sequential(p, q, drafts, is_draft, lambda q, token: q)


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
    def drop(q, token):
      # However little is left of a peaked q, the next draft was drawn from it;
      # unlike a residual it is a plain sum, so small does not mean rounding.
      rest = q.at[token].set(0)
      total = rest.sum(-1, keepdims=True)
      return rest / jnp.where(total > 0, total, 1)
    return _sequential(p, q, drafts, is_draft, drop)


def _sequential(p, q, drafts, is_draft, next_q):
  """Tries drafts in order; the mass still alive times the residual is left."""
  law = jnp.zeros_like(p)
  alive = jnp.ones((), p.dtype)
  for k in range(drafts.shape[0]):
    token = drafts[k]
    accept = jnp.where(is_draft[k], acceptance_ratio(p, q, token), 0)
    law = law.at[token].add(alive * accept)
    alive = alive * (1 - accept)
    residual = normalise(jnp.maximum(p - q, 0), p)
    p = jnp.where(is_draft[k], residual, p)
    q = jnp.where(is_draft[k], next_q(q, token), q)
  return law + alive * p


RULES = {
    "greedy": Greedy(),
    "sample_and_match": SampleAndMatch(),
    "rejection": Rejection(),
    "recursive": Recursive(),
    "recursive_without_replacement": RecursiveWithoutReplacement(),
}


@dataclasses.dataclass(frozen=True)
class RuleInfo:
  """What is known of a rule.

  Attributes:
    name: the key.
    exact: whether the output law equals the target's.
    draws: the ways of drawing drafts it is valid for.
    max_drafts: most drafts per node, None = any number.
    summary: one line.
  """

  name: str
  exact: bool
  draws: tuple[str, ...]
  max_drafts: int | None
  summary: str


def names() -> tuple[str, ...]:
  """All rules, sorted."""
  return tuple(sorted(RULES))


def get(name: str):
  """A rule by name; raises `registry.UnknownName`, offering the nearest."""
  if name not in RULES:
    raise registry.UnknownName(registry.unknown("rule", name, names()))
  return RULES[name]


def info(name: str) -> RuleInfo:
  """A rule described as data; raises as `get`."""
  rule = get(name)
  return RuleInfo(name, rule.exact, rule.draws, rule.max_drafts,
                  inspect.getdoc(rule).splitlines()[0])
