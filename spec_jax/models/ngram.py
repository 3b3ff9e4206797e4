"""A back-off n-gram model in arrays, to be asked on the device.

All n-grams of a text as a trie, level by level: the children of a node lie side
by side, sorted by token. `training.ngrams` makes it.
"""

from flax import struct
import jax
import jax.numpy as jnp


@struct.dataclass
class Ngrams:
  """Log-probabilities of tokens after up to n - 1 others.

  Level m, from 1, holds the n-grams of m tokens; level 1 all V tokens.

  Attributes:
    tokens: by level, `i32[N]`, the last token of each.
    starts: by level but the last, `i32[N + 1]`, where its children begin in the
      next.
    log_probs: by level, `f32[N]`, of the last token after those before it.
    backoff: by level but the last, `f32[N]`, logarithm of what a shorter
      context's probability is multiplied with where no child is found.
  """

  tokens: tuple[jax.Array, ...]
  starts: tuple[jax.Array, ...]
  log_probs: tuple[jax.Array, ...]
  backoff: tuple[jax.Array, ...]

  @property
  def order(self) -> int:
    """How many tokens the longest have."""
    return len(self.tokens)

  def score(self, history: jax.Array, token: jax.Array) -> jax.Array:
    """`f32[...]`, log-probability of `token` `i32[...]`.

    Args:
      history: `i32[..., n - 1]`, the tokens before, -1 where there is none.
      token: what comes next.
    """
    found = self.log_probs[0][token]
    for size in range(1, self.order):
      node, exists = self._find(history[..., self.order - 1 - size:])
      child, is_known = self._child(size, node, token)
      is_known &= exists
      longer = jnp.where(exists, self.backoff[size - 1][node], 0.0) + found
      found = jnp.where(is_known, self.log_probs[size][child], longer)
    return found

  def seen(self, history: jax.Array, token: jax.Array) -> jax.Array:
    """`f32[..., n - 1]`: after the last 1, 2, ... tokens of `history`.

    Probabilities of `token` without backing off, 0 where the n-gram is unknown.
    Arguments as `score`.
    """
    found = []
    for size in range(1, self.order):
      node, exists = self._find(history[..., self.order - 1 - size:])
      child, is_known = self._child(size, node, token)
      found.append(jnp.where(
          is_known & exists, jnp.exp(self.log_probs[size][child]), 0.0))
    return jnp.stack(found, axis=-1)

  def _find(self, path):
    """The node of `i32[..., m]`, and whether there is one."""
    node, exists = jnp.maximum(path[..., 0], 0), path[..., 0] >= 0
    for i in range(1, path.shape[-1]):
      node, is_known = self._child(i, node, path[..., i])
      exists &= is_known
    return node, exists

  def _child(self, level, node, token):
    """Of a node of `level` the child with a token, by bisection."""
    tokens = self.tokens[level]
    low, end = self.starts[level - 1][node], self.starts[level - 1][node + 1]
    last = max(tokens.shape[0] - 1, 0)

    def halve(_, bounds):
      low, high = bounds
      middle = (low + high) // 2
      is_less = (tokens[jnp.minimum(middle, last)] < token) & (low < high)
      return (jnp.where(is_less, middle + 1, low),
              jnp.where(is_less | (low >= high), high, middle))

    low, _ = jax.lax.fori_loop(
        0, tokens.shape[0].bit_length(), halve, (low, end))
    place = jnp.minimum(low, last)
    return place, (low < end) & (tokens[place] == token)


def from_params(params: dict[str, jax.Array]) -> Ngrams:
  """Of a flat dictionary, as a bundle keeps it."""
  order = sum(key.startswith("tokens_") for key in params)
  levels = lambda name, count: tuple(
      params[f"{name}_{i + 1}"] for i in range(count))
  return Ngrams(levels("tokens", order), levels("starts", order - 1),
                levels("log_probs", order), levels("backoff", order - 1))


def to_params(ngrams: Ngrams) -> dict[str, jax.Array]:
  """The reverse of `from_params`."""
  return {f"{name}_{i + 1}": array
          for name in ("tokens", "starts", "log_probs", "backoff")
          for i, array in enumerate(getattr(ngrams, name))}
