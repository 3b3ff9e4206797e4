"""ADED: the table is shared, and decides about speed only."""

import jax.numpy as jnp
import numpy as np
import pytest

from spec_jax import systems
from spec_jax.core import keys as keys_lib
from spec_jax.core import types
from spec_jax.executors import hosted
from spec_jax.stores import tree_search
from spec_jax.systems.retrieval import aded
from tests import rounds
from tests import toy

V = 16


def drafter(**fields):
  return aded.Aded(V, tree_search.TreeSearch(simulations=12), **fields)


def test_the_end_of_the_text_is_learnt_at_every_draft():
  part = drafter(window=4)
  table = part.open_store()
  row = part.open_row(table, [9, 9, 9, 1, 2, 3, 4])
  row.draft(())
  assert table.lookup((1, 2)) == {3: 0.04} and not table.lookup((9, 9))
  row.draft(())
  assert table.lookup((1, 2)) == {3: 0.08}
  row.extend([1, 2])
  other = part.open_row(table, [7, 2, 3])  # Sees what the first one wrote.
  assert other.draft(()).tokens[0] == 4


def test_a_known_text_is_drafted_and_the_memory_leaves_the_text():
  system = rounds.compose(drafter(), rounds.TableModel(V))
  args = (types.Params(jnp.asarray(rounds.cycle(V))),
          rounds.prompts_of([[0, 1], [5, 6]]), keys_lib.row_keys(0, 2), 40)
  executor = hosted.Hosted()
  cold, warm = (executor.run(system, *args) for _ in range(2))
  np.testing.assert_array_equal(cold.tokens, warm.tokens)
  assert warm.counts.target_calls.tolist() == [8, 8]  # Five tokens each.
  assert (cold.counts.target_calls > 8).all()


def test_the_corpus_is_the_start():
  system, _ = systems.build(
      "aded", toy.bundle(), datastore=toy.datastore(), simulations=5)
  table = system.drafter.open_store()
  known = [pair for pair in np.ndindex(toy.VOCAB, toy.VOCAB)
           if table.lookup(pair)]
  assert len(known) > 100 and not any(0 in pair for pair in known)
  assert all(len(table.lookup(pair)) <= 12 for pair in known)


def test_a_draft_of_one_token_is_refused():
  with pytest.raises(ValueError, match="depth=1, expected >= 2"):
    systems.build("aded", toy.bundle(), depth=1)
