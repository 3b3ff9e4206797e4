"""Max-Gram: copies what followed the longest suffix seen before, else bigrams.

The statistical drafter at the bottom of a cascade (Chen et al. 2023, arXiv
2312.11462, Sec. 3.1): the longest suffix of the text that occurred earlier, its
first occurrence, as many tokens as follow; once more from the text so extended;
what is still missing comes from a table of most frequent successors.
"""

import dataclasses

import jax
import jax.numpy as jnp

from spec_jax.drafters import prompt_lookup


@dataclasses.dataclass(frozen=True)
class MaxGram:
  """Deterministic; needs no law.

  Attributes:
    num_tokens: proposed at a time.
    max_ngram: longest suffix that is told apart from longer ones.
    num_searches: in the text, each from the text as extended so far.
  """

  num_tokens: int = 10
  max_ngram: int = 16
  num_searches: int = 2

  def extend(self, successors: jax.Array, tokens: jax.Array, length: jax.Array
             ) -> jax.Array:
    """Writes `num_tokens` tokens behind each text.

    Args:
      successors: `i32[V]`, the most frequent token after each.
      tokens: `i32[B, L]` with that much room behind every text.
      length: `i32[B]`.
    """
    lookup = prompt_lookup.PromptLookup(
        self.num_tokens, self.max_ngram, allow_short=True)
    goal = length + self.num_tokens
    rows = jnp.arange(tokens.shape[0])
    for _ in range(self.num_searches):
      end, is_found = lookup.match(tokens, length)
      copied = jnp.where(is_found, jnp.minimum(
          length - 1 - end, goal - length), 0)
      tokens = _copy(tokens, end + 1, length, copied, self.num_tokens)
      length = length + copied

    def follow(_, carry):
      tokens, length = carry
      last = jnp.take_along_axis(tokens, length[:, None] - 1, 1)[:, 0]
      slot = jnp.where(length < goal, length, tokens.shape[1])
      tokens = tokens.at[rows, slot].set(successors[last], mode="drop")
      return tokens, jnp.minimum(length + 1, goal)

    tokens, _ = jax.lax.fori_loop(0, self.num_tokens, follow, (tokens, length))
    return tokens


def _copy(tokens, source, target, count, most):
  """Copies `count` tokens, `most` at most, within each row."""
  steps = jnp.arange(most)[None]
  capacity = tokens.shape[1]
  chosen = jnp.take_along_axis(
      tokens, jnp.minimum(source[:, None] + steps, capacity - 1), axis=1)
  slots = jnp.where(steps < count[:, None], target[:, None] + steps, capacity)
  rows = jnp.arange(tokens.shape[0])[:, None]
  return tokens.at[rows, slots].set(chosen, mode="drop")
