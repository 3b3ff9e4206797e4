"""Superposed decoding: several drafts from one forward a token.

Shen et al. 2024, arXiv:2405.18400, Sec. 3.1 (the input is a mixture of the last
tokens' embeddings, one cache serves all drafts) -> `superpose`, Sec. 3.2 (an
n-gram model tells the drafts apart) -> `interpolate`. The k drafts are a tree
of most likely paths, verified by matching. Count the n-grams with `python -m
experiments.train --system=superposed`. Not a way to decode faster: a level of
the tree costs a whole forward of the target; it is here to measure how good
drafts from one pass are. Departures: the published program keeps ended drafts
in a list of their own, here a text ends when it is emitted; n-grams are those
of this project's corpus, kept on the device, rare ones left out.
"""

import dataclasses
from typing import Any
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from spec_jax.core import protocols
from spec_jax.core import registry
from spec_jax.drafters import level_drafter
from spec_jax.models import ngram
from spec_jax.systems import registration
from spec_jax.trees import expansion
from spec_jax.verifiers import matching

PAPER = registry.Paper(
    title="Superposed Decoding: Multiple Generations from a Single"
    " Autoregressive Inference Pass", authors="Shen et al.", year=2024,
    arxiv="2405.18400", venue="NeurIPS 2024")

# Weights of what follows the last 1, 2, ... tokens, bigrams first; as released.
WEIGHTS = (0.01, 0.04, 0.15, 0.18, 0.12)
ORDER = len(WEIGHTS) + 1
_UNSEEN = -200.0  # Of a draft none of whose continuations was ever counted.


def superpose(embeds: jax.Array, scores: jax.Array) -> jax.Array:
  """The mixture of k embeddings `f[B, k, E]` by scores `f32[B, k]`.

  Weighted by the softmax of the cumulative scores; -inf marks no draft.

  Returns:
    `f[B, 1, E]`.
  """
  gamma = jax.nn.softmax(jnp.maximum(scores, jnp.finfo(jnp.float32).min))
  return (gamma[:, :, None] * embeds).sum(1, keepdims=True)


def interpolate(alpha: float, log_p: jax.Array, p_ngram: jax.Array
                ) -> jax.Array:
  """Scores of the continuations of each draft.

  Args:
    alpha: weight of the n-grams.
    log_p: `f32[B, m]`, of the m tokens, the same for all drafts.
    p_ngram: `f32[B, k, m]`, after each draft, not normalised.

  Returns:
    `f32[B, k, m]`; where no continuation of a draft was counted the target
    alone ranks them, far below those of other drafts.
  """
  own = (1 - alpha) * log_p[:, None]
  if not alpha:
    return jnp.broadcast_to(own, p_ngram.shape)
  is_unseen = (p_ngram <= 0).all(-1, keepdims=True)
  return own + jnp.where(is_unseen, _UNSEEN, alpha * jnp.log(p_ngram))


@dataclasses.dataclass(frozen=True)
class SuperposedDrafter:
  """Grows the k best paths with one forward of the target a level.

  Its parameters are the n-grams, see `models.ngram.to_params`.

  Attributes:
    target: the model.
    depth: levels.
    num_drafts: k.
    num_tokens: m, tokens of a law that are looked at.
    alpha: weight of the n-grams.
    temperature: of the target's law in the scores.
  """

  target: Any
  depth: int
  num_drafts: int
  num_tokens: int
  alpha: float
  temperature: float
  needs: ClassVar[protocols.Needs] = protocols.Needs(
      target_cache=True, draws=("top_k",))

  def __post_init__(self):
    if not 1 <= self.num_drafts <= self.num_tokens <= self.target.vocab_size:
      raise ValueError(
          f"num_drafts={self.num_drafts}, num_tokens={self.num_tokens}:"
          " expected 1 <= num_drafts <= num_tokens <= the vocabulary's"
          f" {self.target.vocab_size}.")
    if not 0 <= self.alpha <= 1 or self.temperature <= 0:
      raise ValueError(f"alpha={self.alpha}, temperature={self.temperature}:"
                       " expected alpha in [0, 1] and a temperature above 0.")

  @property
  def plan(self) -> expansion.Beams:
    return expansion.Beams((self.num_drafts,) * self.depth,
                           (self.num_tokens,) * self.depth)

  @property
  def max_children(self) -> int:
    return self.plan.max_children

  def init(self, params, batch, capacity):
    return ()

  def prefill(self, params, state, tokens, count):
    return state

  def propose(self, params, state, ctx, sampling):
    return self.plan.grow(ctx.root, Superposition(self, params, ctx)), state

  def update(self, params, state, outcome):
    return state


class Superposition:
  """The target as a `trees.expansion.Expand`; to be used once, while traced."""

  def __init__(self, drafter: SuperposedDrafter, params: Any, ctx: Any):
    batch = ctx.root.shape[0]
    self._drafter, self._ctx = drafter, ctx
    self._ngrams = ngram.from_params(params)
    self._fresh = drafter.target.empty_scratch(batch, drafter.depth)
    # Of each draft: its score, and the tokens that the n-grams look at.
    self._scores = jnp.zeros((batch, 1), jnp.float32)
    at = ctx.length[:, None] - 1 + np.arange(1 - self._ngrams.order, 0)[None]
    before = jnp.take_along_axis(ctx.tokens, jnp.maximum(at, 0), axis=1)
    self._history = jnp.where(at < 0, -1, before)[:, None]
    self._offered = None

  def __call__(self, level, tokens, places, k):
    if level:
      self._choose(tokens, places)
    history = jnp.concatenate([self._history, tokens[:, :, None]], axis=2)
    self._history = history[:, :, 1:]
    log_p, found = jax.lax.top_k(
        self._feed(level, tokens) / self._drafter.temperature, k)
    log_p = jax.nn.log_softmax(log_p)
    scores = interpolate(self._drafter.alpha, log_p, self._counted(found))
    self._offered = scores, found.astype(jnp.int32)
    return scores, jnp.broadcast_to(self._offered[1][:, None], scores.shape)

  def _choose(self, tokens, places):
    """Moves scores and histories on to the drafts that were kept."""
    scores, found = self._offered
    pick = lambda a: jnp.take_along_axis(a, places[:, :, None], axis=1)
    is_it = found[:, None] == tokens[:, :, None]
    gain = jnp.where(is_it, pick(scores), 0.0).sum(-1)
    self._scores = jnp.take_along_axis(self._scores, places, axis=1) + gain
    self._history = pick(self._history)

  def _feed(self, level, tokens):
    """Logits `f32[B, V]` after the superposed tokens of a level."""
    model, ctx, depth = self._drafter.target, self._ctx, self._drafter.depth
    embeds = superpose(model.embed(ctx.target_params, tokens), self._scores)
    slots = np.arange(depth + 1)
    mask = np.broadcast_to((slots < level) | (slots == depth),
                           (tokens.shape[0], 1, depth + 1))
    out = model.forward(
        ctx.target_params, tokens[:, :1], ctx.length[:, None] - 1 + level,
        jnp.asarray(mask), ctx.target_cache, past=self._fresh, embeds=embeds)
    self._fresh = level_drafter.write(self._fresh, out.fresh, level)
    return out.logits[:, 0]

  def _counted(self, found):
    """`f32[B, k, m]`, weighted ratios of counts."""
    history = self._history[:, :, None]
    tokens = found.astype(jnp.int32)[:, None]
    shape = history.shape[:2] + found.shape[1:]
    seen = self._ngrams.seen(
        jnp.broadcast_to(history, shape + history.shape[-1:]),
        jnp.broadcast_to(tokens, shape))
    weights = jnp.asarray(WEIGHTS[:seen.shape[-1]], jnp.float32)
    return (seen * weights[None, None, None]).sum(-1)


@registration.register("superposed", papers=(PAPER,), family="retrieval",
                       drafter="superposed")
def superposed(parts: registration.Parts, *, depth: int = 4,
               num_drafts: int = 3, num_tokens: int = 9, alpha: float = 0.54,
               temperature: float = 0.06):
  """Several drafts from one superposed pass, told apart by n-grams."""
  parts.head("superposed")  # Names what is missing.
  drafter = SuperposedDrafter(
      parts.target, depth, num_drafts, num_tokens, alpha, temperature)
  return registration.compose(
      "superposed", parts, drafter, matching.SampleAndMatch())
