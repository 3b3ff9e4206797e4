"""Copies what followed an earlier occurrence of the last few tokens."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from spec_jax.core import protocols
from spec_jax.core import tree as tree_lib


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
  """

  depth: int = 10
  max_ngram: int = 3
  take_latest: bool = False
  allow_short: bool = False

  needs: ClassVar[protocols.Needs] = protocols.Needs(draws=("deterministic",))
  max_children: ClassVar[int] = 1

  def __post_init__(self):
    for name in ("depth", "max_ngram"):
      if getattr(self, name) < 1:
        raise ValueError(f"{name}={getattr(self, name)}, expected >= 1.")

  def init(self, params, batch, capacity):
    return ()

  def prefill(self, params, state, tokens, count):
    return state

  def propose(self, params, state, ctx, sampling):
    """Deterministic, so the rule needs no draft law."""
    end, is_found = self.match(ctx.tokens, ctx.length)
    slots = end[:, None] + 1 + jnp.arange(self.depth)[None]
    capacity = ctx.tokens.shape[1]
    drafts = jnp.take_along_axis(
        ctx.tokens, jnp.minimum(slots, capacity - 1), axis=1)
    available = jnp.minimum(ctx.length - 1 - end, self.depth)
    num_valid = jnp.where(is_found, available, 0)
    return tree_lib.chain(
        ctx.root, drafts, num_valid, "deterministic"), state

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
    is_match = (size > 0) & (slots[None] + room < length[:, None])
    preference = slots if self.take_latest else capacity - 1 - slots
    score = jnp.where(is_match, size * capacity + preference[None], -1)
    return jnp.argmax(score, -1).astype(jnp.int32), is_match.any(-1)

  def update(self, params, state, outcome):
    return state
