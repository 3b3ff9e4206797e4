"""Counts the n-grams of a text into a back-off model."""

import jax.numpy as jnp
import numpy as np

from spec_jax.models import ngram


def count(stream: np.ndarray, vocab_size: int, order: int = 4,
          discount: float = 0.75, least: int = 2) -> ngram.Ngrams:
  """A model by absolute discounting, backing off where nothing was seen.

  The mass that discounting frees goes to the tokens not seen after a context,
  in proportion to their probability after the context without its first token
  (Katz 1987, with one discount in place of Good and Turing's).

  Args:
    stream: `[n]` tokens.
    vocab_size: V.
    order: n, at least 1; the model's is smaller if no longer one occurs.
    discount: taken off each count, in (0, 1).
    least: n-grams of 3 tokens and more that occur less often are left out.

  Raises:
    ValueError: if there is nothing to count, or a token is none.
  """
  stream = np.asarray(stream, np.int64)
  if not len(stream) > order > 0 or not 0 < discount < 1 or (
      stream.min() < 0 or stream.max() >= vocab_size):
    raise ValueError(
        f"{len(stream)} tokens, order={order}, discount={discount}: expected"
        f" order from 1, below the number of tokens, all in [0, {vocab_size}),"
        " and a discount in (0, 1).")
  counts = np.bincount(stream, minlength=vocab_size).astype(np.float64)
  # One more of each: no token is impossible.
  probs = [(counts + 1) / (counts + 1).sum()]
  tokens, starts, backoff = [np.arange(vocab_size)], [], []
  # By place of the stream, the node that its last tokens are, or -1.
  nodes, keys = stream, np.arange(vocab_size)
  suffix = None
  for size in range(2, order + 1):
    nodes = np.where(nodes[:-1] < 0, -1,
                     nodes[:-1] * vocab_size + stream[size - 1:])
    found, number = np.unique(nodes[nodes >= 0], return_counts=True)
    above, last = np.divmod(found, vocab_size)
    # How often each context was followed by anything.
    total = np.bincount(above, number, len(keys))
    kept = number >= (least if size > 2 else 1)
    found, number, above, last = (
        a[kept] for a in (found, number, above, last))
    if not len(found):
      break
    # The same without its first token: no rarer, so it is there.
    lower = last if suffix is None else np.searchsorted(
        keys, suffix[above] * vocab_size + last)
    prob = (number - discount) / total[above]
    freed = 1 - np.bincount(above, prob, len(keys))
    unseen = 1 - np.bincount(above, probs[-1][lower], len(keys))
    backoff.append(np.log(np.maximum(freed, 1e-8) / np.maximum(unseen, 1e-8)))
    starts.append(np.searchsorted(above, np.arange(len(keys) + 1)))
    place = np.minimum(np.searchsorted(found, nodes), len(found) - 1)
    nodes = np.where((nodes >= 0) & (found[place] == nodes), place, -1)
    suffix, keys = lower, found
    tokens.append(last)
    probs.append(prob)
  whole = lambda arrays: tuple(jnp.asarray(a, jnp.int32) for a in arrays)
  real = lambda arrays: tuple(jnp.asarray(a, jnp.float32) for a in arrays)
  return ngram.Ngrams(whole(tokens), whole(starts),
                      real([np.log(p) for p in probs]), real(backoff))
