"""The run on which most of several continuations agree."""

import jax
import jax.numpy as jnp

_NEVER = jnp.iinfo(jnp.int32).max


def most_common(tokens: jax.Array, present: jax.Array, order: jax.Array
                ) -> tuple[jax.Array, jax.Array]:
  """The most common of the tokens that are present.

  Args:
    tokens: `i32[n]`.
    present: `bool[n]`.
    order: `i32[n]`, below 2**31 - 1; of equally common tokens the one with the
      least entry is taken.

  Returns:
    A token and how often it is present; 0 times if none is.
  """
  order = jnp.where(present, order, _NEVER)
  # Sorted, equal tokens are neighbours, the least entry of each comes first:
  # no table of the vocabulary is needed. Absent ones go to the end.
  absent, tokens, order = jax.lax.sort(
      ((~present).astype(jnp.int32), tokens, order), num_keys=3)
  slots = jnp.arange(len(tokens), dtype=jnp.int32)
  is_new = jnp.concatenate([
      jnp.ones((1,), bool), tokens[1:] != tokens[:-1]])
  begin = jax.lax.cummax(jnp.where(is_new, slots, 0))
  votes = jnp.where(absent == 0, slots - begin + 1, 0)
  best = votes.max()
  chosen = jnp.argmin(jnp.where(
      (votes == best) & (absent == 0), order[begin], _NEVER))
  return tokens[chosen], best


def follow(texts: jax.Array, lengths: jax.Array, agree: jax.Array, depth: int,
           order: jax.Array | None = None, min_share: float = 0.0
           ) -> tuple[jax.Array, jax.Array]:
  """Walks on from places in texts, each time with the majority.

  Args:
    texts: `i32[R, L]`.
    lengths: `i32[R]`.
    agree: `bool[R, L]`, the places; what follows each of them is asked.
    depth: steps.
    order: `i32[R, L]`, see `most_common`; None takes the least token.
    min_share: a run ends where less than this share of those that agree with it
      so far go on alike.

  Returns:
    The run `i32[depth]`, and how many of its tokens count: it ends where no
    text goes on.
  """
  slots = jnp.arange(texts.shape[1])
  run, count, going = [], jnp.zeros((), jnp.int32), jnp.bool_(True)
  for step in range(1, depth + 1):
    ahead = jnp.roll(texts, -step, axis=1)
    present = agree & (slots[None] + step < lengths[:, None])
    token, votes = most_common(
        ahead.ravel(), present.ravel(),
        (ahead if order is None else order).ravel())
    share = votes.astype(jnp.float32) / jnp.maximum(
        agree.sum(dtype=jnp.int32), 1).astype(jnp.float32)
    going &= (votes > 0) & (share >= min_share)
    agree = present & (ahead == token)
    run.append(token)
    count += going.astype(jnp.int32)
  return jnp.stack(run), count
