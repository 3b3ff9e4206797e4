"""DEL: the exit layer and the draft length that pay best, chosen each round.

Zarch et al. 2025, arXiv:2504.05598, Sec. 4.1 (shadow tokens) -> `shadow`,
Sec. 4.2 (token-per-layer) -> `tokens_per_layer`, Sec. 4.3 (dynamic draft
exiting) -> the threshold of `DynamicExit.plan`. For models whose early layers
can be read out (trained with early-exit losses). Departures: the chosen length
bounds the drafts (the published generator computes it and drafts to its
threshold), and a length of 0 drafts nothing; where a layer has never missed (or
never hit) the mean of its missing confidences counts as 0, where the published
code compares with NaN; the verifying forward computes all layers again instead
of resuming at the exit layer, so that the saving the paper's denominator counts
on is not had; positions behind a rejected sampled draft are left out as well.
"""

import dataclasses

from flax import struct
import jax
import jax.numpy as jnp

from spec_jax.core import registry
from spec_jax.core import rows as rows_lib
from spec_jax.core import sampling as sampling_lib
from spec_jax.drafters import self_draft
from spec_jax.systems import registration
from spec_jax.verifiers import recursive

PAPER = registry.Paper(
    title="DEL: Context-Aware Dynamic Exit Layer for Efficient Self-Speculative"
    " Decoding", authors="Zarch, Gao, Jiang and Annavaram", year=2025,
    arxiv="2504.05598", venue="COLM 2025")


@struct.dataclass
class ExitStats:
  """Decayed statistics by exit layer 1..M-1 and by (hit, miss).

  Attributes:
    counts: `f32[B, M - 1, 2]`.
    confidence: `f32[B, M - 1, 2]`, sums of the confidences counted.
    rounds: `i32[B]`, verifications so far.
  """

  counts: jax.Array
  confidence: jax.Array
  rounds: jax.Array

  @property
  def acceptance(self) -> jax.Array:
    """`f32[B, M - 1]`, share of hits; 0 where nothing was counted."""
    return self.counts[..., 0] / jnp.maximum(self.counts.sum(-1), 1e-9)

  @property
  def thresholds(self) -> jax.Array:
    """`f32[B, M - 1]`, half-way between the mean hit and the mean miss."""
    means = self.confidence / jnp.maximum(self.counts, 1e-9)
    return means.mean(-1)


@dataclasses.dataclass(frozen=True)
class DynamicExit:
  """Drafts with the first layers; how many of them, and how far, adapts.

  Attributes:
    depth: longest draft.
    decay: of the statistics, per round (omega).
    context: prompt tokens that the first round learns from.
  """

  depth: int
  decay: float = 0.95
  context: int = 32

  def taps(self, model):
    return tuple(range(1, model.config.num_layers + 1))

  def init(self, model, batch):
    zeros = lambda: jnp.zeros((batch, model.config.num_layers - 1, 2))
    return ExitStats(zeros(), zeros(), jnp.zeros((batch,), jnp.int32))

  def choose(self, model, params, state, ctx, start):
    """Before the second round: what the end of the prompt says."""
    fresh = (state.rounds == 1) & (start > 1)
    return jax.lax.cond(
        fresh.any(),
        lambda s: self._learn_prompt(model, params, s, ctx, start, fresh),
        lambda s: s, state)

  def plan(self, model, state):
    layer, length = best_exit(
        state.acceptance, model.config.num_layers, self.depth)
    # The first round drafts one token at the first exit.
    is_first = state.rounds == 0
    layer = jnp.where(is_first, 1, layer)
    layers = jnp.arange(model.config.num_layers)
    is_open = layers[None] < layer[:, None]
    threshold = jnp.take_along_axis(
        state.thresholds, layer[:, None] - 1, axis=1)[:, 0]
    return self_draft.Plan(
        jnp.broadcast_to(is_open[:, :, None], is_open.shape + (2,)),
        jnp.where(is_first, 1, length), threshold)

  def update(self, model, params, state, plan, outcome):
    hits, confidence = shadow(model, params, outcome.out.taps)
    layer = plan.gates[:, :, 0].sum(-1) - 1
    exits = jnp.take_along_axis(hits, layer[:, None, None], axis=2)[:, :, 0]
    # A chain: node n is the token n after the root. Those behind the first
    # miss, or behind a rejected draft, have a wrong token before them.
    until_miss = jnp.cumprod(jnp.pad(
        exits[:, :-1], ((0, 0), (1, 0)), constant_values=True).astype(
            jnp.int32), axis=1) > 0
    slots = jnp.arange(exits.shape[1])[None]
    counted = until_miss & (slots < outcome.verdict.count[:, None])
    learnt = outcome.verdict.count > 0
    new = self._add(state, hits, confidence, counted)
    new = new.replace(rounds=state.rounds + 1)
    return rows_lib.where(learnt, new, state)

  def _add(self, state, hits, confidence, counted):
    kinds = jnp.stack([hits, ~hits], axis=-1) & counted[:, :, None, None]
    kinds = kinds.astype(jnp.float32)
    return state.replace(
        counts=self.decay * state.counts + kinds.sum(1),
        confidence=self.decay * state.confidence
        + (kinds * confidence[..., None]).sum(1))

  def _learn_prompt(self, model, params, state, ctx, start, fresh):
    """Counts the last tokens of the prompt, all of them, without decay."""
    first = jnp.maximum(start - 1 - self.context, 0)
    slots = first[:, None] + jnp.arange(self.context)[None]
    is_prompt = slots < start[:, None] - 1
    tokens = jnp.take_along_axis(
        ctx.tokens, jnp.minimum(slots, ctx.tokens.shape[1] - 1), axis=1)
    causal = jnp.tril(jnp.ones((self.context,) * 2, bool))
    out = model.forward(
        params, tokens, slots, causal[None] & is_prompt[:, None, :],
        ctx.target_cache.truncate(first), taps=self.taps(model),
        with_logits=False)
    hits, confidence = shadow(model, params, out.taps)
    undecayed = dataclasses.replace(self, decay=1.0)
    return rows_lib.where(
        fresh, undecayed._add(state, hits, confidence, is_prompt), state)


def shadow(model, params, taps) -> tuple[jax.Array, jax.Array]:
  """What each early exit would have said where the whole model spoke.

  Args:
    model: a `contract.LinenModel` of M layers.
    params: its parameters.
    taps: features `[B, T, E]` after the layers 1..M.

  Returns:
    `bool[B, T, M - 1]`, whether the exit's most likely token is the whole
    model's, and `f32[B, T, M - 1]`, the probability the exit gives its token.
  """
  num_layers = model.config.num_layers
  streams = jnp.stack([taps[i] for i in range(1, num_layers + 1)], axis=2)
  logits = model.read_out(params, streams)
  tokens = sampling_lib.most_likely(logits)
  confidence = jax.nn.softmax(logits, axis=-1).max(-1)
  return tokens[..., :-1] == tokens[..., -1:], confidence[..., :-1]


def tokens_per_layer(acceptance: jax.Array, num_layers: int, max_length: int
                     ) -> jax.Array:
  """Expected tokens of a round per layer executed in it (Sec. 4.2).

  Args:
    acceptance: `f32[..., M - 1]`, by exit layer 1..M-1.
    num_layers: M.
    max_length: longest draft.

  Returns:
    `f32[..., M - 1, max_length + 1]`, by exit layer and draft length from 0;
    length 0 is plain decoding.
  """
  lengths = jnp.arange(max_length + 1, dtype=jnp.float32)
  powers = acceptance[..., None] ** lengths.reshape(
      (1,) * acceptance.ndim + (-1,))
  layers = jnp.arange(1, num_layers, dtype=jnp.float32)
  cost = layers[:, None] * lengths[None] + num_layers
  return jnp.cumsum(powers, axis=-1) / cost.reshape(
      (1,) * (acceptance.ndim - 1) + cost.shape)


def best_exit(acceptance: jax.Array, num_layers: int, max_length: int
              ) -> tuple[jax.Array, jax.Array]:
  """Exit layer and draft length `i32[...]` with the most tokens per layer."""
  values = tokens_per_layer(acceptance, num_layers, max_length)
  best = jnp.argmax(values.reshape(values.shape[:-2] + (-1,)), -1)
  layer, length = jnp.divmod(best, max_length + 1)
  return (layer + 1).astype(jnp.int32), length.astype(jnp.int32)


@registration.register("del_exit", papers=(PAPER,), family="self_speculative",
                       drafter="target")
def del_exit(parts: registration.Parts, *, depth: int = 17,
             decay: float = 0.95):
  """Early-exit self-speculation; exit layer and length adapt to the text."""
  layers = parts.target.config.num_layers
  if layers < 2:
    raise ValueError(f"the target has {layers} layers, an early exit needs 2.")
  if not 0 < decay <= 1:
    raise ValueError(f"decay={decay}, expected in (0, 1].")
  drafter = self_draft.SelfDrafter(
      parts.target, DynamicExit(depth, decay), depth)
  return registration.compose(
      "del_exit", parts, drafter, recursive.Rejection())
