"""RASD: the fused tree against its two parts, and the draft cache."""

import jax.numpy as jnp
import numpy as np
import pytest

from spec_jax import systems
from spec_jax.core import tree as tree_lib
from spec_jax.core import types
from spec_jax.systems.retrieval import rasd
from tests import rounds
from tests import toy
from tests.conformance import runs
from tests.trees import phrases_test

BRANCHING, DEPTH = (2, 2), 5


def build(keep):
  system, params = systems.build(
      "rasd", toy.bundle(), branching=BRANCHING, depth=DEPTH, keep=keep)
  return system.with_sampling(runs.GREEDY), params


def play(keep):
  system, params = build(keep)
  return system, params, list(rounds.play(
      system, params, toy.prompts((9, 6)), 24))


@pytest.fixture(scope="module")
def everything():
  """All retrieved branches are kept."""
  return play(toy.VOCAB)


def parts_of(system, params, step):
  """The two trees of a round."""
  drafter, ctx = system.drafter, types.Context(
      step.before.tokens, step.before.length, None, None, None)
  found, _ = drafter.lookup.propose(None, (), ctx, None)
  return found


def reached(paths, text):
  """How deep the emitted tokens follow a set of paths."""
  size = 0
  while size < len(text) and tuple(text[:size + 1]) in paths:
    size += 1
  return size


def test_fused_tree_is_the_union(everything):
  system, params, played = everything
  num_own = system.drafter.own.level_starts[-1]
  deeper = 0
  for step in played:
    found = parts_of(system, params, step)
    tree_lib.check(step.tree)
    for row in range(2):
      if step.before.status[row]:
        continue
      paths = phrases_test.paths(step.tree, row)
      own = [p for p in paths if len(p) <= len(BRANCHING)][:num_own - 1]
      retrieved = phrases_test.paths(found, row)
      assert len(paths) == len(set(paths)) and len(own) == num_own - 1
      assert set(paths) >= set(retrieved)
      # What a greedy target accepts is the better of the two.
      emitted = step.emitted(row)
      own_paths = set(own)
      accepted = reached(set(paths), emitted[:-1])
      wanted = max(reached(own_paths, emitted[:-1]),
                   reached(set(retrieved), emitted[:-1]))
      assert accepted == wanted == len(emitted) - 1
      deeper += accepted > len(BRANCHING)
  assert deeper  # Retrieval did help, and the draft cache had to catch up.


def test_draft_cache_holds_the_text_whatever_was_accepted(everything):
  system, params, played = everything
  state = played[-1].after
  cache = state.drafter.cache
  lacking = state.length - 1 - cache.length
  assert (lacking >= 0).all() and (lacking <= system.drafter.own.lag).all()
  fresh = runs.recomputed(
      system.drafter.own.model, params.drafter, state.tokens)
  is_text = (np.arange(state.tokens.shape[1])
             < cache.length[:, None])[:, None, :, None]
  for ours, theirs in zip(cache.k + cache.v, fresh.k + fresh.v):
    np.testing.assert_allclose(np.where(is_text, ours, 0),
                               np.where(is_text, theirs, 0), atol=1e-5)


def test_nothing_kept_is_the_draft_tree():
  system, _, played = play(0)
  num_own = system.drafter.own.level_starts[-1]
  for step in played:
    assert step.tree.valid[:, :num_own].all()
    assert not step.tree.valid[:, num_own:].any()


def test_pruning_looks_at_the_first_token_of_a_branch():
  tree = types.DraftTree(
      jnp.asarray([[9, 1, 2, 3, 2, 1]], jnp.int32),
      jnp.asarray([[-1, 0, 0, 1, 1, 2]], jnp.int32), jnp.ones((1, 6), bool),
      None, "deterministic", 2, 5)
  logits = jnp.zeros((1, 10)).at[0, 1].set(2.0).at[0, 5].set(1.0)
  kept = rasd.prune(tree, logits, 2)
  assert kept.valid.tolist() == [[True, True, False, True, True, False]]
  assert rasd.prune(tree, logits, 10).valid.all()
