"""What token rules are made of: residuals, ratios, one try after another."""

import functools

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


def single(p: jax.Array, q: jax.Array, drafts: jax.Array, is_draft: jax.Array
           ) -> jax.Array:
  """Speculative sampling of the one draft there is; p without any.

  Args:
    p: `f[V]`, the target's law.
    q: `f[V]`, or `f[K, V]`, a law for each draft.
    drafts: `i32[K]`.
    is_draft: `bool[K]`, at most one is True.

  Returns:
    `f[V]`, the law of the emitted token.
  """
  at = jnp.argmax(is_draft)
  q = q if q.ndim == 1 else q[at]
  return sequential(p, q, drafts[at][None], is_draft.any()[None],
                    lambda q, token, k: q)


def unless_single(several, p: jax.Array, q: jax.Array, drafts: jax.Array,
                  is_draft: jax.Array) -> jax.Array:
  """`several(p, q, drafts, is_draft)`, or `single` where that is the same.

  Every optimal rule for several drafts is `single` for one, and `single` costs
  next to nothing. In a batch `several` runs only if some row has several
  drafts; `lax.cond` would run it always.
  """
  if drafts.shape[0] == 1:
    return single(p, q, drafts, is_draft)
  return _either(is_draft.sum() > 1, several, single, p, q, drafts, is_draft)


def _either(pred, if_true, if_false, *operands):
  """`lax.cond` on one array that stays a branch under `vmap`."""

  @jax.custom_batching.custom_vmap
  def choose(pred, *operands):
    return jax.lax.cond(pred, if_true, if_false, *operands)

  @choose.def_vmap
  def _(axis_size, is_batched, pred, *operands):
    del axis_size
    axes = [0 if batched else None for batched in is_batched]
    over = functools.partial(jax.vmap, in_axes=axes)
    select = lambda pred, *operands: jnp.where(
        pred, if_true(*operands), if_false(*operands))
    neither = lambda pred, *operands: if_false(*operands)
    return _either(jnp.any(pred), over(select), over(neither), pred,
                   *operands), True

  return choose(pred, *operands)
