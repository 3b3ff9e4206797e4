"""Hierarchy Drafting: who is asked, when, and what comes of it."""

import jax.numpy as jnp
import numpy as np
import pytest

from spec_jax.core import keys as keys_lib
from spec_jax.core import types
from spec_jax.drafters import lookahead
from spec_jax.executors import fused
from spec_jax.executors import hosted
from spec_jax.stores import history as history_lib
from spec_jax.systems.retrieval import hierarchy_drafting
from tests import rounds
from tests import toy
from tests.drafters import phrase_pool_test

V = 12


@pytest.fixture(scope="module")
def files(tmp_path_factory):
  """S and L: a history of the toy vocabulary, and a corpus."""
  path = tmp_path_factory.mktemp("history") / "h.npz"
  answers = np.random.default_rng(0).integers(1, V, (30, 60)).tolist()
  history_lib.save(path, history_lib.count(answers, V, level=4, per_key=3))
  return {"history": str(path), "datastore": toy.datastore()}


def drafter(order="WSL", **files):
  window = lookahead.Lookahead(V, 4, 3, 3, from_text=True)
  return hierarchy_drafting.HierarchyDrafting(window, order, **files)


def run(executor, part, temperature=0.0):
  bundle = toy.bundle(10)
  system = rounds.compose(part, bundle.target, end_of_text=10)
  return executor.run(
      system, types.Params(bundle.params["target"]), toy.prompts((1, 6, 9)),
      keys_lib.row_keys(0, 3), 16)


def test_alone_the_window_is_lookahead_decoding():
  ours = run(hosted.Hosted(), drafter("W"))
  theirs = run(fused.Fused(), drafter("W").window)
  np.testing.assert_array_equal(ours.tokens, theirs.tokens)
  np.testing.assert_array_equal(ours.counts.accepted, theirs.counts.accepted)
  np.testing.assert_array_equal(ours.counts.drafted, theirs.counts.drafted)


def test_order_changes_the_drafts_and_never_the_text(files):
  decoded = {order: run(hosted.Hosted(), drafter(order, **files))
             for order in ("WSL", "LSW", "SL")}
  plain = run(fused.Fused(), lookahead.Lookahead(V, 4, 3, 0))
  for found in decoded.values():
    np.testing.assert_array_equal(found.tokens, plain.tokens)
  drafted = {order: np.asarray(found.counts.drafted).tolist()
             for order, found in decoded.items()}
  assert drafted["WSL"] != drafted["SL"]


def test_later_sources_are_asked_only_for_what_is_missing(files):
  part = drafter("WSL", **files)
  row = hierarchy_drafting.Row(part, part.open_store(), [3, 5, 7])
  assert row.draft(3) == ([], []) and row.queries == {"S": 0, "L": 0}
  before, behind = row.draft(1)
  assert not before and behind == part.open_store().history.lookup(7)[:2]
  assert row.queries == {"S": 1, "L": 0}
  first = hierarchy_drafting.Row(drafter("SWL", **files), part.open_store(),
                                 [3, 5, 7])
  before, behind = first.draft(0)
  assert len(before) == 3 and not behind and first.queries["L"] == 0
  only = hierarchy_drafting.Row(drafter("WL", datastore=files["datastore"]),
                                part.open_store(), [3, 5, 7])
  _, behind = only.draft(0)
  assert len(behind) == 3 == len(set(behind)) and only.queries == {
      "S": 0, "L": 1}
  assert [len(p) for p in behind] == sorted(map(len, behind), reverse=True)


def test_sources_are_joined_in_their_order(files):
  part = drafter("SWL", **files)
  state = part.init(None, 1, 0)
  pool = state.pool.insert(jnp.asarray([7]), jnp.asarray([[1, 2, 3]]),
                           jnp.asarray([True]))
  state = state.replace(pool=pool, window=state.window.replace(
      filled=jnp.zeros((1,), jnp.int32)))
  session = part.open_session(
      hierarchy_drafting.Stores(history_lib.History({7: [(4, 5, 6)]}, 3, V),
                                part.open_store().corpus),
      [np.asarray([3, 5, 7])])
  ctx = types.Context(jnp.asarray([[3, 5, 7]]), jnp.asarray([3]), None, None,
                      None)
  asked = part.ask(None, state, ctx)
  assert asked.tolist() == [1]
  draft = session.draft(np.asarray(asked), np.asarray([True]))
  tree, _ = part.propose(None, state, ctx, None, draft)
  tokens = np.asarray(tree.tokens[0, 1:]).reshape(3, 3)
  assert tokens[:2].tolist() == [[4, 5, 6], [1, 2, 3]]
  assert tree.valid[0, 7]  # The third is the datastore's.


def test_text_goes_into_the_pool():
  bundle = toy.bundle()
  part = lookahead.Lookahead(V, 4, 3, 50, from_text=True)
  system = rounds.compose(part, bundle.target)
  played = list(rounds.play(
      system, types.Params(bundle.params["target"]), toy.prompts((7,)), 12))
  text = played[-1].after.tokens[0, :19].tolist()
  pool = phrase_pool_test.contents(played[-1].after.drafter.pool, 0)
  for i in range(len(text) - 3):
    assert tuple(text[i + 1:i + 4]) in pool[text[i]]
  first = phrase_pool_test.contents(played[0].proposed.pool, 0)
  assert sum(map(len, first.values())) == 4  # Those of the prompt.


def test_wrong_orders_are_named():
  for order in ("", "WW", "WX"):
    with pytest.raises(ValueError, match=f"order='{order}', expected some"):
      drafter(order)
