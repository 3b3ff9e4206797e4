"""The run on which most of several continuations agree."""

import jax
import jax.numpy as jnp

from spec_jax.core import sampling

_NEVER = jnp.iinfo(jnp.int32).max


def most_common(tokens: jax.Array, present: jax.Array, vocab_size: int,
                order: jax.Array | None = None
                ) -> tuple[jax.Array, jax.Array]:
  """The most common of the tokens that are present.

  Args:
    tokens: `i32[n]`.
    present: `bool[n]`.
    vocab_size: tokens are below it.
    order: `i32[n]`, below 2**31 - 1; of equally common tokens the one with the
      least entry is taken. None takes the least token.

  Returns:
    A token and how often it is present; 0 times if none is.
  """
  votes = jnp.zeros((vocab_size,), jnp.int32).at[tokens].add(
      present.astype(jnp.int32))
  best = votes.max()
  if order is None:
    return sampling.most_likely(votes), best
  wins = present & (votes[tokens] == best)
  return tokens[jnp.argmin(jnp.where(wins, order, _NEVER))], best


def follow(texts: jax.Array, lengths: jax.Array, agree: jax.Array, depth: int,
           vocab_size: int, order: jax.Array | None = None,
           min_share: float = 0.0) -> tuple[jax.Array, jax.Array]:
  """Walks on from places in texts, each time with the majority.

  Args:
    texts: `i32[R, L]`.
    lengths: `i32[R]`.
    agree: `bool[R, L]`, the places; what follows each of them is asked.
    depth: steps.
    vocab_size: see `most_common`.
    order: `i32[R, L]`, see `most_common`.
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
        ahead.ravel(), present.ravel(), vocab_size,
        None if order is None else order.ravel())
    share = votes.astype(jnp.float32) / jnp.maximum(
        agree.sum(dtype=jnp.int32), 1).astype(jnp.float32)
    going &= (votes > 0) & (share >= min_share)
    agree = present & (ahead == token)
    run.append(token)
    count += going.astype(jnp.int32)
  return jnp.stack(run), count
