"""Copies what followed an earlier occurrence of the last few tokens."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from spec_jax.core import protocols
from spec_jax.core import tree as tree_lib
from spec_jax.drafters import consensus


@dataclasses.dataclass(frozen=True)
class PromptLookup:
  """Longest n-gram match in the committed text, on the device.

  Attributes:
    depth: tokens to copy.
    max_ngram: longest suffix that is looked up; shorter ones follow, down to
      one token.
    take_latest: among matches of the same length take the last instead of the
      first.
    allow_short: also take a match with less than `depth` tokens behind it;
      the draft is then shorter.
    most_frequent: among matches of the same length take what most of them go
      on with, token by token: after each token those that went on otherwise
      are asked no more. `take_latest` then says which of equally frequent
      tokens is taken, that of the first match or that of the last.
    vocab_size: of the target, for `most_frequent`.
  """

  depth: int = 10
  max_ngram: int = 3
  take_latest: bool = False
  allow_short: bool = False
  most_frequent: bool = False
  vocab_size: int = 0

  needs: ClassVar[protocols.Needs] = protocols.Needs(draws=("deterministic",))
  max_children: ClassVar[int] = 1

  def __post_init__(self):
    for name in ("depth", "max_ngram"):
      if getattr(self, name) < 1:
        raise ValueError(f"{name}={getattr(self, name)}, expected >= 1.")
    if self.most_frequent and self.vocab_size < 1:
      raise ValueError(f"most_frequent=True counts tokens, but vocab_size="
                       f"{self.vocab_size}, expected the target's.")

  def init(self, params, batch, capacity):
    return ()

  def prefill(self, params, state, tokens, count):
    return state

  def propose(self, params, state, ctx, sampling):
    """Deterministic, so the rule needs no draft law."""
    if self.most_frequent:
      drafts, num_valid = self.majority(ctx.tokens, ctx.length)
    else:
      drafts, num_valid = self.copy(ctx.tokens, ctx.length)
    return tree_lib.chain(
        ctx.root, drafts, num_valid, "deterministic"), state

  def copy(self, tokens: jax.Array, length: jax.Array
           ) -> tuple[jax.Array, jax.Array]:
    """What follows the chosen match: `i32[B, depth]` and how many count."""
    end, is_found = self.match(tokens, length)
    slots = end[:, None] + 1 + jnp.arange(self.depth)[None]
    drafts = jnp.take_along_axis(
        tokens, jnp.minimum(slots, tokens.shape[1] - 1), axis=1)
    available = jnp.minimum(length - 1 - end, self.depth)
    return drafts, jnp.where(is_found, available, 0)

  def majority(self, tokens: jax.Array, length: jax.Array
               ) -> tuple[jax.Array, jax.Array]:
    """What most matches go on with: `i32[B, depth]` and how many count."""
    size = self.sizes(tokens, length)
    longest = (size == size.max(-1, keepdims=True)) & (size > 0)
    slots = jnp.arange(tokens.shape[1], dtype=jnp.int32)
    order = (-slots if self.take_latest else slots)[None]

    def row(text, length, longest):
      return consensus.follow(
          text[None], length[None], longest[None], self.depth,
          self.vocab_size, order)
    return jax.vmap(row)(tokens, length, longest)

  def match(self, tokens: jax.Array, length: jax.Array
            ) -> tuple[jax.Array, jax.Array]:
    """Where the longest earlier copy of the text's suffix ends.

    Args:
      tokens: `i32[B, L]`.
      length: `i32[B]`.

    Returns:
      `i32[B]`, index of the copy's last token, and `bool[B]`, whether one
      exists.
    """
    capacity = tokens.shape[1]
    slots = jnp.arange(capacity)
    size = self.sizes(tokens, length)
    preference = slots if self.take_latest else capacity - 1 - slots
    score = jnp.where(size > 0, size * capacity + preference[None], -1)
    return jnp.argmax(score, -1).astype(jnp.int32), (size > 0).any(-1)

  def sizes(self, tokens: jax.Array, length: jax.Array) -> jax.Array:
    """`i32[B, L]`, length of the match that ends at a slot; 0 for none."""
    capacity = tokens.shape[1]
    slots = jnp.arange(capacity)
    still = jnp.ones(tokens.shape, bool)
    size = jnp.zeros(tokens.shape, jnp.int32)
    for back in range(self.max_ngram):
      wanted = jnp.take_along_axis(
          tokens, jnp.maximum(length - 1 - back, 0)[:, None], axis=1)
      # Scatter-free shift: slot i sees the token `back` places before it.
      here = jnp.pad(tokens, ((0, 0), (back, 0)))[:, :capacity]
      still &= ((here == wanted) & (slots >= back)[None]
                & (length - 1 >= back)[:, None])
      size += still.astype(jnp.int32)
    room = 1 if self.allow_short else self.depth
    return jnp.where(slots[None] + room < length[:, None], size, 0)

  def update(self, params, state, outcome):
    return state
