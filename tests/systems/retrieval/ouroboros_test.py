"""Ouroboros: chains of the small model, phrases behind them, the pool."""

import jax.numpy as jnp
import numpy as np
import pytest

from spec_jax import systems
from spec_jax.core import types
from spec_jax.drafters import lookahead
from spec_jax.systems.retrieval import ouroboros
from tests import rounds
from tests import toy
from tests.conformance import runs
from tests.drafters import phrase_pool_test

CHAIN, LEVEL, SUFFIXES = 4, 3, 2
SIZE = LEVEL - 1


def play(noise, suffixes=SUFFIXES):
  system, params = systems.build(
      "ouroboros", toy.bundle(None, noise), depth=CHAIN, level=LEVEL, width=3,
      guesses=3, suffixes=suffixes)
  return system, params, list(rounds.play(
      system.with_sampling(runs.GREEDY), params, toy.prompts((1, 6)), 30))


@pytest.fixture(scope="module")
def played():
  return play(0.25)


def greedy(params, text, count):
  """What the small model says next, from scratch."""
  return toy.greedy_reference(
      toy.bundle().models["draft"], params, text, count)[len(text):]


def test_chain_is_what_the_small_model_writes(played):
  _, params, steps = played
  for step in steps[::2]:
    for row in range(2):
      if step.before.status[row] == types.Status.RUNNING:
        chain = step.tree.tokens[row, 1:CHAIN + 1].tolist()
        assert chain == greedy(params.drafter, step.text(row), CHAIN)
        assert step.tree.valid[row, :CHAIN + 1].all()


def test_small_cache_holds_the_text_whatever_was_accepted(played):
  system, params, steps = played
  lacked = set()
  for step in steps:
    cache, length = step.after.drafter.cache, step.after.length
    lacked |= set((length - 1 - cache.length).tolist())
    fresh = runs.recomputed(
        system.drafter.model, params.drafter, step.after.tokens)
    is_text = (np.arange(step.after.tokens.shape[1])
               < cache.length[:, None])[:, None, :, None]
    for ours, theirs in zip(cache.k + cache.v, fresh.k + fresh.v):
      ours = ours[:, :, :theirs.shape[2]]
      np.testing.assert_allclose(np.where(is_text, ours, 0),
                                 np.where(is_text, theirs, 0), atol=1e-5)
  assert 0 in lacked and min(lacked) == 0


def test_twin_without_phrases_accepts_every_chain():
  _, _, steps = play(0.0, suffixes=0)
  for step in steps:
    for row in range(2):
      if step.after.status[row] == types.Status.RUNNING:
        assert len(step.emitted(row)) == CHAIN + 1


def test_phrases_make_drafts_longer():
  _, _, steps = play(0.0)
  sizes = [len(step.emitted(row)) for step in steps for row in range(2)]
  assert max(sizes) == CHAIN + SIZE + 1


def mended(before, step, row):
  """The pool after a round, by the definition, over Python lists."""
  pool = {key: list(phrases) for key, phrases in before.items()}
  tokens, says = step.tree.tokens[row], np.argmax(
      step.outcome.out.logits[row], -1)
  chain = tokens[1:CHAIN + 1].tolist()
  for i, phrase in enumerate(before[chain[-1]][:SUFFIXES]):
    words, seen = [], ()
    for token in (None,) + phrase[:-1]:
      seen += () if token is None else (token,)
      words.append(int(says[node_of(step, row, tuple(chain) + seen)]))
    pool[chain[-1]][i] = tuple(words)
  accepted = min(step.outcome.verdict.count[row] - 1, CHAIN)
  after = says[1:CHAIN + 1].tolist()
  for start in range(accepted, CHAIN - SIZE + 1):
    if after[start:start + SIZE - 1] == chain[start + 1:start + SIZE]:
      phrase = tuple(after[start:start + SIZE])
      old = pool[chain[start]]
      pool[chain[start]] = [phrase, *(p for p in old if p != phrase)][:3]
  return pool


def node_of(step, row, path):
  """The valid node at the end of a token path."""
  node = 0
  for token in path:
    node, = [n for n in range(1, step.tree.tokens.shape[1])
             if step.tree.parents[row, n] == node and step.tree.valid[row, n]
             and step.tree.tokens[row, n] == token]
  return node


def test_the_target_mends_the_pool(played):
  _, _, steps = played
  changed = 0
  for step in steps:
    for row in range(2):
      if not step.outcome.verdict.count[row]:
        continue
      before = phrase_pool_test.contents(step.proposed.lookahead.pool, row)
      after = phrase_pool_test.contents(step.after.drafter.lookahead.pool, row)
      wanted = mended(before, step, row)
      duplicates = any(len(set(p)) < len(p) for p in wanted.values())
      if not duplicates:
        assert after == wanted
        changed += after != before
  assert changed


def test_bad_sizes_are_named():
  inner = lookahead.Lookahead(8, guesses=2)
  with pytest.raises(ValueError, match="suffixes=3, expected 0 to guesses=2"):
    ouroboros.Ouroboros(rounds.TableModel(8), inner, 4, 3)
  with pytest.raises(ValueError, match="chain=0"):
    ouroboros.Ouroboros(rounds.TableModel(8), inner, 0, 1)


def test_phrases_are_overwritten_where_they_stand():
  pool = ouroboros.lookahead_lib.phrase_pool.empty(1, 4, 3, 2)
  for phrase in ([1, 1], [2, 2], [3, 3]):
    pool = pool.insert(jnp.asarray([0]), jnp.asarray([phrase]),
                       jnp.asarray([True]))
  pool = pool.overwrite(jnp.asarray([0]), jnp.asarray([[[7, 7], [8, 8]]]),
                        jnp.asarray([[False, True]]))
  assert pool.phrases[0, 0].tolist() == [[3, 3], [8, 8], [1, 1]]
