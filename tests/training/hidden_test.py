"""Batches of hidden states are told apart by their number alone."""

import jax
import numpy as np
import pytest

from spec_jax.models import contract
from spec_jax.training import hidden
from tests import toy


@pytest.fixture(scope="module")
def model():
  made = contract.decoder_model(toy.config())
  return made, made.init(jax.random.key(0))


def test_beginning_later_gives_the_same_batches(model):
  calls = []
  documents = [[1, 2, 3, 4, 5, 6, 7], [], [1], [5, 4, 3], [2, 6] * 9]

  def states(first):
    return list(hidden.states(
        *model, documents, toy.VOCAB, length=4,
        following=3, batch=2, first=first))

  whole = states(0)
  sizes = [len(states) for states, _ in whole]
  assert sizes == [4 + 2, 2 + 4, 4 + 4, 4 + 1]
  for first in range(1, 6):
    for mine, theirs in zip(states(first), whole[first:], strict=True):
      calls.append(first)
      for got, wanted in zip(mine, theirs):
        np.testing.assert_array_equal(got, wanted)
  assert calls == [1, 1, 1, 2, 2, 3]


def test_what_follows_ends_with_the_document(model):
  (states, following), = hidden.states(
      *model, [[1, 2, 3, 4]], toy.VOCAB, length=8,
      following=2)
  assert states.dtype == np.float16
  assert following.tolist() == [[2, 3], [3, 4], [4, toy.VOCAB]]
