"""Draft & Verify: the target without some sub-layers drafts for itself.

Zhang et al. 2023, arXiv:2309.08168, Sec. 3.2 (layer selection) ->
`experiments.search_layers`, Sec. 3.3 (adaptive draft exiting) ->
`controllers.threshold`, Algorithm 1 -> the system; a `controller` by name takes
the threshold's place. The skipped sub-layers are found once per model; without
a found set about the published shares of them (three fifths of the attention, a
quarter of the feed-forward) are left out, evenly. Departures: drafts are drawn
from the law that the rule is shown (the published sampling routine drafts
greedily and tests against the softmax, which is biased); the threshold starts
anew with each text instead of being carried over prompts, so that a text
depends on its prompt alone; it is kept in [0, 1].
"""

import dataclasses

import jax.numpy as jnp
import numpy as np

from spec_jax.controllers import threshold as threshold_lib
from spec_jax.core import registry
from spec_jax.drafters import draft_chain
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


@dataclasses.dataclass(frozen=True)
class SkippedLayers:
  """A fixed set of skipped sub-layers.

  Its state are the gates `bool[B, M, 2]`: there a search over sets of layers
  compiles once.

  Attributes:
    skip_attention: layers, counted from 0.
    skip_feed_forward: layers.
    depth: drafts at most.
  """

  skip_attention: tuple[int, ...]
  skip_feed_forward: tuple[int, ...]
  depth: int

  def taps(self, model):
    return ()

  def init(self, model, batch):
    gates = jnp.asarray(open_gates(
        model.config.num_layers, self.skip_attention, self.skip_feed_forward))
    return jnp.broadcast_to(gates[None], (batch,) + gates.shape)

  def choose(self, model, params, state, ctx, start):
    return state

  def plan(self, model, state):
    batch = state.shape[0]
    return self_draft.Plan(state, jnp.full((batch,), self.depth, jnp.int32),
                           jnp.zeros((batch,), jnp.float32))

  def update(self, model, params, state, plan, outcome):
    return state


def open_gates(num_layers, skip_attention, skip_feed_forward) -> np.ndarray:
  """`bool[M, 2]`, False where a sub-layer is left out.

  Raises:
    ValueError: no list of layers, or a layer that the model does not have.
  """
  gates = np.ones((num_layers, 2), bool)
  for column, layers in enumerate((skip_attention, skip_feed_forward)):
    if isinstance(layers, (int, float, str)):
      raise ValueError(
          f"{layers!r} is to be skipped, expected a list of layers such as"
          " [0,2].")
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


def default_skips(num_layers: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
  """Attention and feed-forward layers to leave out of an unsearched model."""
  return (evenly(num_layers, _ATTENTION_SHARE),
          evenly(num_layers, _FEED_FORWARD_SHARE))


@registration.register("draft_and_verify", papers=(PAPER,),
                       family="self_speculative", drafter="target")
def draft_and_verify(parts: registration.Parts, *, depth: int = 8,
                     skip_attention: tuple[int, ...] | None = None,
                     skip_feed_forward: tuple[int, ...] | None = None,
                     threshold: float = 0.6, draw: str = "iid",
                     controller: str | None = None,
                     draft_cost: float = draft_chain.DRAFT_COST,
                     check_cost: float = draft_chain.CHECK_COST):
  """The target drafts with sub-layers left out; exit by confidence."""
  layers = parts.target.config.num_layers
  defaults = default_skips(layers)
  if skip_attention is None:
    skip_attention = defaults[0]
  if skip_feed_forward is None:
    skip_feed_forward = defaults[1]
  open_gates(layers, skip_attention, skip_feed_forward)
  drafter = self_draft.SelfDrafter(
      parts.target,
      SkippedLayers(tuple(skip_attention), tuple(skip_feed_forward), depth),
      depth, draw, controller=draft_chain.controller_of(
          controller, depth, draft_cost, check_cost,
          threshold_lib.ConfidenceThreshold(threshold)))
  rule = matching.SampleAndMatch() if draw == "top_k" else (
      recursive.Rejection())
  return registration.compose("draft_and_verify", parts, drafter, rule)
