"""Drafts with the target's first layers; the target goes on from there.

Every token goes through each of the first layers once: drafts on the committed
keys and values of the target itself, and the verifying forward takes the
residual streams where the drafter left them (`needs.begun_layers`). So all
drafts are fed, the last one too.
"""

import dataclasses
from typing import Any

from flax import struct
import jax
import jax.numpy as jnp

from spec_jax.caches import dense
from spec_jax.core import protocols
from spec_jax.core import tree as tree_lib
from spec_jax.core import types
from spec_jax.drafters import chain_draft_model
from spec_jax.drafters import level_drafter
from spec_jax.models import early_exit
from spec_jax.models import prefill as prefill_lib


@struct.dataclass
class EarlyExitState:
  """The memory beside the target's own cache; P = depth + 1.

  Attributes:
    adapted: the adapter's keys and values of all text but the root.
    fresh: keys and values of root and drafts: the target's first layers, then
      the adapter.
    streams: `f[B, P, E]`, their residual streams at the exit.
    num_drafted: `i32[B]`, in the round that is being verified.
    control: the controller's state.
  """

  adapted: Any
  fresh: types.FreshKV
  streams: jax.Array
  num_drafted: jax.Array
  control: Any


@dataclasses.dataclass(frozen=True)
class EarlyExitDrafter(chain_draft_model.ChainDraftModel):
  """A chain of an early exit, as long as a controller wants.

  Its parameters are those of the target, of the adapter and perhaps of the
  controller, by part. The controller reads what the target's output head reads
  under the name "final".

  Attributes:
    model: a `models.early_exit.EarlyExit`.
  """

  @property
  def needs(self) -> protocols.Needs:
    exit_layer = self.model.exit_layer
    return protocols.Needs(
        taps=(exit_layer,), target_cache=True, begun_layers=exit_layer,
        draws=(self.draw,))

  def model_params(self, params):
    return params

  def init(self, params, batch, capacity):
    target, slots = self.model.target, self.depth + 1
    return EarlyExitState(
        adapted=dense.empty(self.model.adapter, batch, capacity),
        fresh=self.model.empty_scratch(batch, slots),
        streams=jnp.zeros((batch, slots, target.config.d_model), target.dtype),
        num_drafted=jnp.zeros((batch,), jnp.int32),
        control=self.controller.init(batch))

  def prefill(self, params, state, tokens, count, taps):
    return state.replace(adapted=prefill_lib.read(
        self.model.adapter, params[self.model.part], state.adapted, tokens,
        count, embeds=taps[self.model.exit_layer])[0])

  def propose(self, params, state, ctx, sampling):
    caches = ctx.target_cache, state.adapted
    draw = "top_k" if sampling.is_greedy else self.draw
    itself = jnp.ones((ctx.root.shape[0], 1, 1), bool)
    root = self.model.forward(
        params, ctx.root[:, None], ctx.length[:, None] - 1, itself, caches)
    loop = self._start(draw, state.control, state.fresh, ctx, sampling, root,
                       jnp.float32)

    def body(carry):
      loop, streams, hidden = carry
      loop = self._draw(params, draw, ctx, sampling, loop, types.ModelOut(
          self.model.logits(params, hidden), None, {"final": hidden}))
      out = self._feed(params, caches, ctx, loop)
      loop = loop.replace(fresh=level_drafter.write(
          loop.fresh, out.fresh, loop.index))
      streams = jax.lax.dynamic_update_slice_in_dim(
          streams, out.taps[early_exit.STREAM], loop.index, axis=1)
      return loop, streams, out.taps[early_exit.HIDDEN]

    loop, streams, _ = jax.lax.while_loop(
        lambda carry: (carry[0].index < self.depth) & carry[0].is_going.any(),
        body, (loop, state.streams.at[:, :1].set(root.taps[early_exit.STREAM]),
               root.taps[early_exit.HIDDEN]))
    tree = tree_lib.chain(ctx.root, loop.tokens, loop.count, draw, loop.laws)
    return tree, EarlyExitState(
        state.adapted, loop.fresh, streams, loop.count, loop.control)

  def feed(self, params, tokens, handed, positions, mask, cache, past, level):
    del handed, level
    return self.model.forward(
        params, tokens, positions, mask, cache, past=past)

  def begun(self, state: EarlyExitState) -> types.Begun:
    """The target's first layers over root and drafts."""
    return types.Begun(
        state.streams, state.fresh.layers(slice(self.model.exit_layer)))

  def update(self, params, state, outcome):
    verdict = outcome.verdict
    adapter = state.fresh.layers(slice(self.model.exit_layer, None))
    return state.replace(
        adapted=state.adapted.commit(adapter, verdict.path, verdict.count),
        control=self.controlled(state, outcome))
