"""Rules for the greedy draft law: the top tokens and one draw from the rest."""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp

from spec_jax.verifiers import couplings


@dataclasses.dataclass(frozen=True)
class MdsdGreedy:
  """One rejection against the law of the one random draft (Hu et al. 2025).

  The K - 1 most likely tokens are drafted for certain, so only the last draft
  carries chance: it is held, as a single draft, against the law it was drawn
  from, q renormalised outside the top tokens. A residual token that happens to
  be a top token is an accepted draft all the same. Reaches the transport
  optimum of this way of drawing (Sec. 5.1),
  `p(top) + sum over the rest of min(p, q')`.
  """

  exact: ClassVar[bool] = True
  draws: ClassVar[tuple[str, ...]] = ("greedy",)
  max_drafts: ClassVar[int | None] = None

  def law(self, p, q, drafts, is_draft):
    last = _last(is_draft)
    is_top = is_draft & (jnp.arange(drafts.shape[0]) != last)
    # Padding points beyond the vocabulary: nothing is taken out of q.
    tops = jnp.where(is_top, drafts, q.shape[-1])
    return _single(p, _renormalise(q.at[tops].set(0, mode="drop")),
                   drafts[last], is_draft.any())


@dataclasses.dataclass(frozen=True)
class SpecHub:
  """The sparse transport of two drafts around a hub (SpecHub, Sun et al. 2024).

  The paper draws ordered pairs around the hub a, the most likely token of q:
  the first draft is from q; after another token the second is a, after a it is
  from q outside a. So the pair (i, a) has mass q(i) and (a, i) has mass
  q(a) q(i) / (1 - q(a)), together q(i) / (1 - q(a)): as a set, {a, i} has the
  law of the draw "greedy" with two drafts, and given the set the order is a
  coin, (i, a) with probability 1 - q(a), whatever i is. Drafts come here as
  (a, i); the law is that of the paper's four allocations (i from (i, a), i
  from (a, i), a from (a, i), a from (i, a)) with that coin summed out.
  Accepts as often as `MdsdGreedy`, which is the optimum of the draw.
  A single draft is plain speculative sampling.
  """

  exact: ClassVar[bool] = True
  draws: ClassVar[tuple[str, ...]] = ("greedy",)
  max_drafts: ClassVar[int | None] = 2

  def law(self, p, q, drafts, is_draft):
    hub, other = drafts[jnp.argmax(is_draft)], drafts[_last(is_draft)]
    return jnp.where(is_draft.sum() > 1, self._pair_law(p, q, hub, other),
                     _single(p, q, other, is_draft.any()))

  def _pair_law(self, p, q, hub, other):
    """The emitted law `f[V]` for the hub and one other token."""
    hub_mass = q[hub]
    last = q.at[hub].set(0)  # Mass of (i, hub).
    first = hub_mass * _renormalise(last)  # Mass of (hub, i).
    outside = p.at[hub].set(0)
    wanted = jnp.maximum(outside - last, 0)
    left_last = jnp.maximum(last - outside, 0).sum()
    left_first = jnp.maximum(first - wanted, 0).sum()
    hub_wanted = jnp.maximum(p[hub] - left_first, 0)
    unused = jnp.maximum(wanted - first, 0).at[hub].set(
        jnp.maximum(hub_wanted - left_last, 0))
    residual = couplings.normalise(unused, p)

    def emitted(accept_other, hub_left, available):
      accept_hub = (1 - accept_other) * _share(hub_left, available)
      law = (1 - accept_other - accept_hub) * residual
      return law.at[other].add(accept_other).at[hub].add(accept_hub)

    hub_last = emitted(couplings.acceptance_ratio(outside, last, other),
                       hub_wanted, left_last)
    hub_first = emitted(couplings.acceptance_ratio(wanted, first, other),
                        p[hub], left_first)
    return hub_last + hub_mass * (hub_first - hub_last)


def _last(is_draft):
  """Index of the last draft that exists; the last slot if there is none."""
  return is_draft.shape[0] - 1 - jnp.argmax(is_draft[::-1])


def _renormalise(rest):
  # A plain sum of what is left: however small, it is no rounding.
  total = rest.sum(-1, keepdims=True)
  return rest / jnp.where(total > 0, total, 1)


def _share(wanted, available):
  """`min(1, wanted / available)`; 0 of nothing."""
  safe = jnp.where(available > 0, available, 1)
  return jnp.where(available > 0, jnp.minimum(1, wanted / safe), 0)


def _single(p, q, token, exists):
  """Speculative sampling of one draft; the target's law without it."""
  return couplings.sequential(
      p, q, token[None], exists[None], lambda q, token, k: q)
