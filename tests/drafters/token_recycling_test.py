"""The successor table: what it learns, and the tree it fills in."""

import collections

import jax.numpy as jnp
import numpy as np
import pytest

from spec_jax.core import keys as keys_lib
from spec_jax.core import tree as tree_lib
from spec_jax.core import types
from spec_jax.drafters import token_recycling
from spec_jax.executors import fused
from tests import rounds
from tests import toy
from tests.trees import phrases_test

V = 24
DRAFTER = token_recycling.TokenRecycling(V)


def test_shape_is_the_published_one():
  nodes = DRAFTER.nodes
  assert len(nodes) == 80 and DRAFTER.max_children == 8
  assert collections.Counter(map(len, nodes)) == {
      1: 8, 2: 21, 3: 25, 4: 15, 5: 8, 6: 3}
  short = token_recycling.TokenRecycling(V, width=4, depth=2).nodes
  assert short == ["0", "1", "2", "3", "00", "01", "02", "03", "10", "11", "12",
                   "13", "20", "21", "22", "30", "31"]


def test_orphan_in_the_shape_is_named():
  with pytest.raises(ValueError, match="'10' is a node without its parent '1'"):
    token_recycling.TokenRecycling(V, shape="0 00 10")


def test_tree_is_the_table_read_by_ranks():
  rng = np.random.default_rng(0)
  table = np.stack([[rng.permutation(V)[:8] for _ in range(V)]
                    for _ in range(2)]).astype(np.int32)
  table[0, table[0, 3, 0]] = -1  # Never seen: no children there.
  tree = DRAFTER.tree(jnp.asarray(table), jnp.asarray([3, 5], jnp.int32))
  tree_lib.check(tree, budget=81)
  for row, root in enumerate((3, 5)):
    expected = []
    for word in DRAFTER.nodes:
      path, token = [], root
      for rank in map(int, word):
        token = int(table[row, token, rank]) if token >= 0 else -1
        path.append(token)
      if token >= 0:
        expected.append(tuple(path))
    assert phrases_test.paths(tree, row) == expected


def test_last_node_in_breadth_first_order_is_learnt():
  table = DRAFTER.init(None, 2, 0)
  tree = types.DraftTree(
      tokens=jnp.asarray([[4, 5, 4, 5, 9]] * 2, jnp.int32),
      parents=jnp.asarray([[-1, 0, 0, 1, 3]] * 2, jnp.int32),
      valid=jnp.asarray([[True, True, True, True, False]] * 2), q=None,
      draw="deterministic", depth=3, max_children=2)
  rng = np.random.default_rng(0)
  logits = jnp.asarray(rng.normal(size=(2, 5, V)), jnp.float32)
  learnt = np.asarray(DRAFTER.learn(
      table, tree, logits, jnp.asarray([True, False])))
  best = np.argsort(-np.asarray(logits), -1)[:, :, :8]
  np.testing.assert_array_equal(learnt[0, 4], best[0, 2])
  np.testing.assert_array_equal(learnt[0, 5], best[0, 3])
  assert (np.delete(learnt[0], [4, 5], axis=0) == -1).all()
  assert (learnt[1] == -1).all()


@pytest.fixture(scope="module")
def toy_rounds():
  """A decode of the toy transformer with all its rounds."""
  bundle = toy.bundle()
  system = rounds.compose(
      token_recycling.TokenRecycling(toy.VOCAB, depth=3), bundle.target)
  params = types.Params(bundle.params["target"])
  return list(rounds.play(system, params, toy.prompts((1, 5)), 20))


def test_rows_are_the_top_of_the_logits_at_their_last_input(toy_rounds):
  for row in range(2):
    seen = {}
    for step in toy_rounds:
      if step.outcome.verdict.count[row]:
        for node in np.flatnonzero(step.tree.valid[row]):
          seen[step.tree.tokens[row, node]] = np.argsort(
              -step.outcome.out.logits[row, node], kind="stable")[:8]
      for token in range(toy.VOCAB):
        np.testing.assert_array_equal(
            step.after.drafter[row, token], seen.get(token, np.full(8, -1)))


def test_bigram_target_is_foreseen_once_every_token_was_seen():
  target, table = rounds.TableModel(V), jnp.asarray(rounds.cycle(V))
  system = rounds.compose(DRAFTER, target)
  played = list(rounds.play(
      system, types.Params(table), rounds.prompts_of([[0], [3]]), 50))
  assert len(played[0].emitted(0)) == 1
  # Every pass beyond the first round feeds the true successors' successors.
  sizes = [len(step.emitted(0)) for step in played]
  full = [size for step, size in zip(played, sizes)
          if (step.before.drafter[0, :, 0] >= 0).all()
          and step.before.length[0] <= 44]
  assert full and set(full) == {7}
  assert played[-1].after.tokens[0, :51].tolist() == [i % V for i in range(51)]


def test_narrow_chain_is_the_last_greedy_successor():
  chain = token_recycling.TokenRecycling(V, width=1, depth=4)
  assert chain.nodes == ["0", "00", "000", "0000"]
  target, table = rounds.TableModel(V), jnp.asarray(rounds.cycle(V, 5))
  system = rounds.compose(chain, target)
  for step in rounds.play(system, types.Params(table),
                          rounds.prompts_of([[0]]), 30):
    known, token, wanted = step.before.drafter[0, :, 0], step.text(0)[-1], []
    while len(wanted) < 4 and known[token] >= 0:
      token = int(known[token])
      wanted.append(token)
    drafts = step.tree.tokens[0, 1:][step.tree.valid[0, 1:]].tolist()
    assert drafts == wanted
    greedy = np.argmax(np.asarray(table), -1)
    fed = [step.text(0)[-1]] + wanted
    assert wanted == greedy[fed[:-1]].tolist()


def test_memory_outlives_the_request_and_leaves_the_text():
  bundle = toy.bundle(10)
  system = rounds.compose(
      token_recycling.TokenRecycling(toy.VOCAB, depth=3), bundle.target)
  params = types.Params(bundle.params["target"])
  args = toy.prompts((1, 5, 3)), keys_lib.row_keys(0, 3), 16
  executor = fused.Fused()
  cold, warm = (executor.run(system, params, *args) for _ in range(2))
  np.testing.assert_array_equal(cold.tokens, warm.tokens)
  assert (warm.counts.target_calls < cold.counts.target_calls).any()
  assert warm.counts.target_calls.sum() < cold.counts.target_calls.sum()
  again = fused.Fused().run(system, params, *args)
  np.testing.assert_array_equal(again.counts.emitted, cold.counts.emitted)
  np.testing.assert_array_equal(
      again.counts.target_calls, cold.counts.target_calls)


def test_remembered_is_the_last_row_that_saw_the_token():
  start = DRAFTER.unlearned(None)
  state = jnp.repeat(start[None], 3, axis=0)
  state = state.at[0, 4].set(1).at[1, 4].set(2).at[0, 6].set(3)
  learnt = np.asarray(DRAFTER.remember(None, state))
  assert (learnt[4] == 2).all() and (learnt[6] == 3).all()
  assert (learnt[5] == -1).all()
