"""Features of one token should agree, whichever step guessed them.

CORAL (Weng et al. 2025, arXiv 2502.16880): in training over several steps of
own guesses, a contrastive loss pulls together what different steps say of the
same position and pushes apart what they say of different ones.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax


def contrast(guesses: Sequence[jax.Array], temperature: float) -> jax.Array:
  """Mean cross-entropy, in nats, of finding a position among all of its text.

  For each ordered pair of different steps, a guess of the first is compared
  with all guesses of the second by its cosine. Candidates are those of the same
  text alone.

  Args:
    guesses: by step, `f[B, W, E]`; column c of step s is of position c + s, and
      positions from W on are not real.
    temperature: cosines are divided by it.

  Returns:
    A scalar; 0 for fewer than two steps.
  """
  if len(guesses) < 2:
    return jnp.zeros(())
  width = guesses[0].shape[1]
  # By position: a step says nothing of the first ones.
  moved = [_unit(jnp.pad(guess, ((0, 0), (step, 0), (0, 0)))[:, :width])
           for step, guess in enumerate(guesses)]
  positions = jnp.arange(width)
  total, count = 0.0, 0
  for first, ours in enumerate(moved):
    for second, theirs in enumerate(moved):
      if first == second:
        continue
      scores = jnp.einsum("bie,bje->bij", ours, theirs) / temperature
      scores = jnp.where(
          (positions >= second)[None, None], scores, -jnp.inf)
      is_real = (positions >= max(first, second))[None]
      terms = optax.softmax_cross_entropy_with_integer_labels(
          scores, jnp.broadcast_to(positions[None], scores.shape[:2]))
      total += jnp.where(is_real, terms, 0).sum()
      count += len(ours) * (width - max(first, second))
  return total / count


def _unit(x):
  x = x.astype(jnp.float32)
  return x * jax.lax.rsqrt((x * x).sum(-1, keepdims=True) + 1e-12)
