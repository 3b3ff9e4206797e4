"""The back-off model, against its definition by counting strings."""

import collections
import itertools
import math

import jax.numpy as jnp
import numpy as np
import pytest

from spec_jax.models import ngram
from spec_jax.training import ngrams

V, ORDER = 5, 4
STREAM = np.random.default_rng(0).choice(
    V, 400, p=[.5, .25, .15, .1, 0.]).astype(np.uint16)


class Counted:
  """By definition, recursively."""

  def __init__(self, least=2):
    text = STREAM.tolist()
    self.counts = collections.Counter(
        tuple(text[i:i + m]) for m in range(1, ORDER + 1)
        for i in range(len(text) - m + 1))
    self.least = least

  def seen(self, context):
    kept = {}
    for token in range(V):
      number = self.counts[context + (token,)]
      if number >= (self.least if len(context) > 1 else 1):
        kept[token] = number
    return kept

  def prob(self, context, token):
    if not context:
      return (self.counts[(token,)] + 1) / (len(STREAM) + V)
    total = sum(self.counts[context + (t,)] for t in range(V))
    is_node = total and self.counts[context] >= (
        self.least if len(context) > 2 else 1)
    if not is_node:
      return self.prob(context[1:], token)
    kept = self.seen(context)
    if token in kept:
      return (kept[token] - .75) / total
    freed = 1 - sum((n - .75) / total for n in kept.values())
    unseen = 1 - sum(self.prob(context[1:], t) for t in kept)
    return freed / unseen * self.prob(context[1:], token)


def test_scores_are_those_of_the_definition():
  model, counted = ngrams.count(STREAM, V, ORDER), Counted()
  assert model.order == ORDER
  contexts = np.asarray(list(itertools.product(range(-1, V), repeat=3)))
  # Nothing stands before the beginning of a text.
  is_text = np.asarray([
      all(a < 0 or b >= 0 for a, b in itertools.pairwise(c)) for c in contexts])
  contexts = contexts[is_text]
  for token in range(V):
    found = np.asarray(model.score(
        jnp.asarray(contexts, jnp.int32),
        jnp.full(len(contexts), token, jnp.int32)))
    wanted = [math.log(counted.prob(tuple(t for t in c.tolist() if t >= 0),
                                    token)) for c in contexts]
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_laws_sum_to_one():
  model = ngrams.count(STREAM, V, 3)
  pairs = jnp.asarray(list(itertools.product(range(V), repeat=2)), jnp.int32)
  total = sum(np.exp(np.asarray(model.score(
      pairs, jnp.full(len(pairs), t, jnp.int32)))) for t in range(V))
  np.testing.assert_allclose(total, 1, atol=1e-4)


def test_a_bundle_keeps_it():
  model = ngrams.count(STREAM, V, 3)
  again = ngram.from_params(ngram.to_params(model))
  assert again.order == 3
  history = jnp.asarray([[0, 1], [-1, 2]], jnp.int32)
  token = jnp.asarray([1, 0], jnp.int32)
  np.testing.assert_array_equal(
      model.score(history, token), again.score(history, token))


def test_longer_ngrams_than_there_are_are_no_level():
  assert ngrams.count(np.arange(6), 8, order=4).order == 2
  assert ngrams.count(np.tile(np.arange(6), 2), 8, order=4).order == 4


def test_unigrams_alone_ignore_the_history():
  model = ngrams.count(STREAM, V, 1)
  found = np.exp(model.score(
      jnp.zeros((V, 0), jnp.int32), jnp.arange(V, dtype=jnp.int32)))
  np.testing.assert_allclose(
      found, (np.bincount(STREAM, minlength=V) + 1) / (400 + V), rtol=1e-5)


@pytest.mark.parametrize("stream, order", [([], 1), ([1, 5], 1), ([1, 2], 2)])
def test_nothing_to_count_is_named(stream, order):
  with pytest.raises(ValueError, match="expected order from 1"):
    ngrams.count(np.asarray(stream), V, order)
