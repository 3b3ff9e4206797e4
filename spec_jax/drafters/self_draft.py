"""The target drafts for itself with some of its sub-layers left out.

One mechanism for all layer-skipping systems: a chain is drafted by the target's
own gated forward, on its own committed keys and values, and what tells the
systems apart is a *layer policy*: which gates are open for each row, how long
it may draft, and at which confidence it stops. A controller may stop it sooner.
"""

import dataclasses
from typing import Any
from typing import Protocol

from flax import struct
import jax
import jax.numpy as jnp
import numpy as np

from spec_jax.controllers import feedback
from spec_jax.controllers import fixed
from spec_jax.core import keys as keys_lib
from spec_jax.core import protocols
from spec_jax.core import rows as rows_lib
from spec_jax.core import sampling as sampling_lib
from spec_jax.core import types

# Confidence above which so many candidates of a step are submitted; the last
# row takes the rest. One candidate a step is a chain.
CHAIN = ((0.0, 1),)


@struct.dataclass
class Plan:
  """What a policy decided for one round, row by row.

  Attributes:
    gates: `bool[B, M, 2]`, open sub-layers (attention, feed-forward).
    most: `i32[B]`, drafts at most.
    threshold: `f32[B]`; a row stops after a draft that its gated model gives
      less than this (at temperature 1, before any warping).
  """

  gates: jax.Array
  most: jax.Array
  threshold: jax.Array


class LayerPolicy(Protocol):
  """Chooses the layers; a frozen dataclass with pure methods."""

  def taps(self, model: Any) -> tuple[Any, ...]:
    """Target features that `update` reads."""

  def init(self, model: Any, batch: int) -> Any:
    """State, each leaf with a leading axis B."""

  def choose(self, model: Any, params: Any, state: Any, ctx: types.Context,
             start: jax.Array) -> Any:
    """May search, before a round; `start` `i32[B]` is the prompt's length."""

  def plan(self, model: Any, state: Any) -> Plan:
    """The round's plan."""

  def update(self, model: Any, params: Any, state: Any, plan: Plan,
             outcome: types.Outcome) -> Any:
    """Learns from the round; rows whose verdict is empty stay as they are."""


@struct.dataclass
class SelfDraftState:
  """The memory of a round and of the text.

  Attributes:
    policy: the layer policy's state.
    plan: of the round.
    start: `i32[B]`, where the texts start.
    control: the controller's state.
  """

  policy: Any
  plan: Plan
  start: jax.Array
  control: Any


@struct.dataclass
class _Chain:
  """The carry of the draft loop; D steps, W candidates a step."""

  step: jax.Array  # i32[]
  last: jax.Array  # i32[B], the token to feed
  alive: jax.Array  # bool[B]
  tokens: jax.Array  # i32[B, D, W]
  valid: jax.Array  # bool[B, D, W]
  laws: jax.Array | None  # f32[B, D, V]
  fresh: types.FreshKV
  seen: jax.Array | None  # bool[B, V]
  control: Any


@dataclasses.dataclass(frozen=True)
class SelfDrafter:
  """Drafts with the gated target until every row has stopped.

  Its parameters are the target's (`register(drafter="target")`), unless `names`
  say that a controller has some beside them.
  Nothing of a draft outlives its round: the verifying forward computes all
  layers of all accepted tokens, so the cache only ever holds the whole model's
  keys and values.

  Attributes:
    model: the target.
    policy: a `LayerPolicy`.
    depth: drafts at most.
    draw: at temperature > 0: "iid", "without_replacement" (for more than one
      candidate a step) or "top_k" (deterministic).
    widths: `((confidence, candidates), ...)`, falling; the first row whose
      confidence is exceeded counts. Only the first candidate is extended.
    controller: a `protocols.Controller`; it is asked about the first
      candidates, after the policy.
    names: of the target's and of the controller's parameters among the
      drafter's; None if the controller has none.
  """

  model: Any
  policy: Any
  depth: int
  draw: str = "iid"
  widths: tuple[tuple[float, int], ...] = CHAIN
  controller: Any = fixed.Fixed()
  names: tuple[str, str] | None = None

  def __post_init__(self):
    if self.depth < 1:
      raise ValueError(f"depth={self.depth}, expected at least 1.")
    draws = ("iid", "top_k") if self.max_children == 1 else (
        "without_replacement", "top_k")
    if self.draw not in draws:
      raise ValueError(
          f"draw={self.draw!r} with {self.max_children} candidates a step,"
          f" expected one of {draws}.")

  @property
  def needs(self) -> protocols.Needs:
    return protocols.Needs(taps=self.policy.taps(self.model),
                           target_cache=True, draws=(self.draw,))

  @property
  def max_children(self) -> int:
    return max(width for _, width in self.widths)

  def model_params(self, params):
    return params if self.names is None else params[self.names[0]]

  def init(self, params, batch, capacity):
    policy = self.policy.init(self.model, batch)
    return SelfDraftState(policy, self.policy.plan(self.model, policy),
                          jnp.ones((batch,), jnp.int32),
                          self.controller.init(batch))

  def prefill(self, params, state, tokens, count, taps=None):
    return state.replace(start=state.start + count)

  def propose(self, params, state, ctx, sampling):
    own = None if self.names is None else params[self.names[1]]
    params = self.model_params(params)
    policy = self.policy.choose(
        self.model, params, state.policy, ctx, state.start)
    plan = self.policy.plan(self.model, policy)
    plan = plan.replace(most=jnp.minimum(plan.most, self.depth))
    chain = jax.lax.while_loop(
        lambda c: (c.step < self.depth) & c.alive.any(),
        lambda c: self._draw_step(params, own, c, plan, ctx, sampling),
        self._start(plan, state.control, ctx, sampling))
    return self._tree(chain, ctx.root), state.replace(
        policy=policy, plan=plan, control=chain.control)

  def update(self, params, state, outcome):
    firsts = outcome.tree.valid[:, 1::self.max_children]
    return state.replace(
        policy=self.policy.update(
            self.model, self.model_params(params), state.policy, state.plan,
            outcome),
        control=feedback.after_round(
            self.controller, state.control, firsts.sum(-1, dtype=jnp.int32),
            state.plan.most, outcome.verdict))

  def _start(self, plan, control, ctx, sampling):
    batch, depth, width = ctx.root.shape[0], self.depth, self.max_children
    vocab = self.model.vocab_size
    is_random = self.draw != "top_k" and not sampling.is_greedy
    return _Chain(
        step=jnp.zeros((), jnp.int32), last=ctx.root,
        alive=(plan.most > 0) & ctx.takes_part,
        tokens=jnp.zeros((batch, depth, width), jnp.int32),
        valid=jnp.zeros((batch, depth, width), bool),
        laws=jnp.zeros((batch, depth, vocab)) if is_random else None,
        fresh=self.model.empty_scratch(batch, depth),
        seen=sampling_lib.seen_tokens(ctx.tokens, ctx.length, vocab)
        if sampling.needs_seen else None,
        control=self.controller.begin(control, ctx.keys, ctx.length))

  def _draw_step(self, params, own, c, plan, ctx, sampling):
    logits, fresh, features = self._feed(params, c, plan, ctx)
    tokens, exists, law = self._candidates(c, logits, ctx, sampling)
    confidence = jnp.take_along_axis(
        jax.nn.softmax(logits), tokens[:, :1], axis=1)[:, 0]
    limits = jnp.asarray([limit for limit, _ in self.widths])
    widths = jnp.asarray([width for _, width in self.widths])
    over = confidence[:, None] > limits[None]
    width = jnp.where(
        over.any(-1), widths[jnp.argmax(over, -1)], widths[-1])
    submitted = (exists & c.alive[:, None]
                 & (jnp.arange(self.max_children)[None] < width[:, None]))
    proceeds, control = self.controller.proceed(
        own, c.control, types.Drafted(c.step, confidence, features))
    alive = (c.alive & exists[:, 0] & (confidence >= plan.threshold)
             & (c.step + 1 < plan.most) & proceeds)
    seen = c.seen
    if seen is not None:
      seen |= jax.nn.one_hot(tokens[:, 0], seen.shape[-1], dtype=bool)
    return c.replace(
        step=c.step + 1, last=tokens[:, 0], alive=alive, fresh=fresh,
        tokens=c.tokens.at[:, c.step].set(tokens),
        valid=c.valid.at[:, c.step].set(submitted), seen=seen,
        control=rows_lib.where(c.alive, control, c.control),
        laws=None if c.laws is None else c.laws.at[:, c.step].set(law))

  def _feed(self, params, c, plan, ctx):
    batch = c.last.shape[0]
    slots = jnp.arange(self.depth + 1)
    mask = (slots < c.step) | (slots == self.depth)
    out = self.model.forward(
        params, c.last[:, None],
        ctx.length[:, None] - 1 + c.step,
        jnp.broadcast_to(mask[None, None], (batch, 1, self.depth + 1)),
        ctx.target_cache, past=c.fresh, gates=plan.gates,
        taps=self.controller.taps)
    write = lambda old, new: jax.lax.dynamic_update_slice_in_dim(
        old, new, c.step, axis=2)
    fresh = types.FreshKV(
        tuple(map(write, c.fresh.k, out.fresh.k)),
        tuple(map(write, c.fresh.v, out.fresh.v)),
        jax.lax.dynamic_update_slice_in_dim(
            c.fresh.positions, out.fresh.positions, c.step, axis=1))
    return out.logits[:, 0], fresh, {
        name: tap[:, 0] for name, tap in out.taps.items()}

  def _candidates(self, c, logits, ctx, sampling):
    """`i32[B, W]` tokens, whether they exist, and the law that drew them."""
    law = sampling.probs(logits, c.seen)
    if c.laws is None:
      scores, tokens = jax.lax.top_k(logits, self.max_children)
      return tokens.astype(jnp.int32), scores > -jnp.inf, None
    make = lambda key, length: sampling_lib.clocks(
        keys_lib.at(key, length + c.step, types.Role.DRAFT, c.step + 1),
        logits.shape[-1])
    noise = jax.vmap(make)(ctx.keys, ctx.length)
    tokens, exists = sampling_lib.first_k_to_ring(
        law, noise, self.max_children)
    return tokens, exists, law

  def _tree(self, c, root):
    batch, depth, width = c.tokens.shape
    flat = lambda a: a.reshape(batch, depth * width)
    # The first candidate of a step is the parent of the next step's.
    firsts = np.concatenate([[0], 1 + width * np.arange(depth - 1)])
    parents = np.concatenate([[-1], np.repeat(firsts, width)])
    return types.DraftTree(
        tokens=jnp.concatenate([root[:, None], flat(c.tokens)], axis=1),
        parents=jnp.broadcast_to(
            jnp.asarray(parents, jnp.int32), (batch, 1 + depth * width)),
        valid=jnp.concatenate(
            [jnp.ones((batch, 1), bool), flat(c.valid)], axis=1),
        q=None if c.laws is None else _laws_of_children(c.laws, width),
        draw="top_k" if c.laws is None else self.draw, depth=depth,
        max_children=width)


def _laws_of_children(laws, width):
  """`f32[B, N, V]`: the root draws by step 0, the first of step d by d + 1."""
  batch, depth, vocab = laws.shape
  later = jnp.pad(laws[:, 1:], ((0, 0), (0, 1), (0, 0)))[:, :, None]
  spread = jnp.pad(later, ((0, 0), (0, 0), (0, width - 1), (0, 0)))
  return jnp.concatenate(
      [laws[:, :1], spread.reshape(batch, depth * width, vocab)], axis=1)
