"""A draft model that writes a chain whose length a controller decides.

Tokens are drawn in a loop on the device that ends once every row of the batch
has stopped, so stopping early saves draft forwards. What a row drafts does not
depend on how long the others go on, and a row whose text has ended keeps nobody
waiting.
"""

import dataclasses
from typing import Any

from flax import struct
import jax
import jax.numpy as jnp

from spec_jax.caches import dense
from spec_jax.controllers import feedback
from spec_jax.controllers import fixed
from spec_jax.core import keys as keys_lib
from spec_jax.core import protocols
from spec_jax.core import registry
from spec_jax.core import rows as rows_lib
from spec_jax.core import sampling as sampling_lib
from spec_jax.core import tree as tree_lib
from spec_jax.core import types
from spec_jax.drafters import level_drafter

_DRAWS = ("iid", "coupled", "top_k")


@struct.dataclass
class ChainState:
  """The draft model's memory; see `level_drafter.DraftModelState`.

  Attributes:
    cache: keys and values of committed text.
    fresh: keys and values of the root and of all drafts but the last.
    num_drafted: `i32[B]`, in the round that is being verified.
    control: the controller's state.
  """

  cache: Any
  fresh: types.FreshKV
  num_drafted: jax.Array
  control: Any


@struct.dataclass
class _Loop:
  """What a token hands to the next.

  Attributes:
    index: `i32[]`, tokens drawn.
    tokens: `i32[B, D]`.
    count: `i32[B]`, of them those that count.
    is_going: `bool[B]`.
    laws: `f[B, D, V]`, or None.
    fresh: keys and values.
    control: the controller's state.
    seen: `bool[B, 1, V]`, see `level_drafter.seen_by_root`.
    handed: what the last forward hands down to the next one; () of models that
      hand down nothing.
  """

  index: jax.Array
  tokens: jax.Array
  count: jax.Array
  is_going: jax.Array
  laws: jax.Array | None
  fresh: types.FreshKV
  control: Any
  seen: jax.Array | None
  handed: Any


@dataclasses.dataclass(frozen=True)
class ChainDraftModel(level_drafter.ModelDrafter):
  """Drafts a chain with a smaller model of the same vocabulary.

  With `controllers.fixed.Fixed` it drafts the tokens of
  `draft_model.DraftModel` with as many levels.

  Attributes:
    model: a `protocols.TargetModel`.
    controller: a `protocols.Controller`.
    depth: most tokens.
    draw: "iid", "coupled" (with the noise of the emitting draw) or "top_k"; at
      temperature 0 always the most likely token.
    min_length: so many tokens are drafted whatever the controller says.
    names: of the draft model's and of the controller's parameters among the
      drafter's; None if the controller has none.
  """

  controller: Any = fixed.Fixed()
  depth: int = 8
  draw: str = "iid"
  min_length: int = 1
  names: tuple[str, str] | None = None

  def __post_init__(self):
    if self.depth < 1:  # Not every system has a `min_length` to speak of.
      raise ValueError(f"depth={self.depth}, expected at least 1.")
    if not 1 <= self.min_length <= self.depth:
      raise ValueError(
          f"min_length={self.min_length} and depth={self.depth}, expected 1 <="
          " min_length <= depth.")
    if self.draw not in _DRAWS:
      raise ValueError(f"draw={self.draw!r}, expected one of {_DRAWS}."
                       + registry.hint(self.draw, _DRAWS))

  @property
  def needs(self) -> protocols.Needs:
    return protocols.Needs(draws=(self.draw,))

  @property
  def max_children(self) -> int:
    return 1

  def model_params(self, params):
    return params if self.names is None else params[self.names[0]]

  def init(self, params, batch, capacity):
    return ChainState(
        cache=dense.empty(self.model, batch, capacity),
        fresh=self.model.empty_scratch(batch, self.depth),
        num_drafted=jnp.zeros((batch,), jnp.int32),
        control=self.controller.init(batch))

  def propose(self, params, state, ctx, sampling):
    root, cache = self.feed_root(self.model_params(params), state.cache, ctx,
                                 self.controller.taps)
    tree, loop = self.grow(
        params, state.control, state.fresh, cache, ctx, sampling, root)
    return tree, ChainState(cache, loop.fresh, loop.count, loop.control)

  def grow(self, params, control, fresh, cache, ctx, sampling, root,
           token_ids=None) -> tuple[types.DraftTree, _Loop]:
    """The chain below the root.

    Args:
      params: of the drafter.
      control: the controller's state.
      fresh: room for the keys and values of D nodes.
      cache: the draft model's.
      ctx: gives text and keys.
      sampling: of the target.
      root: what the draft model says of the root.
      token_ids: `i32[Z]`, the tokens that the model's logits stand for; None
        where they are all tokens.

    Returns:
      The chain, and all that the loop has gathered.
    """
    draw = "top_k" if sampling.is_greedy else self.draw
    loop = self._start(
        draw, control, fresh, ctx, sampling, root, root.logits.dtype)
    loop = self._draw(params, draw, ctx, sampling, loop, root, token_ids)

    def body(loop):
      out = self._feed(self.model_params(params), cache, ctx, loop)
      loop = loop.replace(fresh=level_drafter.write(
          loop.fresh, out.fresh, loop.index))
      return self._draw(params, draw, ctx, sampling, loop, out, token_ids)

    loop = jax.lax.while_loop(
        lambda loop: (loop.index < self.depth) & loop.is_going.any(), body,
        loop)
    return tree_lib.chain(
        ctx.root, loop.tokens, loop.count, draw, loop.laws), loop

  def update(self, params, state, outcome):
    path = outcome.verdict.path
    # The last draft of a row was not fed, wherever the row stopped.
    slots = jnp.where(path < state.num_drafted[:, None], path, self.depth)
    return level_drafter.commit_fed(
        state.replace(control=self.controlled(state, outcome)),
        outcome.verdict, slots)

  def controlled(self, state: Any, outcome: types.Outcome) -> Any:
    """The controller's state after a round."""
    drafted = outcome.tree.valid[:, 1:].sum(-1, dtype=jnp.int32)
    return feedback.after_round(
        self.controller, state.control, drafted, self.depth, outcome.verdict)

  def starts(self, ctx: types.Context) -> jax.Array:
    """`bool[B]`, the rows that draft."""
    return ctx.takes_part

  def _start(self, draw, control, fresh, ctx, sampling, root, dtype):
    """Nothing is drawn, the root was fed; `dtype` is of laws."""
    batch = ctx.root.shape[0]
    laws = None
    if draw in types.RANDOM_DRAWS:
      laws = jnp.zeros((batch, self.depth, self.model.vocab_size),
                       dtype)
    return _Loop(
        index=jnp.zeros((), jnp.int32),
        tokens=jnp.zeros((batch, self.depth), jnp.int32),
        count=jnp.zeros((batch,), jnp.int32),
        is_going=self.starts(ctx), laws=laws,
        fresh=level_drafter.write(fresh, root.fresh, 0),
        control=self.controller.begin(control, ctx.keys, ctx.length),
        seen=level_drafter.seen_by_root(self.model, ctx, sampling),
        handed=self.handed(root))

  def _feed(self, params, cache, ctx, loop):
    """The forward of the token drawn last."""
    last = jax.lax.dynamic_slice_in_dim(loop.tokens, loop.index - 1, 1, axis=1)
    room = loop.fresh.num_tokens
    mask = jnp.pad(jnp.arange(room) < loop.index, (0, 1), constant_values=True)
    return self.feed(
        params, last, loop.handed, ctx.length[:, None] - 1 + loop.index,
        jnp.broadcast_to(mask, (last.shape[0], 1, room + 1)), cache, loop.fresh,
        loop.index)

  def feed(self, params, tokens, handed, positions, mask, cache, past, level):
    """The forward of drafts; `handed` is what the one before handed down."""
    del handed, level
    return self.model.forward(params, tokens, positions, mask, cache, past=past,
                              taps=self.controller.taps)

  def handed(self, out: types.ModelOut) -> Any:
    """What a forward hands down to the next one."""
    del out
    return ()

  def features(self, out: types.ModelOut) -> dict[Any, jax.Array]:
    """What the controller may read of a forward, `[B, 1, E]` by name."""
    return out.taps

  def _draw(self, params, draw, ctx, sampling, loop, out, token_ids=None):
    """Draws a token from the last forward; asks whether to go on."""
    known = level_drafter.seen_among(loop.seen, token_ids)

    def drawn(sampling, logits):
      law = sampling.probs(logits, known)
      if draw == "top_k" or sampling.is_greedy:
        return law, sampling_lib.most_likely(logits[:, 0])
      return law, self._token(draw, ctx, loop.index, law, token_ids)

    law, token = sampling.decide(drawn, out.logits)
    drafted = types.Drafted(
        index=loop.index, confidence=jnp.take_along_axis(
            jax.nn.softmax(out.logits[:, 0].astype(jnp.float32)),
            token[:, None], axis=1)[:, 0],
        features={name: tap[:, 0]
                  for name, tap in self.features(out).items()})
    if token_ids is not None:
      token = token_ids[token]
    own = None if self.names is None else params[self.names[1]]
    proceeds, control = self.controller.proceed(own, loop.control, drafted)
    proceeds |= loop.index + 1 < self.min_length
    put = lambda a, new: jax.lax.dynamic_update_slice_in_dim(
        a, new, loop.index, axis=1)
    seen = loop.seen
    if seen is not None:
      seen = seen | jax.nn.one_hot(
          token[:, None], seen.shape[-1], dtype=bool)
    return _Loop(
        index=loop.index + 1,
        tokens=put(loop.tokens, jnp.where(loop.is_going, token, 0)[:, None]),
        count=loop.count + loop.is_going.astype(jnp.int32),
        is_going=loop.is_going & proceeds,
        laws=None if loop.laws is None else put(
            loop.laws, level_drafter.over_all(
                law, token_ids, self.model.vocab_size)),
        fresh=loop.fresh, seen=seen, handed=self.handed(out),
        control=rows_lib.where(loop.is_going, control, loop.control))

  def _token(self, draw, ctx, index, law, token_ids):
    role, number = ((types.Role.EMIT, None) if draw == "coupled"
                    else (types.Role.DRAFT, index + 1))
    at = lambda key, position: sampling_lib.clocks(
        keys_lib.at(key, position, role, number), self.model.vocab_size,
        law.dtype)
    noise = jax.vmap(at)(ctx.keys, ctx.length + index)
    if token_ids is not None:
      noise = noise[:, token_ids]
    return sampling_lib.first_to_ring(law[:, 0], noise)
