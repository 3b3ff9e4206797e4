"""DReSD: the query, the filter, and a store that holds the text itself."""

import numpy as np
import pytest

from spec_jax import systems
from spec_jax.core import keys as keys_lib
from spec_jax.executors import hosted
from spec_jax.stores import dense_store
from spec_jax.systems.retrieval import dresd
from spec_jax.training import hidden
from tests import rounds
from tests import toy


@pytest.fixture(scope="module")
def built():
  return systems.build(
      "dresd", toy.bundle(), dense_store=toy.dense_store(), depth=5)


def test_states_and_continuations_are_those_of_the_whole_text():
  toys = toy.bundle()
  texts = [[1, 2, 3, 4, 5, 6, 7], [8], [9, 10]]
  parts = list(hidden.states(
      toys.target, toys.params["target"], texts, 0, length=16, following=3,
      batch=2))
  found = np.concatenate([states for states, _ in parts])
  nexts = np.concatenate([following for _, following in parts])
  assert nexts.tolist() == [
      [2, 3, 4], [3, 4, 5], [4, 5, 6], [5, 6, 7], [6, 7, 0], [7, 0, 0],
      [10, 0, 0]]
  out = toys.target.score(
      toys.params["target"], np.asarray([texts[0]]), taps=("final",))
  np.testing.assert_allclose(
      found[:6], out.taps["final"][0, :6], atol=2e-2, rtol=2e-2)
  short = list(hidden.states(
      toys.target, toys.params["target"], texts[:1], 0, length=4, following=3))
  assert short[0][1].tolist() == nexts[:6].tolist()


def test_a_store_that_holds_the_text_gives_it_back(built):
  system, params = built
  system = system.with_sampling(system.sampling.__class__(0.0))
  decoded = hosted.Hosted().run(
      system, params, rounds.prompts_of([[1, 5], [3, 5]]),
      keys_lib.row_keys(0, 2), 36)
  for row, first in enumerate((1, 3)):
    assert decoded.tokens[row, :38].tolist() == toy.greedy_reference(
        toy.bundle().target, toy.bundle().params["target"], [first, 5], 36)
  # The first round has no hidden state yet.
  calls = decoded.counts.target_calls
  assert (calls <= 1 + 36 // 3).all()


def test_drafts_begin_behind_the_pending_token(built):
  system, _ = built
  store = system.drafter.open_store()
  row = dresd.Row(system.drafter, store, [4])
  found = {}
  for key in range(0, len(store.keys), 5):
    # A point whose projection is the key itself.
    back = np.asarray(store.keys[key], np.float32) @ (
        store.projection.components.T) * store.projection.std
    query = dresd.Query(back + store.projection.mean, np.asarray(True))
    row.extend([int(store.values[key, 0])])
    trie = row.draft(query)
    wanted = [t for t in store.values[key, 1:6].tolist() if t < toy.VOCAB]
    assert not wanted or tuple(wanted) in trie.paths()
    assert trie.score == pytest.approx(1, abs=1e-2)
    found[key] = trie
    row.extend([toy.VOCAB + 1])  # No neighbour begins so.
    assert row.draft(query) is None
  assert found
  assert row.draft(dresd.Query(np.zeros(16), np.asarray(False))) is None


def test_what_does_not_fit_is_refused(built):
  with pytest.raises(ValueError, match="none was given .*build_dense_store"):
    systems.build("dresd", toy.bundle())
  with pytest.raises(ValueError, match="depth=6, the continuations of"):
    systems.build(
        "dresd", toy.bundle(), dense_store=toy.dense_store(), depth=6)
  with pytest.raises(ValueError, match="no dense store there"):
    dense_store.open_store("/nowhere")
