"""What the parts of a system must look like, and what they tell about it.

Parts are frozen dataclasses of hyper-parameters: equal values hash equal, so a
rebuilt part does not retrace. Arrays live in pytrees that are passed in.
"""

import dataclasses
from typing import Any
from typing import Protocol

import jax

from spec_jax.core import sampling as sampling_lib
from spec_jax.core import types


@dataclasses.dataclass(frozen=True)
class Needs:
  """What a drafter asks of the other parts, and what it gives.

  Attributes:
    taps: target features it reads in `Outcome.out.taps`.
    target_cache: whether it reads the target's keys and values.
    host_store: whether it must talk to the host between rounds.
    draws: the draw laws it may give, by `types.DRAWS`, sampling at
      temperature > 0 (at temperature 0 every rule is greedy matching).
  """

  taps: tuple[Any, ...] = ()
  target_cache: bool = False
  host_store: bool = False
  draws: tuple[str, ...] = ("deterministic",)


class TargetModel(Protocol):
  """A causal language model; serves as a draft model too."""

  vocab_size: int

  def forward(
      self,
      params: Any,
      tokens: jax.Array,
      positions: jax.Array,
      mask: jax.Array,
      cache: Any = None,
      *,
      past: types.FreshKV | None = None,
      embeds: jax.Array | None = None,
      taps: tuple[Any, ...] = (),
      gates: jax.Array | None = None,
      with_logits: bool = True,
  ) -> types.ModelOut:
    """Runs fresh tokens against a read-only cache.

    Args:
      params: of the model.
      tokens: `i32[B, T]`.
      positions: `i32[B, T]`, positions in the text.
      mask: `bool[B, T, F]`, F = in-flight tokens of `past`, then these T; True
        where a token may look. The committed prefix is always visible.
      cache: committed keys and values, or None for an empty prefix.
      past: in-flight keys and values of earlier calls (a draft tree grown
        level by level), or None.
      embeds: `f[B, T, E]`, taken instead of the tokens' embeddings.
      taps: features to return: a layer index i (the residual stream after i
        layers, 0 = the embeddings) or "final" (after the final norm).
      gates: `bool[M, 2]` for the whole batch or `bool[B, M, 2]`; False skips
        the attention or the feed-forward sub-layer of a layer. Its time is
        saved where it is False for every row.
      with_logits: False leaves out the output head.
    """


class Drafter(Protocol):
  """Proposes continuations of the pending token."""

  needs: Needs

  def init(self, params: Any, batch: int, capacity: int) -> Any:
    """The state before any text; a pytree of fixed shapes."""

  def prefill(self, params: Any, state: Any, tokens: jax.Array,
              count: jax.Array) -> Any:
    """Absorbs a chunk of prompt `i32[B, T]`, `count` `i32[B]` of it valid."""

  def propose(self, params: Any, state: Any, ctx: types.Context,
              sampling: sampling_lib.Sampling
              ) -> tuple[types.DraftTree, Any]:
    """A tree over the pending token; its shape is the same every round."""

  def update(self, params: Any, state: Any, outcome: types.Outcome) -> Any:
    """Absorbs what was accepted; keeps structure, shapes and dtypes."""


class Verifier(Protocol):
  """A token rule: the law of the emitted token, given the drafts.

  Attributes:
    exact: whether the output law equals the target's.
    draws: the draw laws it is valid for.
    max_drafts: most drafts per node, None = any number.
  """

  exact: bool
  draws: tuple[str, ...]
  max_drafts: int | None

  def law(self, p: jax.Array, q: jax.Array | None, drafts: jax.Array,
          is_draft: jax.Array) -> jax.Array:
    """The law of the emitted token.

    Args:
      p: `f[V]`, the target's law.
      q: `f[V]`, the law that drew the drafts; None if they are not random.
      drafts: `i32[K]`, tokens in draw order.
      is_draft: `bool[K]`, False marks padding.

    Returns:
      `f[V]`, summing to 1.
    """
