"""A cascade: a model reviews cheap proposals instead of drafting by itself.

Vertical: the draft model never decodes token by token; Max-Gram proposes, the
model reviews the proposal in one forward and adds a token of its own, until
enough tokens are reviewed. Horizontal: behind them, where a draft is rarely
reached, come tokens of Max-Gram that nobody reviewed.
"""

import dataclasses
from typing import Any

from flax import struct
import jax
import jax.numpy as jnp

from spec_jax.caches import dense
from spec_jax.core import protocols
from spec_jax.core import sampling as sampling_lib
from spec_jax.core import tree as tree_lib
from spec_jax.drafters import level_drafter
from spec_jax.drafters import max_gram


@struct.dataclass
class CascadeState:
  """The draft model's memory.

  Attributes:
    cache: keys and values of committed text; during a proposal also of the
      tokens reviewed so far.
  """

  cache: Any


@struct.dataclass
class _Review:
  """What one review hands to the next.

  Attributes:
    tokens: `i32[B, L + room]`, the text and behind it the drafts.
    count: `i32[B]`, drafts.
    cache: of the draft model.
  """

  tokens: jax.Array
  count: jax.Array
  cache: Any


@dataclasses.dataclass(frozen=True)
class Cascade(level_drafter.ModelDrafter):
  """Drafts a chain; deterministic given the text, so it needs no law.

  Attributes:
    model: a `protocols.TargetModel`, the reviewer.
    reviewed: drafts come from reviews until there are so many.
    unreviewed: then so many of Max-Gram follow, less what was overshot.
    proposed: tokens of Max-Gram per review; 0: the model drafts by itself.
    lenience: a review also keeps a token more likely than 1 / lenience; 1 keeps
      none but the most likely ones.
    names: of the model's parameters and Max-Gram's among the drafter's.
  """

  reviewed: int = 13
  unreviewed: int = 10
  proposed: int = 10
  lenience: float = 3.0
  max_ngram: int = 16
  names: tuple[str, str] = ("draft", "cs_drafting")

  def __post_init__(self):
    for name, least in (("reviewed", 1), ("unreviewed", 0), ("proposed", 0),
                        ("lenience", 1)):
      if getattr(self, name) < least:
        raise ValueError(
            f"{name}={getattr(self, name)}, expected at least {least}.")

  @property
  def needs(self) -> protocols.Needs:
    return protocols.Needs(draws=("deterministic",))

  @property
  def max_children(self) -> int:
    return 1

  @property
  def depth(self) -> int:
    """Most drafts: a review may overshoot by what it proposed."""
    return self.reviewed + max(self.proposed, self.unreviewed)

  @property
  def lag(self) -> int:
    """Tokens before the root that the model's cache may lack."""
    return self.unreviewed + 1

  def model_params(self, params):
    return params[self.names[0]]

  def init(self, params, batch, capacity):
    return CascadeState(dense.empty(self.model, batch, capacity))

  def propose(self, params, state, ctx, sampling):
    del sampling  # Reviews are greedy; the target's draw decides in the end.
    successors = params[self.names[1]]["successors"]
    room = self.depth + max(self.proposed, self.unreviewed)
    review = _Review(
        tokens=jnp.pad(ctx.tokens, ((0, 0), (0, room))),
        count=jnp.zeros_like(ctx.length), cache=state.cache)
    model_params = self.model_params(params)
    # The first review also reads what the target accepted unreviewed.
    review = self._review(model_params, successors, ctx.length, review,
                          self.lag + 1)
    review = jax.lax.while_loop(
        lambda r: (r.count < self.reviewed).any(),
        lambda r: self._review(model_params, successors, ctx.length, r, 1),
        review)
    tokens, count = review.tokens, review.count
    if self.unreviewed:
      tail = max_gram.MaxGram(self.unreviewed, self.max_ngram)
      tokens = tail.extend(successors, tokens, ctx.length + count)
      count = jnp.maximum(count, self.reviewed + self.unreviewed)
    slots = ctx.length[:, None] + jnp.arange(self.depth)[None]
    drafts = jnp.take_along_axis(tokens, slots, axis=1)
    return tree_lib.chain(ctx.root, drafts, count, "deterministic"), (
        CascadeState(review.cache))

  def update(self, params, state, outcome):
    """What the text does not go on with was never committed."""
    return CascadeState(state.cache.truncate(outcome.length - 1))

  def _review(self, params, successors, text_length, review, window):
    """One proposal, one forward, one token more; rows that are done rest.

    Args:
      params: of the model.
      successors: Max-Gram's table.
      text_length: `i32[B]`, of the committed text.
      review: so far.
      window: tokens before the proposal to feed, static: as many as the cache
        may lack, the last one included.
    """
    length = text_length + review.count
    tokens = review.tokens
    if self.proposed:
      gram = max_gram.MaxGram(self.proposed, self.max_ngram)
      tokens = gram.extend(successors, tokens, length)
    first = length - window
    slots = first[:, None] + jnp.arange(window + self.proposed)[None]
    positions = jnp.maximum(slots, 0)
    fed = jnp.take_along_axis(tokens, positions, axis=1)
    is_new = slots >= review.cache.length[:, None]
    causal = jnp.tril(jnp.ones((slots.shape[1],) * 2, bool))
    out = self.model.forward(
        params, fed, positions, causal[None] & is_new[:, None, :],
        review.cache)
    kept, correction = self._judge(fed[:, window:], out.logits[:, window - 1:])
    is_on = review.count < self.reviewed
    rows, added = jnp.arange(tokens.shape[0]), jnp.where(is_on, kept + 1, 0)
    place = jnp.where(is_on, length + kept, tokens.shape[1])
    tokens = tokens.at[rows, place].set(correction, mode="drop")
    # All that is behind the text now but its last token.
    num_known = jnp.where(is_on, length + kept - review.cache.length, 0)
    start = review.cache.length - first
    path = jnp.clip(start[:, None] + jnp.arange(slots.shape[1])[None], 0,
                    slots.shape[1] - 1)
    return _Review(tokens, review.count + added, review.cache.commit(
        out.fresh, path, num_known))

  def _judge(self, proposal, logits):
    """How many tokens a review keeps, and the model's own behind them."""
    best = sampling_lib.most_likely(logits)
    if not self.proposed:
      return jnp.zeros_like(best[:, 0]), best[:, 0]
    probs = jnp.take_along_axis(
        jax.nn.softmax(logits[:, :-1].astype(jnp.float32)),
        proposal[:, :, None], axis=2)[:, :, 0]
    is_kept = (proposal == best[:, :-1]) | (probs > 1 / self.lenience)
    kept = jnp.cumprod(is_kept.astype(jnp.int32), axis=1).sum(
        1, dtype=jnp.int32)
    return kept, jnp.take_along_axis(best, kept[:, None], axis=1)[:, 0]
