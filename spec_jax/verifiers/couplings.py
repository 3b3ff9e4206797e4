"""What token rules are made of: residuals, ratios, one try after another."""

import jax
import jax.numpy as jnp


def normalise(mass: jax.Array, fallback: jax.Array) -> jax.Array:
  """`mass / sum(mass)`; `fallback` where nothing (but rounding) is left.

  A residual is empty only if the event it serves has probability zero, so the
  fallback decides nothing; it keeps the branch not taken finite.
  """
  total = mass.sum(-1, keepdims=True)
  tiny = 8 * jnp.finfo(mass.dtype).eps
  is_empty = total <= tiny
  return jnp.where(is_empty, fallback, mass / jnp.where(is_empty, 1, total))


def acceptance_ratio(p: jax.Array, q: jax.Array, token: jax.Array) -> jax.Array:
  """`min(1, p(token) / q(token))`; 0 for a token that cannot be drawn."""
  p_token, q_token = p[token], q[token]
  safe = jnp.where(q_token > 0, q_token, 1)
  return jnp.where(q_token > 0, jnp.minimum(1, p_token / safe), 0)


def sequential(p: jax.Array, q: jax.Array, drafts: jax.Array,
               is_draft: jax.Array, next_q) -> jax.Array:
  """Recursive rejection: the mass still alive times the residual is left.

  Args:
    p: `f[V]`, the target's law.
    q: `f[V]`, the law of the first draft.
    drafts: `i32[K]`, tried in order.
    is_draft: `bool[K]`, False for padding.
    next_q: `(q, tried token, index of the try) -> q` of the next draft.

  Returns:
    `f[V]`, the law of the emitted token.
  """
  law = jnp.zeros_like(p)
  vocab = jnp.arange(p.shape[-1], dtype=drafts.dtype)
  alive = jnp.ones((), p.dtype)
  for k in range(drafts.shape[0]):
    token = drafts[k]
    accept = jnp.where(is_draft[k], acceptance_ratio(p, q, token), 0)
    # A mask, not a scatter: it fuses with its neighbours.
    law = law + jnp.where(vocab == token, alive * accept, 0)
    alive = alive * (1 - accept)
    residual = normalise(jnp.maximum(p - q, 0), p)
    p = jnp.where(is_draft[k], residual, p)
    q = jnp.where(is_draft[k], next_q(q, token, k), q)
  return law + alive * p
