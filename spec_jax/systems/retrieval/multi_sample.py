"""Multi-sample: the samples of one prompt draft for each other.

Li et al. 2025, arXiv:2503.05330, Sec. 3 (drafts from the consensus of parallel
paths) -> `Consensus`. Where several rows of a batch decode the same prompt (for
self-consistency or best-of-N), the last tokens of a row are looked up in the
others, and the run on which the continuations agree is its draft. Verified by
matching, so every sample, and all of them jointly, keep their law. Departures:
only the idea of the paper could be read, so that the query length, the weights
(one per match), the share at which a run ends and the greedy walk through the
merged continuations are parameters of our choice; fuzzy matches are left out.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from spec_jax.core import protocols
from spec_jax.core import registry
from spec_jax.core import tree as tree_lib
from spec_jax.drafters import consensus
from spec_jax.systems import registration
from spec_jax.verifiers import matching

PAPER = registry.Paper(
    title="Speculative Decoding for Multi-Sample Inference",
    authors="Li et al.", year=2025, arxiv="2503.05330",
    venue="EMNLP Findings 2025")


@dataclasses.dataclass(frozen=True)
class Consensus:
  """Copies what the other samples wrote after the same words.

  Attributes:
    depth: drafts at most.
    max_ngram: longest query; shorter ones are tried where it has no match.
    min_share: a run ends where its most common continuation has less than this
      share of the matches that agree with it so far.
    with_self: whether a row may copy from its own text as well.
  """

  vocab_size: int
  depth: int
  max_ngram: int
  min_share: float
  with_self: bool
  needs: ClassVar[protocols.Needs] = protocols.Needs(mates=True)
  max_children: ClassVar[int] = 1

  def init(self, params, batch, capacity):
    """The length of each row's prompt."""
    return jnp.ones((batch,), jnp.int32)

  def prefill(self, params, state, tokens, count):
    return state + count

  def propose(self, params, state, ctx, sampling):
    """Only committed text is searched, so no row sees an unverified token."""
    kin = kinship(ctx.tokens, state)
    if not self.with_self:
      kin &= ~jnp.eye(len(state), dtype=bool)
    row = lambda text, length, kin: self._draft(
        text, length, kin, ctx.tokens, ctx.length)
    drafts, count = jax.vmap(row)(ctx.tokens, ctx.length, kin)
    return tree_lib.chain(ctx.root, drafts, count, "deterministic"), state

  def update(self, params, state, outcome):
    return state

  def _draft(self, text, length, kin, texts, lengths):
    """The consensus `i32[D]` of the rows `kin` for one row, and its length."""
    capacity = texts.shape[1]
    slots = jnp.arange(capacity)
    size = match_sizes(text, length, texts, self.max_ngram)
    # A match must have a next token, and is not the row's own end.
    usable = kin[:, None] & (slots[None] + 1 < lengths[:, None])
    size = jnp.where(usable, size, 0)
    agree = (size == size.max()) & (size > 0)
    return consensus.follow(
        texts, lengths, agree, self.depth, self.vocab_size,
        min_share=self.min_share)


def kinship(tokens: jax.Array, prompt_length: jax.Array) -> jax.Array:
  """`bool[B, B]`, which rows of `i32[B, L]` have the same prompt."""
  slots = jnp.arange(tokens.shape[1])
  same = (tokens[:, None] == tokens[None]) | (
      slots[None, None] >= prompt_length[:, None, None])
  return same.all(-1) & (prompt_length[:, None] == prompt_length[None])


def match_sizes(text: jax.Array, length: jax.Array, texts: jax.Array,
                max_ngram: int) -> jax.Array:
  """Length of the common end of one text and of each beginning of others.

  Args:
    text: `i32[L]`.
    length: of the text.
    texts: `i32[B, L]`.
    max_ngram: longest length told.

  Returns:
    `i32[B, L]`, for the beginning that ends with each slot.
  """
  slots = jnp.arange(texts.shape[1])
  still, size = jnp.ones(texts.shape, bool), jnp.zeros(texts.shape, jnp.int32)
  for back in range(max_ngram):
    here = jnp.roll(texts, back, axis=1)
    still &= ((here == text[jnp.maximum(length - 1 - back, 0)])
              & (slots >= back)[None] & (length - 1 >= back))
    size += still.astype(jnp.int32)
  return size


@registration.register("multi_sample", papers=(PAPER,), family="retrieval")
def multi_sample(parts: registration.Parts, *, depth: int = 8,
                 max_ngram: int = 3, min_share: float = 0.5,
                 with_self: bool = False):
  """Samples of one prompt copy the runs on which they agree."""
  if depth < 1 or max_ngram < 1:
    raise ValueError(
        f"depth={depth}, max_ngram={max_ngram}, expected at least 1 each.")
  if not 0 < min_share <= 1:
    raise ValueError(f"min_share={min_share}, expected in (0, 1].")
  return registration.compose(
      "multi_sample", parts,
      Consensus(parts.target.vocab_size, depth, max_ngram, min_share,
                with_self),
      matching.SampleAndMatch())
