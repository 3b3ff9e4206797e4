"""SWIFT: searches the layers to skip while it decodes.

Xia et al. 2024, arXiv:2410.06916, Sec. 4.1 (layer set optimisation) ->
`SkipSearch`, Sec. 4.2 (confidence-aware drafting and verification) -> `WIDTHS`
and the system. One trial a round: the draft forward over the first tokens of
the text, on the prompt's whole-model cache, is scored by how often its most
likely token is the next one. Departures: the bonus token comes from the warped
law (the published code takes it from the raw logits, which is not lossless);
scores are not carried over prompts, so that a text depends on its prompt
alone; the Bayesian suggestion is the best of `num_candidates` random sets under
the upper confidence bound of a Gaussian process over the last
`num_points` trials, instead of a continuous optimum cut to its largest
coordinates.
"""

import dataclasses

from flax import struct
import jax
import jax.numpy as jnp
import numpy as np

from spec_jax.core import keys as keys_lib
from spec_jax.core import registry
from spec_jax.core import rows as rows_lib
from spec_jax.core import sampling
from spec_jax.core import types
from spec_jax.drafters import self_draft
from spec_jax.systems import registration
from spec_jax.verifiers import recursive

PAPER = registry.Paper(
    title="SWIFT: On-the-Fly Self-Speculative Decoding for LLM Inference"
    " Acceleration", authors="Xia et al.", year=2024, arxiv="2410.06916",
    venue="ICLR 2025")
# Candidates of a step by the confidence of the first (repository).
WIDTHS = ((0.95, 3), (0.8, 5), (0.5, 8), (-1.0, 10))
# Numbers the search's draws apart from those of drafted nodes.
_SEARCH_DRAW = 1 << 20


@struct.dataclass
class SearchState:
  """One search a row; P remembered trials, S inner sub-layers.

  Attributes:
    best: `bool[B, S]`, skipped sub-layers of the best set so far.
    score: `f32[B]`, its score; -1 before the first trial.
    trials: `i32[B]`.
    failures: `i32[B]`, trials since the last better one.
    points: `bool[B, P, S]`, the last P trials, a ring.
    values: `f32[B, P]`, their scores.
  """

  best: jax.Array
  score: jax.Array
  trials: jax.Array
  failures: jax.Array
  points: jax.Array
  values: jax.Array


@dataclasses.dataclass(frozen=True)
class SkipSearch:
  """Random search with a Bayesian suggestion every so many trials.

  Attributes:
    share: of the inner sub-layers (all but the first and last layer's) to
      skip, rounded down.
    depth: drafts at most.
    threshold: confidence at which drafting stops.
    score_window: tokens a trial is scored on.
    bayes_interval: every so many trials the suggestion replaces the draw.
    max_score: the search ends at a better score,
    max_failures: or after so many trials without a better set,
    max_trials: or after so many trials.
  """

  share: float = 0.45
  depth: int = 25
  threshold: float = 0.8
  score_window: int = 32
  bayes_interval: int = 25
  max_score: float = 0.95
  max_failures: int = 300
  max_trials: int = 1000
  num_points: int = 64
  num_candidates: int = 128
  kappa: float = 2.5

  def num_inner(self, model) -> int:
    return 2 * max(model.config.num_layers - 2, 0)

  def num_skipped(self, model) -> int:
    return int(self.num_inner(model) * self.share)

  def taps(self, model):
    return ()

  def init(self, model, batch):
    """Every other layer is skipped first, as far as the number allows."""
    size, count = self.num_inner(model), self.num_skipped(model)
    odd_first = np.argsort(
        np.arange(size // 2) % 2, kind="stable").repeat(2) * 2 + np.tile(
            [0, 1], size // 2)
    best = np.zeros((size,), bool)
    best[odd_first[:count]] = True
    zeros = lambda dtype, *shape: jnp.zeros((batch,) + shape, dtype)
    return SearchState(
        best=jnp.broadcast_to(jnp.asarray(best)[None], (batch, size)),
        score=zeros(jnp.float32) - 1, trials=zeros(jnp.int32),
        failures=zeros(jnp.int32), points=zeros(bool, self.num_points, size),
        values=zeros(jnp.float32, self.num_points))

  def choose(self, model, params, state, ctx, start):
    """One trial for each row that has written enough and still searches."""
    window = self.score_window
    due = ((ctx.length - start > window + 1)
           & (state.score <= self.max_score)
           & (state.failures <= self.max_failures)
           & (state.trials < self.max_trials))
    if not self.num_skipped(model):
      return state
    return jax.lax.cond(
        due.any(),
        lambda state: self._trial(model, params, state, ctx, start, due),
        lambda state: state, state)

  def plan(self, model, state):
    batch = state.score.shape[0]
    return self_draft.Plan(
        self.gates(model, state.best),
        jnp.full((batch,), self.depth, jnp.int32),
        jnp.full((batch,), self.threshold, jnp.float32))

  def update(self, model, params, state, plan, outcome):
    return state

  def gates(self, model, skipped):
    """`bool[B, S]` skipped inner sub-layers -> `bool[B, M, 2]` open gates."""
    batch = skipped.shape[0]
    inner = ~skipped.reshape(batch, -1, 2)
    ends = jnp.ones((batch, 1, 2), bool)
    return jnp.concatenate([ends, inner, ends], axis=1)[
        :, :model.config.num_layers]

  def score(self, model, params, skipped, ctx, start):
    """Share `f32[B]` of the text's first tokens that a gated model predicts."""
    window = self.score_window
    slots = start[:, None] + jnp.arange(window + 1)[None]
    text = jnp.take_along_axis(
        ctx.tokens, jnp.minimum(slots, ctx.tokens.shape[1] - 1), axis=1)
    causal = jnp.tril(jnp.ones((window, window), bool))
    out = model.forward(
        params, text[:, :-1], slots[:, :-1],
        jnp.broadcast_to(causal[None], (len(start),) + causal.shape),
        ctx.target_cache.truncate(start), gates=self.gates(model, skipped))
    hits = sampling.most_likely(out.logits) == text[:, 1:]
    return hits.astype(jnp.float32).mean(-1)

  def _trial(self, model, params, state, ctx, start, due):
    count = self.num_skipped(model)
    draw = jax.vmap(lambda key, length: random_sets(
        keys_lib.at(key, length, types.Role.DRAFT, _SEARCH_DRAW),
        self.num_candidates, state.best.shape[-1], count))
    candidates = draw(ctx.keys, ctx.length)
    is_bayes = (state.trials + 1) % self.bayes_interval == 0
    suggest = jax.vmap(lambda sets, points, values, trials: best_bound(
        sets, points, values,
        jnp.minimum(trials, self.num_points), self.kappa))
    chosen = jax.lax.cond(
        (is_bayes & due).any(),
        lambda: jnp.where(is_bayes, suggest(
            candidates, state.points, state.values, state.trials), 0),
        lambda: jnp.zeros(is_bayes.shape, jnp.int32))
    tried = jnp.take_along_axis(candidates, chosen[:, None, None], 1)[:, 0]
    score = self.score(model, params, tried, ctx, start)
    return learn(state, tried, score, due)


def learn(state: SearchState, tried: jax.Array, score: jax.Array,
          due: jax.Array) -> SearchState:
  """Registers a trial; keeps the set if it is better than the best so far."""
  rows = jnp.arange(len(due))
  slot = state.trials % state.values.shape[1]
  better = score > state.score
  new = SearchState(
      best=jnp.where(better[:, None], tried, state.best),
      score=jnp.where(better, score, state.score),
      trials=state.trials + 1,
      failures=jnp.where(better, 0, state.failures + 1),
      points=state.points.at[rows, slot].set(tried),
      values=state.values.at[rows, slot].set(score))
  return rows_lib.where(due, new, state)


def random_sets(key, num_sets, size, count):
  """`bool[num_sets, size]`, each a uniformly drawn set of `count` members."""
  noise = jax.random.uniform(key, (num_sets, size))
  least = jax.lax.top_k(noise, count)[0][:, -1:]
  return noise >= least


def best_bound(sets, points, values, num_points, kappa, noise=1e-2):
  """Index of the set with the best upper confidence bound.

  A Gaussian process with a Matern kernel (nu = 5/2, unit length) on the
  normalised scores of the trials.

  Args:
    sets: `bool[C, S]`.
    points: `bool[P, S]`, of which the first `num_points` count.
    values: `f32[P]`.
    num_points: `i32[]`.
    kappa: weight of the standard deviation.
    noise: variance added to the diagonal.
  """
  known = jnp.arange(len(values)) < num_points
  weights = known.astype(jnp.float32)
  total = jnp.maximum(weights.sum(), 1)
  mean = (values * weights).sum() / total
  spread = jnp.sqrt(((values - mean) ** 2 * weights).sum() / total) + 1e-6
  scores = jnp.where(known, (values - mean) / spread, 0)
  both = known[:, None] & known[None]
  covariance = jnp.where(both, _matern(points, points), 0) + jnp.diag(
      jnp.where(known, noise, 1.0))
  across = jnp.where(known[None], _matern(sets, points), 0)
  factor = jax.scipy.linalg.cho_factor(covariance)
  guess = across @ jax.scipy.linalg.cho_solve(factor, scores)
  explained = (across * jax.scipy.linalg.cho_solve(factor, across.T).T).sum(-1)
  deviation = jnp.sqrt(jnp.maximum(1 - explained, 0))
  return jnp.argmax(guess + kappa * deviation).astype(jnp.int32)


def _matern(a, b):
  differing = (a[:, None] != b[None]).sum(-1).astype(jnp.float32)
  distance = jnp.sqrt(5 * differing)
  return (1 + distance + distance ** 2 / 3) * jnp.exp(-distance)


@registration.register("swift", papers=(PAPER,), family="self_speculative",
                       drafter="target")
def swift(parts: registration.Parts, *, depth: int = 25, share: float = 0.45,
          threshold: float = 0.8, score_window: int = 32,
          widths: tuple[tuple[float, int], ...] = WIDTHS):
  """Self-speculation whose skipped layers are searched while decoding."""
  drafter = self_draft.SelfDrafter(
      parts.target, SkipSearch(share, depth, threshold, score_window), depth,
      "without_replacement", widths)
  return registration.compose(
      "swift", parts, drafter, recursive.RecursiveWithoutReplacement())
