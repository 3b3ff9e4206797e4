"""Phrases by the token they follow, the most recently used ones kept.

The pool of Lookahead Decoding (Fu et al. 2024, repository), which later
methods fill from further sources. Fixed shape, so it decodes on the device.
"""

from flax import struct
import jax
import jax.numpy as jnp


@struct.dataclass
class PhrasePool:
  """Up to G phrases of L tokens behind each token of the vocabulary.

  Attributes:
    phrases: `i32[B, V, G, L]`, the most recent first; -1 where there is none.
  """

  phrases: jax.Array

  @property
  def per_key(self) -> int:
    return self.phrases.shape[2]

  @property
  def size(self) -> int:
    """Tokens of a phrase."""
    return self.phrases.shape[3]

  def lookup(self, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The phrases behind `key` `i32[B]`: `i32[B, G, L]` and `bool[B, G]`."""
    rows = jnp.arange(key.shape[0])
    found = self.phrases[rows, key]
    return found, found[:, :, 0] >= 0

  def insert(self, key: jax.Array, phrase: jax.Array, is_real: jax.Array
             ) -> "PhrasePool":
    """Puts a phrase in front of its key's others; it is never there twice.

    Args:
      key: `i32[B]`.
      phrase: `i32[B, L]`.
      is_real: `bool[B]`, False leaves the row as it is.
    """
    rows = jnp.arange(key.shape[0])
    old = self.phrases[rows, key]
    same = (old == phrase[:, None]).all(-1)
    # The place that is given up: its own old one, or that of the oldest.
    gap = jnp.where(same.any(-1), jnp.argmax(same, -1), self.per_key - 1)
    shifted = jnp.concatenate([phrase[:, None], old[:, :-1]], axis=1)
    moves = jnp.arange(self.per_key)[None] <= gap[:, None]
    new = jnp.where(moves[:, :, None], shifted, old)
    where = jnp.where(is_real, key, self.phrases.shape[1])
    return PhrasePool(self.phrases.at[rows, where].set(new, mode="drop"))

  def insert_all(self, keys: jax.Array, phrases: jax.Array, is_real: jax.Array
                 ) -> "PhrasePool":
    """`insert` in order: `i32[B, W]`, `i32[B, W, L]`, `bool[B, W]`."""

    def body(i, pool):
      return pool.insert(keys[:, i], phrases[:, i], is_real[:, i])

    return jax.lax.fori_loop(0, keys.shape[1], body, self)

  def overwrite(self, key: jax.Array, phrases: jax.Array, is_real: jax.Array
                ) -> "PhrasePool":
    """Replaces the newest phrases of a key where they stand.

    Args:
      key: `i32[B]`.
      phrases: `i32[B, K, L]`, in place of the K newest.
      is_real: `bool[B, K]`, False leaves a phrase as it is.
    """
    rows = jnp.arange(key.shape[0])[:, None]
    places = jnp.arange(phrases.shape[1])[None]
    where = jnp.where(is_real, places, self.per_key)
    return PhrasePool(self.phrases.at[rows, key[:, None], where].set(
        phrases, mode="drop"))


def empty(batch: int, vocab_size: int, per_key: int, size: int) -> PhrasePool:
  """A pool without phrases."""
  return PhrasePool(
      jnp.full((batch, vocab_size, per_key, size), -1, jnp.int32))
