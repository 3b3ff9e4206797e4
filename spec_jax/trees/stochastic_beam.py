"""Stochastic beam search: sequences drawn without replacement, level by level.

Every sequence of tokens carries its log-probability plus Gumbel noise, and the
W largest of these sums are W draws without replacement, in the order drawn.
The sums of the children of a sequence are drawn given that their maximum is
the sum of the sequence itself, so no sequence but the best W of a length is
ever extended (Kool et al. 2019, Sec. 4.1 and Algorithm 1).
"""

import math

from flax import struct
import jax
import jax.numpy as jnp


@struct.dataclass
class Beam:
  """The sequences kept at one length, best first.

  Attributes:
    log_probs: `f[M]`, of the whole sequence.
    scores: `f[M]`, what the sequences are ranked by: perturbed
      log-probabilities, or the log-probabilities themselves; -inf where there
      are fewer sequences than places.
  """

  log_probs: jax.Array
  scores: jax.Array


def root(dtype=jnp.float32) -> Beam:
  """The empty sequence; its score shifts all others alike."""
  return Beam(jnp.zeros((1,), dtype), jnp.zeros((1,), dtype))


def step(beam: Beam, log_law: jax.Array, clocks: jax.Array | None, width: int
         ) -> tuple[Beam, jax.Array, jax.Array]:
  """Extends all sequences by all tokens and keeps the best.

  The children kept of one sequence are, in the order of their scores, a sample
  without replacement from its law. How many are kept tells nothing about which
  tokens they are: given those before it, a child is independent of its own
  score (the argmax of Gumbels is independent of their maximum).

  Args:
    beam: of M sequences.
    log_law: `f[M, V]`, log-probabilities of the next token; rows of sequences
      that do not exist may hold anything.
    clocks: `f[M, V]`, exponential (`core.sampling.clocks`), so that minus
      their logarithm is Gumbel; None ranks by log-probability.
    width: sequences to keep, W <= M V; static.

  Returns:
    The beam of W, `i32[W]` places of the parents in `beam` and `i32[W]`
    tokens. Ties go to the lower parent, then the lower token.
  """
  vocab_size = log_law.shape[-1]
  exists = (beam.scores > -jnp.inf)[:, None]
  log_probs = jnp.where(
      exists, beam.log_probs[:, None] + log_law, -jnp.inf)
  scores = log_probs
  if clocks is not None:
    scores = truncate(log_probs - jnp.log(clocks), beam.scores[:, None])
  best, flat = jax.lax.top_k(scores.reshape(-1), width)
  parents, tokens = jnp.divmod(flat.astype(jnp.int32), vocab_size)
  return Beam(log_probs.reshape(-1)[flat], best), parents, tokens


def truncate(values: jax.Array, bound: jax.Array) -> jax.Array:
  """Makes Gumbels with any maximum into Gumbels whose maximum is `bound`.

  `-log(exp(-bound) - exp(-max) + exp(-values))`, in the form that neither
  overflows nor cancels (Kool et al. 2019, Appendix B.3).

  Args:
    values: `f[..., V]`, independent Gumbels; -inf for what cannot be drawn.
    bound: `f[..., 1]`, the maximum wanted.

  Returns:
    `f[..., V]` in the order of `values`; -inf stays.
  """
  is_possible = values > -jnp.inf
  largest = values.max(-1, keepdims=True)
  below = jnp.where(is_possible, values - largest, -1)
  excess = jnp.where(is_possible, bound - values + _log1mexp(below), 0)
  moved = (bound - jnp.maximum(excess, 0)
           - jnp.log1p(jnp.exp(-jnp.abs(excess))))
  return jnp.where(is_possible, moved, -jnp.inf)


def _log1mexp(x: jax.Array) -> jax.Array:
  """`log(1 - exp(x))` for x <= 0, each side of log 1/2 by its stable form."""
  is_small = x > -math.log(2)
  near = jnp.log(-jnp.expm1(jnp.where(is_small, x, -1)))
  return jnp.where(is_small, near, jnp.log1p(-jnp.exp(x)))
