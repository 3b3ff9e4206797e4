"""Several phrases that follow one root, as one tree without duplicates."""

import chex
import jax
import jax.numpy as jnp

from spec_jax.core import types


def owners(phrases: jax.Array, length: jax.Array
           ) -> tuple[jax.Array, jax.Array]:
  """For each token the first phrase that begins with the same tokens.

  Args:
    phrases: `i32[B, G, L]`.
    length: `i32[B, G]`.

  Returns:
    `i32[B, G, L]` and `bool[B, G, L]`, whether the token counts.
  """
  # [B, g, h, l]: phrases g and h agree on all tokens up to l, and have them.
  agree = jnp.cumprod(
      (phrases[:, :, None] == phrases[:, None]).astype(jnp.int32), axis=-1) > 0
  real = jnp.arange(phrases.shape[2])[None, None] < length[:, :, None]
  agree &= real[:, :, None] & real[:, None]
  return jnp.argmax(agree, axis=2).astype(jnp.int32), real


def tree(root: jax.Array, phrases: jax.Array, length: jax.Array
         ) -> types.DraftTree:
  """The trie of a set of phrases; equal beginnings are drafted once.

  Without it a walk that descends into the first child with the right token
  would miss a longer phrase that begins with the same token.

  Args:
    root: `i32[B]`, the pending token.
    phrases: `i32[B, G, L]`, the better ones first.
    length: `i32[B, G]`, how many tokens of each phrase count.

  Returns:
    A tree of `1 + G * L` nodes; token l of phrase g is node `1 + g * L + l`, of
    equal beginnings only the first phrase's nodes are valid.
  """
  chex.assert_rank([root, phrases, length], [1, 3, 2])
  batch, num_phrases, size = phrases.shape
  first, real = owners(phrases, length)
  groups = jnp.arange(num_phrases)[None, :, None]
  is_first = real & (first == groups)
  before = jnp.pad(first, ((0, 0), (0, 0), (1, 0)))[:, :, :-1]
  steps = jnp.arange(size)[None, None]
  parents = jnp.where(is_first & (steps > 0), before * size + steps, 0)
  flat = lambda a: a.reshape(batch, num_phrases * size)
  lead = lambda value, a: jnp.concatenate(
      [jnp.broadcast_to(value, (batch, 1)).astype(a.dtype), flat(a)], axis=1)
  return types.DraftTree(
      tokens=jnp.concatenate([root[:, None], flat(phrases)], axis=1),
      parents=lead(jnp.asarray(-1)[None, None], parents.astype(jnp.int32)),
      valid=lead(jnp.asarray(True)[None, None], is_first), q=None,
      draw="deterministic", depth=size, max_children=num_phrases)
