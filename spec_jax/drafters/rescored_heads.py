"""Independent heads whose drafts are rescored by a language model.

Heads that do not see each other's tokens repeat and contradict themselves; the
better continuation is often among the top tokens of each. These make a lattice,
a column for each head, and a small model chooses a path through it (Kim et al.
2024, arXiv 2404.09221): token by token by a neural model, or among all paths by
an n-gram model.
"""

import dataclasses
from typing import Any

from flax import struct
import jax
import jax.numpy as jnp
import numpy as np

from spec_jax.caches import dense
from spec_jax.core import protocols
from spec_jax.core import tree as tree_lib
from spec_jax.core import types
from spec_jax.drafters import level_drafter
from spec_jax.drafters import token_head_drafter
from spec_jax.models import contract
from spec_jax.models import ngram
from spec_jax.models import token_heads
from spec_jax.trees import phrases

_MOST_PATHS = 4096


@struct.dataclass
class Lattice:
  """The top tokens of each head.

  Attributes:
    tokens: `i32[B, D, K]`, the better ones first.
    log_probs: `f32[B, D, K]`, under their head.
  """

  tokens: jax.Array
  log_probs: jax.Array


@dataclasses.dataclass(frozen=True)
class _Rescored:
  """What both refiners share.

  Attributes:
    heads: a `TokenHeadDrafter` whose heads ignore the tokens; of its tree only
      the depth counts.
    names: of the parameters of the heads and of the language model.
    top_k: K, tokens of a column.
    weight: of the language model's log-probabilities beside the heads'.
  """

  heads: token_head_drafter.TokenHeadDrafter
  names: tuple[str, str]
  top_k: int = 4
  weight: float = 0.5

  def __post_init__(self):
    if not self.heads.network.is_parallel:
      raise ValueError(
          f"heads={self.heads.network!r} read the tokens before theirs,"
          " expected independent ones: only these make a lattice.")
    if not 1 <= self.top_k <= self.heads.target.vocab_size:
      raise ValueError(
          f"top_k={self.top_k}, expected 1 to"
          f" {self.heads.target.vocab_size} tokens of the vocabulary.")

  @property
  def needs(self) -> protocols.Needs:
    return protocols.Needs(taps=self.heads.needs.taps)

  @property
  def depth(self) -> int:
    return self.heads.depth

  def lattice(self, params: Any, feature: jax.Array, ctx: types.Context
              ) -> Lattice:
    """Of the heads grounded on `feature` `f32[B, E]`."""
    expand = token_heads.Expander(
        self.heads.network, params[self.names[0]]["heads"], feature,
        contract.Ends(self.heads.target, ctx.target_params))
    found = [expand(level, ctx.root[:, None], np.zeros(1, np.int32),
                    self.top_k) for level in range(self.depth)]
    log_probs, tokens = (jnp.concatenate(part, axis=1) for part in zip(*found))
    return Lattice(tokens, log_probs)

  def _own(self, params):
    return params[self.names[0]]


@struct.dataclass
class NeuralState:
  """See `level_drafter.DraftModelState` and `token_head_drafter.HeadState`."""

  cache: Any
  fresh: types.FreshKV
  heads: token_head_drafter.HeadState


@dataclasses.dataclass(frozen=True)
class NeuralRescored(_Rescored, level_drafter.ModelDrafter):
  """The local refiner: of each column the token that scores best so far.

  Attributes:
    model: the small language model, of the target's vocabulary.
  """

  max_children = 1

  def model_params(self, params):
    return params[self.names[1]]

  def init(self, params, batch, capacity):
    return NeuralState(
        dense.empty(self.model, batch, capacity),
        self.model.empty_scratch(batch, self.depth),
        self.heads.init(self._own(params), batch, capacity))

  def prefill(self, params, state, tokens, count, taps):
    state = level_drafter.ModelDrafter.prefill(
        self, params, state, tokens, count)
    return state.replace(heads=self.heads.prefill(
        self._own(params), state.heads, tokens, count, taps))

  def propose(self, params, state, ctx, sampling):
    del sampling
    own = self.model_params(params)
    lattice = self.lattice(params, state.heads.feature, ctx)
    out, cache = self.feed_root(own, state.cache, ctx)
    fresh, drafts = out.fresh, []
    for column in range(self.depth):
      drafts.append(self._choose(lattice, column, out.logits[:, -1]))
      if column + 1 < self.depth:
        mask = jnp.ones((len(ctx.root), 1, column + 2), bool)
        out = self.model.forward(
            own, drafts[-1][:, None], ctx.length[:, None] + column, mask,
            cache, past=fresh)
        fresh = fresh.then(out.fresh)
    count = jnp.where(state.heads.exists, self.depth, 0).astype(jnp.int32)
    tree = tree_lib.chain(
        ctx.root, jnp.stack(drafts, axis=1), count, "deterministic")
    return tree, NeuralState(cache, fresh, state.heads)

  def update(self, params, state, outcome):
    # Node i of the chain was fed i-th; the last one not at all.
    state = level_drafter.commit_fed(
        state, outcome.verdict, outcome.verdict.path)
    return state.replace(heads=self.heads.update(
        self._own(params), state.heads, outcome))

  def _choose(self, lattice, column, logits):
    tokens = lattice.tokens[:, column]
    fluent = jnp.take_along_axis(
        jax.nn.log_softmax(logits), tokens, axis=1)
    scores = lattice.log_probs[:, column] + self.weight * fluent
    best = jnp.argmax(scores, axis=1)[:, None]
    return jnp.take_along_axis(tokens, best, axis=1)[:, 0]


@dataclasses.dataclass(frozen=True)
class NgramRescored(_Rescored):
  """The global refiner: the best of all paths, equal beginnings shared.

  All paths are scored, so the best are the best.

  Attributes:
    drafts: paths that are verified.
  """

  drafts: int = 16

  def __post_init__(self):
    super().__post_init__()
    if self.top_k ** self.depth > _MOST_PATHS:
      raise ValueError(
          f"top_k={self.top_k} tokens in {self.depth} columns make"
          f" {self.top_k ** self.depth} paths, expected at most {_MOST_PATHS}.")
    if not 1 <= self.drafts <= self.top_k ** self.depth:
      raise ValueError(
          f"drafts={self.drafts}, expected 1 to the number of paths,"
          f" {self.top_k ** self.depth}.")

  @property
  def max_children(self) -> int:
    return min(self.drafts, self.top_k)

  def init(self, params, batch, capacity):
    return self.heads.init(self._own(params), batch, capacity)

  def prefill(self, params, state, tokens, count, taps):
    return self.heads.prefill(self._own(params), state, tokens, count, taps)

  def update(self, params, state, outcome):
    return self.heads.update(self._own(params), state, outcome)

  def propose(self, params, state, ctx, sampling):
    del sampling
    paths, scores = self.paths(params, state.feature, ctx)
    _, best = jax.lax.top_k(scores, self.drafts)
    chosen = jnp.take_along_axis(paths, best[:, :, None], axis=1)
    length = jnp.where(state.exists, self.depth, 0).astype(jnp.int32)
    tree = phrases.tree(ctx.root, chosen, jnp.broadcast_to(
        length[:, None], chosen.shape[:2]))
    return tree.replace(max_children=self.max_children), state

  def paths(self, params: Any, feature: jax.Array, ctx: types.Context
            ) -> tuple[jax.Array, jax.Array]:
    """All paths of the lattice `i32[B, K ** D, D]` and their scores."""
    model = ngram.from_params(params[self.names[1]])
    lattice = self.lattice(params, feature, ctx)
    scores = jnp.zeros((len(ctx.root), 1), jnp.float32)
    history = _last(ctx, model.order - 1)[:, None]
    for column in range(self.depth):
      # [B, paths, K], then flat: the last column changes fastest.
      num = scores.shape[1]
      tokens = jnp.tile(lattice.tokens[:, column], (1, num))
      log_probs = jnp.tile(lattice.log_probs[:, column], (1, num))
      before = jnp.repeat(history, self.top_k, axis=1)
      fluent = model.score(before[:, :, before.shape[2] - model.order + 1:],
                           tokens)
      scores = jnp.repeat(scores, self.top_k, axis=1) + (
          log_probs + self.weight * fluent)
      history = jnp.concatenate([before, tokens[:, :, None]], axis=2)
    return history[:, :, model.order - 1:], scores


def _last(ctx, count):
  """`i32[B, count]`, the last tokens of the text, -1 before its beginning."""
  slots = ctx.length[:, None] - count + jnp.arange(count)[None]
  tokens = jnp.take_along_axis(ctx.tokens, jnp.maximum(slots, 0), axis=1)
  return jnp.where(slots < 0, -1, tokens)
