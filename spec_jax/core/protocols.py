"""What the parts of a system must look like, and what they tell about it.

Parts are frozen dataclasses of hyper-parameters: equal values hash equal, so a
rebuilt part does not retrace. Arrays live in pytrees that are passed in.
"""

import dataclasses
from typing import Any
from typing import Protocol

import jax
import numpy as np

from spec_jax.core import sampling as sampling_lib
from spec_jax.core import types


@dataclasses.dataclass(frozen=True)
class Needs:
  """What a drafter asks of the other parts, and what it gives.

  Attributes:
    taps: target features it reads, of the prompt in the fifth argument of
      `prefill` and then in `Outcome.out.taps`.
    target_cache: whether it reads the target's keys and values.
    host_store: whether it must talk to the host between rounds; it then is a
      `HostDrafter`.
    riders: whether tokens of its own ride along in the target's forward.
    begun_layers: so many of the target's layers, from the first on, it runs
      over its own tree; the target goes on from there.
    memory: whether it learns across requests (`remember`, or a host store that
      outlives them).
    mates: whether it learns from the other rows of the batch. With either, its
      drafts, and with them the counts, depend on more than the row; the text
      must not, so only rules whose law ignores the drafts may verify them.
    draws: the draw laws it may give, by `types.DRAWS`, sampling at
      temperature > 0 (at temperature 0 every rule is greedy matching).
  """

  taps: tuple[Any, ...] = ()
  target_cache: bool = False
  host_store: bool = False
  riders: bool = False
  begun_layers: int = 0
  memory: bool = False
  mates: bool = False
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
      layers: tuple[int, int] | None = None,
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
      layers: `(i, j)` runs the layers i..j-1 only; fresh and in-flight keys and
        values are theirs alone. Where i > 0, `embeds` is the residual stream
        that enters layer i. None: all of them.
    """


class Drafter(Protocol):
  """Proposes continuations of the pending token."""

  needs: Needs

  def init(self, params: Any, batch: int, capacity: int) -> Any:
    """The state before any text; a pytree of fixed shapes."""

  def prefill(self, params: Any, state: Any, tokens: jax.Array,
              count: jax.Array) -> Any:
    """Absorbs a chunk of prompt `i32[B, T]`, `count` `i32[B]` of it valid.

    The chunks of a row add up to its prompt without the last token, which
    becomes the root. With `needs.taps` there is a fifth argument `taps`: by
    name the target's features `[B, T, E]` of the chunk, those at or beyond
    `count` of padding. What pairs a feature with the token after it keeps the
    last one for the next chunk; padding only ever follows a row's prompt, so a
    chunk of `count` 0 must leave the row as it is.
    """

  def propose(self, params: Any, state: Any, ctx: types.Context,
              sampling: sampling_lib.Sampling
              ) -> tuple[types.DraftTree, Any]:
    """A tree over the pending token; its shape is the same every round."""

  def update(self, params: Any, state: Any, outcome: types.Outcome) -> Any:
    """Absorbs what was accepted; keeps structure, shapes and dtypes."""

  # With `needs.riders` also:
  #   riders(params, state, ctx, tree) -> types.Riders
  # With `needs.begun_layers` also:
  #   begun(state) -> types.Begun, of the tree that was proposed.
  # With `needs.memory`, if it learns on the device, also:
  #   unlearned(params) -> params, what the first request starts from;
  #   remember(params, state) -> params, what the next one does.


class HostDrafter(Drafter, Protocol):
  """A drafter with a half on the host, `needs.host_store`.

  A round: the host half drafts, the device half turns that into a tree and
  learns from the outcome, the host half hears what was emitted. `propose` takes
  the host's draft as a fifth argument, `hosted`. The host half sees the text
  only after it was emitted, so a row's text depends on its prompt, seed and
  system alone, as long as the rule's law ignores the drafts.
  """

  num_hosted: int  # M, the nodes of a `types.HostDraft`.

  def ask(self, params: Any, state: Any, ctx: types.Context) -> Any:
    """What the host half is shown besides the text.

    Traced; a pytree of arrays with a leading axis B.
    """

  def open_store(self) -> Any:
    """The store that outlives requests; the executor keeps it. May be None."""

  def open_session(self, store: Any, texts: list[np.ndarray]
                   ) -> "HostSession":
    """Begins a batch of requests, given their prompts."""


class HostSession(Protocol):
  """The host half of one batch of requests; plain Python and NumPy."""

  def draft(self, asked: Any, running: np.ndarray) -> types.HostDraft:
    """Drafts for the rows `bool[B]` that run; NumPy arrays of fixed shape."""

  def extend(self, row: int, tokens: np.ndarray) -> None:
    """Hears what a row emitted in a round."""

  def close(self) -> None:
    """No row will be drafted for any more."""


class Controller(Protocol):
  """How many tokens of a chain are drafted in a round, row by row.

  A decision may look at what was drafted so far, never at what would be drawn
  next: then no rule becomes inexact. State is a pytree with a leading batch
  axis; it lives in the drafter's state and survives the round.

  Attributes:
    taps: features of the draft model that it reads.
  """

  taps: tuple[Any, ...]

  def init(self, batch: int) -> Any:
    """The state before any round."""

  def begin(self, state: Any, keys: jax.Array, length: jax.Array) -> Any:
    """Before a round; `keys` are `key[B]`, `length` the text's `i32[B]`."""

  def proceed(self, params: Any, state: Any, drafted: types.Drafted
              ) -> tuple[jax.Array, Any]:
    """`bool[B]`, whether to draft one more token; called after each."""

  def update(self, state: Any, checked: types.Checked) -> Any:
    """After a round; rows that took no part are left alone by the caller."""


class Verifier(Protocol):
  """A token rule: the law of the emitted token, given the drafts.

  A rule that is exact only if its next round knows of this one also has
  `init_state(batch) -> state`, a pytree of `[B, ...]`. Its walk finds the state
  in `Context.carry` and leaves the next one in `Verdict.carry`.

  Attributes:
    exact: whether the output law equals the target's.
    draws: the draw laws it is valid for.
    ignores_drafts: whether the law is the same whatever was drafted; False
      where it is not said.
    max_drafts: most drafts per node, None = any number.
    is_costly: whether laws should be computed along the path only, one by one;
      a rule that does not say so is cheap.
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
