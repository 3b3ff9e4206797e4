"""Ouroboros: a small model drafts phrase by phrase, the target mends phrases.

Zhao et al. 2024, arXiv:2402.13720, Sec. 3.2 (drafting by Lookahead Decoding of
the small model), Sec. 3.3 (longer drafts by phrases behind them) and Sec. 3.4
(phrases from what the target says of rejected drafts); sizes of its repository.
Departures: a draft has exactly `depth` tokens where the repository may
overshoot; equal beginnings of phrases are merged, and the token behind a whole
phrase is emitted too; the pool begins empty with each request. Sampling matches
the target's own draw (the repository is greedy).
"""

import dataclasses
from typing import Any
from typing import ClassVar

from flax import struct
import jax
import jax.numpy as jnp

from spec_jax.caches import dense
from spec_jax.core import protocols
from spec_jax.core import registry
from spec_jax.core import sampling as sampling_lib
from spec_jax.core import system as system_lib
from spec_jax.core import tree as tree_lib
from spec_jax.core import types
from spec_jax.drafters import lookahead as lookahead_lib
from spec_jax.models import prefill as prefill_lib
from spec_jax.systems import registration
from spec_jax.trees import phrases as phrases_lib
from spec_jax.verifiers import matching
from spec_jax.verifiers import walk as walk_lib

PAPER = registry.Paper(
    title="Ouroboros: Generating Longer Drafts Phrase by Phrase for Faster"
    " Speculative Decoding", authors="Zhao et al.", year=2024,
    arxiv="2402.13720", venue="EMNLP 2024")


@struct.dataclass
class State:
  """The small model's memory.

  Attributes:
    cache: of committed text; after a round it may lack what follows the chain.
    lookahead: window and pool.
  """

  cache: Any
  lookahead: lookahead_lib.State


@dataclasses.dataclass(frozen=True)
class Ouroboros:
  """See the module's text.

  Attributes:
    model: the small model.
    lookahead: how it decodes, and the pool.
    chain: tokens it drafts.
    suffixes: phrases behind them.
  """

  model: Any
  lookahead: lookahead_lib.Lookahead
  chain: int = 12
  suffixes: int = 3

  needs: ClassVar[protocols.Needs] = protocols.Needs()

  def __post_init__(self):
    if self.chain < 1:
      raise ValueError(f"chain={self.chain}, expected >= 1.")
    if not 0 <= self.suffixes <= self.lookahead.guesses:
      raise ValueError(f"suffixes={self.suffixes}, expected 0 to"
                       f" guesses={self.lookahead.guesses}.")

  @property
  def size(self) -> int:
    """Tokens of a phrase."""
    return self.lookahead.level - 1

  @property
  def depth(self) -> int:
    return self.chain + (self.size if self.suffixes else 0)

  @property
  def max_children(self) -> int:
    return max(1, self.suffixes)

  @property
  def lag(self) -> int:
    """Tokens before the root that the cache may lack."""
    return self.size + 1

  @property
  def inner(self) -> system_lib.System:
    """The small model's own decoding: a system as any other."""
    return system_lib.System(
        "inner", self.model, self.lookahead, matching.SampleAndMatch(),
        dense.empty, walk_lib.walk, sampling_lib.GREEDY)

  def init(self, params, batch, capacity):
    # What is drafted at the end of a text needs room behind it.
    room = capacity + self.chain
    return State(dense.empty(self.model, batch, room),
                 self.lookahead.init(None, batch, room))

  def prefill(self, params, state, tokens, count):
    return state.replace(cache=prefill_lib.absorb(
        self.model, params, state.cache, tokens, count))

  def propose(self, params, state, ctx, sampling):
    begun = self._begin(params, state, ctx)
    inner, inner_params = self.inner, types.Params(params)
    decoded = jax.lax.while_loop(
        lambda s: s.is_running.any(),
        lambda s: system_lib.step(inner, inner_params, s)[0], begun)
    slots = ctx.length[:, None] + jnp.arange(self.chain)[None]
    drafts = jnp.take_along_axis(decoded.tokens, slots, axis=1)
    state = State(decoded.cache, decoded.drafter)
    return self._tree(ctx.root, drafts, state), state

  def _begin(self, params, state, ctx) -> types.DecodeState:
    """The text as the small model sees it before it drafts."""
    slots = state.cache.length[:, None] + jnp.arange(self.lag)[None]
    capacity = ctx.tokens.shape[1]
    tokens = jnp.take_along_axis(
        ctx.tokens, jnp.minimum(slots, capacity - 1), axis=1)
    behind = ctx.length - 1 - state.cache.length
    cache = jax.lax.cond(
        behind.max() > 0,
        lambda cache: prefill_lib.absorb(
            self.model, params, cache, tokens, behind),
        lambda cache: cache, state.cache)
    return types.DecodeState(
        ctx.keys, jnp.pad(ctx.tokens, ((0, 0), (0, self.chain))), ctx.length,
        ctx.length + self.chain,
        jnp.full_like(ctx.length, types.Status.RUNNING), cache,
        state.lookahead)

  def _tree(self, root, drafts, state) -> types.DraftTree:
    """The chain, then phrases that follow its last token."""
    whole = jnp.full_like(root, self.chain)
    chain = tree_lib.chain(root, drafts, whole, "deterministic")
    if not self.suffixes:
      return chain
    phrases, length = self._suffixes(drafts[:, -1], state)
    more = phrases_lib.tree(drafts[:, -1], phrases, length)
    join = lambda a, b: jnp.concatenate([a, b[:, 1:]], axis=1)
    return types.DraftTree(
        join(chain.tokens, more.tokens),
        join(chain.parents, more.parents + self.chain),
        join(chain.valid, more.valid), None, "deterministic", self.depth,
        self.max_children)

  def _suffixes(self, key, state):
    phrases, exists = state.lookahead.pool.lookup(key)
    length = jnp.where(exists, self.size, 0)
    return phrases[:, :self.suffixes], length[:, :self.suffixes]

  def update(self, params, state, outcome):
    """Mends the pool, and forgets what the target rejected."""
    verdict, pool = outcome.verdict, state.lookahead.pool
    says = sampling_lib.most_likely(outcome.out.logits)
    drafts = outcome.tree.tokens[:, 1:self.chain + 1]
    accepted = jnp.minimum(verdict.count - 1, self.chain)
    is_real = verdict.count > 0
    if self.suffixes:
      pool = self._continue(pool, drafts[:, -1], says, is_real, state)
    pool = self._correct(pool, drafts, says, accepted, is_real)
    # Of a round that was cut the last token emitted may be a draft itself.
    agreed = outcome.length - verdict.count + jnp.maximum(accepted, 0)
    return State(
        state.cache.truncate(jnp.minimum(agreed, outcome.length - 1)),
        state.lookahead.replace(pool=pool))

  def _correct(self, pool, drafts, says, accepted, is_real):
    """Behind rejected drafts: what the target would have said, if it agrees
    with the drafts long enough to make a phrase.
    """
    num_phrases = self.chain - self.size + 1
    if num_phrases < 1:
      return pool
    after = says[:, 1:self.chain + 1]  # Behind each token of the chain.
    starts = jnp.arange(num_phrases)
    within = starts[:, None] + jnp.arange(self.size)[None]
    phrases = after[:, within]  # [B, starts, N - 1]
    agrees = after[:, :-1] == drafts[:, 1:]
    fits = agrees[:, within[:, :-1]].all(-1)
    rejected = starts[None] >= accepted[:, None]
    return pool.insert_all(drafts[:, :num_phrases], phrases,
                           fits & rejected & is_real[:, None])

  def _continue(self, pool, key, says, is_real, state):
    """The phrases that were proposed become the target's own."""
    phrases, length = self._suffixes(key, state)
    first, real = phrases_lib.owners(phrases, length)
    nodes = (self.chain + 1 + first * self.size
             + jnp.arange(self.size, dtype=jnp.int32)[None, None])
    at_end = jnp.full_like(nodes[:, :, :1], self.chain)
    nodes = jnp.concatenate([at_end, nodes[:, :, :-1]], axis=2)
    rows = jnp.arange(nodes.shape[0])[:, None, None]
    return pool.overwrite(
        key, says[rows, nodes], real[:, :, 0] & is_real[:, None])


@registration.register("ouroboros", papers=(PAPER,), family="retrieval",
                       drafter="draft")
def ouroboros(parts: registration.Parts, *, depth: int = 12, level: int = 7,
              width: int = 20, guesses: int = 20, suffixes: int = 3):
  """Small model with Lookahead Decoding, a pool that the target mends."""
  model = parts.model("draft")
  lookahead = lookahead_lib.Lookahead(model.vocab_size, level, width, guesses)
  return registration.compose(
      "ouroboros", parts, Ouroboros(model, lookahead, depth, suffixes),
      matching.SampleAndMatch())
