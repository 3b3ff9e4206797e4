"""Draft & Verify: the target without some sub-layers drafts for itself.

Zhang et al. 2023, arXiv:2309.08168, Sec. 3.2 (layer selection) ->
`experiments.search_layers`, Sec. 3.3 (adaptive draft exiting) ->
`AdaptiveExit`, Algorithm 1 -> the system. The skipped sub-layers are found once
per model; without a found set about the published shares of them (three fifths
of the attention, a quarter of the feed-forward) are left out, evenly.
Departures: drafts are drawn from the law that the rule is shown (the published
sampling routine drafts greedily and tests against the softmax, which is
biased); the threshold starts anew with each text instead of being carried over
prompts, so that a text depends on its prompt alone; it is kept in [0, 1].
"""

import dataclasses

from flax import struct
import jax
import jax.numpy as jnp
import numpy as np

from spec_jax.core import registry
from spec_jax.drafters import self_draft
from spec_jax.systems import registration
from spec_jax.verifiers import matching
from spec_jax.verifiers import recursive

PAPER = registry.Paper(
    title="Draft & Verify: Lossless Large Language Model Acceleration via"
    " Self-Speculative Decoding", authors="Zhang et al.", year=2023,
    arxiv="2309.08168", venue="ACL 2024")
# Shares of the sub-layers that the published searches left out (13B: 24 of 40
# attention and 10 of 40 feed-forward sub-layers).
_ATTENTION_SHARE, _FEED_FORWARD_SHARE = 0.6, 0.25


@struct.dataclass
class ExitState:
  """Moving acceptance rate and the threshold, both `f32[B]`."""

  rate: jax.Array
  threshold: jax.Array


@dataclasses.dataclass(frozen=True)
class AdaptiveExit:
  """A fixed set of skipped sub-layers; the confidence threshold adapts.

  After a round that accepted the share m of its drafts, the moving rate is
  `b1 rate + (1 - b1) m`; the threshold moves towards itself plus `step` where
  the rate is below `goal`, towards itself minus `step` where it is not and
  drafting stopped early, by the factor `1 - b2` (Sec. 3.3).

  Attributes:
    skip_attention: layers, counted from 0.
    skip_feed_forward: layers.
    depth: drafts at most.
    threshold: at the start.
  """

  skip_attention: tuple[int, ...]
  skip_feed_forward: tuple[int, ...]
  depth: int
  threshold: float = 0.6
  goal: float = 0.9
  step: float = 0.01
  b1: float = 0.5
  b2: float = 0.9

  def taps(self, model):
    return ()

  def init(self, model, batch):
    return ExitState(
        jnp.zeros((batch,)),
        jnp.full((batch,), self.threshold, jnp.float32))

  def choose(self, model, params, state, ctx, start):
    return state

  def plan(self, model, state):
    gates = jnp.asarray(open_gates(
        model.config.num_layers, self.skip_attention, self.skip_feed_forward))
    batch = state.threshold.shape[0]
    return self_draft.Plan(
        jnp.broadcast_to(gates[None], (batch,) + gates.shape),
        jnp.full((batch,), self.depth, jnp.int32), state.threshold)

  def update(self, model, params, state, plan, outcome):
    drafted = (outcome.tree.valid.sum(-1) - 1).astype(jnp.float32)
    accepted = (outcome.verdict.count - 1).astype(jnp.float32)
    share = accepted / jnp.maximum(drafted, 1)
    rate = self.b1 * state.rate + (1 - self.b1) * share
    move = jnp.where(
        rate < self.goal, self.step,
        jnp.where(drafted == plan.most.astype(jnp.float32), 0, -self.step))
    threshold = jnp.clip(state.threshold + (1 - self.b2) * move, 0, 1)
    learnt = outcome.verdict.count > 0
    return ExitState(jnp.where(learnt, rate, state.rate),
                     jnp.where(learnt, threshold, state.threshold))


def open_gates(num_layers, skip_attention, skip_feed_forward) -> np.ndarray:
  """`bool[M, 2]`, False where a sub-layer is left out.

  Raises:
    ValueError: a layer that the model does not have.
  """
  gates = np.ones((num_layers, 2), bool)
  for column, layers in enumerate((skip_attention, skip_feed_forward)):
    for layer in layers:
      if not 0 <= layer < num_layers:
        raise ValueError(
            f"layer {layer} is to be skipped, the model has layers 0 to"
            f" {num_layers - 1}.")
      gates[layer, column] = False
  return gates


def evenly(num_layers: int, share: float) -> tuple[int, ...]:
  """About `share` of the layers between the first and the last."""
  inner = num_layers - 2
  count = min(round(share * num_layers), max(inner, 0))
  if not count:
    return ()
  spread = np.linspace(1, inner, count) if count > 1 else [(1 + inner) / 2]
  return tuple(sorted({int(round(x)) for x in spread}))


@registration.register("draft_and_verify", papers=(PAPER,),
                       family="self_speculative", drafter="target")
def draft_and_verify(parts: registration.Parts, *, depth: int = 8,
                     skip_attention: tuple[int, ...] | None = None,
                     skip_feed_forward: tuple[int, ...] | None = None,
                     threshold: float = 0.6, draw: str = "iid"):
  """The target drafts with sub-layers left out; exit by confidence."""
  layers = parts.target.config.num_layers
  if skip_attention is None:
    skip_attention = evenly(layers, _ATTENTION_SHARE)
  if skip_feed_forward is None:
    skip_feed_forward = evenly(layers, _FEED_FORWARD_SHARE)
  open_gates(layers, skip_attention, skip_feed_forward)
  drafter = self_draft.SelfDrafter(
      parts.target,
      AdaptiveExit(tuple(skip_attention), tuple(skip_feed_forward), depth,
                   threshold), depth, draw)
  rule = matching.SampleAndMatch() if draw == "top_k" else (
      recursive.Rejection())
  return registration.compose("draft_and_verify", parts, drafter, rule)
