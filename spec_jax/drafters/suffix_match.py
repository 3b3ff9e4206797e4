"""The longest suffix that occurred before, of any length, on the device.

The answer of a suffix automaton of the text (Hu et al. 2024, SAM Decoding;
Chen et al. 2023, CS Drafting: "Max-Gram") without one: m_j, the common suffix
of the text up to j and of the whole text, follows from the vector before the
last token t by `m_j <- m_{j-1} + 1 if text[j] == t else 0`.
"""

import dataclasses
from typing import ClassVar

from flax import struct
import jax
import jax.numpy as jnp

from spec_jax.core import protocols
from spec_jax.core import tree as tree_lib


@struct.dataclass
class Matches:
  """Match lengths of one text per row.

  Attributes:
    lengths: `i32[B, L]`, m_j; 0 at and behind the last token.
    known: `i32[B]`, tokens of the text that they take into account.
  """

  lengths: jax.Array
  known: jax.Array


@dataclasses.dataclass(frozen=True)
class SuffixMatch:
  """Copies what followed the longest repeated suffix.

  Attributes:
    depth: most tokens to copy.
    shortest: a shorter match is none.
    take_latest: among matches of the same length take the last instead of the
      first.
    allow_short: also take a match with less than `depth` tokens behind it; the
      draft is then shorter.
    factor: copy no more than `1 + factor * length` tokens; 0 = always `depth`.
  """

  depth: int = 10
  shortest: int = 1
  take_latest: bool = False
  allow_short: bool = False
  factor: float = 0.0

  needs: ClassVar[protocols.Needs] = protocols.Needs()
  max_children: ClassVar[int] = 1

  def __post_init__(self):
    for name in ("depth", "shortest"):
      if getattr(self, name) < 1:
        raise ValueError(f"{name}={getattr(self, name)}, expected >= 1.")
    if self.factor < 0:
      raise ValueError(f"factor={self.factor}, expected >= 0.")

  def init(self, params, batch, capacity):
    return Matches(jnp.zeros((batch, capacity), jnp.int32),
                   jnp.zeros((batch,), jnp.int32))

  def prefill(self, params, state, tokens, count):
    return state  # The text is read when it is needed.

  def propose(self, params, state, ctx, sampling):
    """Deterministic, so the rule needs no draft law."""
    state = read(state, ctx.tokens, ctx.length)
    end, matched = self.match(state.lengths, ctx.length)
    capacity = ctx.tokens.shape[1]
    slots = end[:, None] + 1 + jnp.arange(self.depth)[None]
    drafts = jnp.take_along_axis(
        ctx.tokens, jnp.minimum(slots, capacity - 1), axis=1)
    count = jnp.minimum(ctx.length - 1 - end, self.depth)
    if self.factor:
      most = 1 + jnp.floor(
          jnp.float32(self.factor) * matched.astype(jnp.float32))
      count = jnp.minimum(count, most.astype(jnp.int32))
    count = jnp.where(matched > 0, count, 0)
    return tree_lib.chain(ctx.root, drafts, count, "deterministic"), state

  def match(self, lengths: jax.Array, length: jax.Array
            ) -> tuple[jax.Array, jax.Array]:
    """Where the chosen match ends, and how long it is; 0 if there is none."""
    capacity = lengths.shape[1]
    slots = jnp.arange(capacity)
    room = 1 if self.allow_short else self.depth
    fits = (lengths >= self.shortest) & (slots[None] + room < length[:, None])
    preference = slots if self.take_latest else capacity - 1 - slots
    score = jnp.where(fits, lengths * capacity + preference[None], -1)
    end = jnp.argmax(score, -1).astype(jnp.int32)
    found = jnp.take_along_axis(lengths, end[:, None], 1)[:, 0]
    return end, jnp.where(fits.any(-1), found, 0)

  def update(self, params, state, outcome):
    return state


def read(state: Matches, tokens: jax.Array, length: jax.Array) -> Matches:
  """Takes into account what the text gained, `i32[B, L]` and `i32[B]`."""
  slots = jnp.arange(tokens.shape[1])[None]

  def body(i, lengths):
    at = state.known + i
    token = jnp.take_along_axis(
        tokens, jnp.minimum(at, tokens.shape[1] - 1)[:, None], 1)
    before = jnp.pad(lengths, ((0, 0), (1, 0)))[:, :-1]
    grown = jnp.where(
        (tokens == token) & (slots < at[:, None]), before + 1, 0)
    return jnp.where((at < length)[:, None], grown, lengths)

  lengths = jax.lax.fori_loop(
      0, (length - state.known).max(), body, state.lengths)
  return Matches(lengths, length)
