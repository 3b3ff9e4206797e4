"""The Jacobi window: its mask, its iterations, and what the pool holds."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from spec_jax.core import types
from spec_jax.drafters import lookahead
from tests import rounds
from tests import toy
from tests.drafters import phrase_pool_test

LEVEL, WIDTH, GUESSES = 4, 3, 2


@pytest.fixture(scope="module")
def played():
  """A decode of the toy transformer with all its rounds."""
  bundle = toy.bundle()
  system = rounds.compose(
      lookahead.Lookahead(toy.VOCAB, LEVEL, WIDTH, GUESSES), bundle.target)
  params = types.Params(bundle.params["target"])
  return list(rounds.play(system, params, toy.prompts((1, 6)), 24))


def cells_of(step, row):
  """The window as it was fed: the pending token in its first place."""
  cells = step.proposed.window.tokens[row].copy()
  cells[0, 0] = step.text(row)[-1]
  return cells


def score(text):
  """Logits behind `text`, from scratch."""
  bundle, padded = toy.bundle(), np.zeros((1, rounds.CAPACITY), np.int32)
  padded[0, :len(text)] = text
  logits = toy._scorer(bundle.target)(bundle.params["target"], padded)
  return np.asarray(logits[0, len(text) - 1])


def test_logits_of_every_cell_and_draft_are_those_of_a_plain_forward(played):
  steps = [s for s in played if s.tree.valid[0, 1:].any()][:2] + [played[1]]
  for step, row in itertools.product(steps, range(2)):
    if step.before.status[row] != types.Status.RUNNING:
      continue
    text, cells = step.text(row), cells_of(step, row)
    riders = step.outcome.riders.logits[row]
    for level in range(step.proposed.window.filled[row] + 1):
      for column in range(WIDTH):
        if (level, column) == (0, 0):
          continue
        sees = text + cells[0, 1:column + 1].tolist() + cells[
            1:level + 1, column].tolist()
        np.testing.assert_allclose(
            riders[level * WIDTH + column - 1], score(sees), atol=2e-3)
    parents, tokens = step.tree.parents[row], step.tree.tokens[row]
    for node in np.flatnonzero(step.tree.valid[row]):
      path, up = [], node
      while up > 0:
        path, up = [int(tokens[up])] + path, parents[up]
      np.testing.assert_allclose(
          step.outcome.out.logits[row, node], score(text + path), atol=2e-3)


def test_iterations_and_harvest_are_jacobi(played):
  for row in range(2):
    pool = {token: [] for token in range(toy.VOCAB)}
    for step in played:
      if not step.outcome.verdict.count[row]:
        break
      before, after = step.proposed.window, step.after.drafter.window
      cells, filled = cells_of(step, row), int(before.filled[row])
      logits = np.concatenate([step.outcome.out.logits[row, :1],
                               step.outcome.riders.logits[row]])
      new = np.argmax(logits, -1).reshape(LEVEL - 1, WIDTH)[filled]
      if filled < LEVEL - 2:
        np.testing.assert_array_equal(after.tokens[row, filled + 1], new)
        np.testing.assert_array_equal(after.tokens[row, :filled + 1],
                                      cells[:filled + 1])
        assert after.filled[row] == filled + 1
      else:
        np.testing.assert_array_equal(
            after.tokens[row], np.concatenate([cells[1:], new[None]]))
        for column in range(WIDTH):
          key = cells[0, column]
          phrase = (*cells[1:, column].tolist(), int(new[column]))
          pool[key] = [phrase, *(p for p in pool[key] if p != phrase)][:GUESSES]
      found = phrase_pool_test.contents(step.after.drafter.pool, row)
      assert found == pool


def test_drafts_are_the_phrases_behind_the_pending_token(played):
  assert any(step.tree.valid[0, 1:].any() for step in played)
  for step in played:
    pool = phrase_pool_test.contents(step.before.drafter.pool, 0)
    drafts = step.tree.tokens[0, 1:].reshape(GUESSES, LEVEL - 1).tolist()
    phrases = pool[step.text(0)[-1]]
    assert [tuple(d) for d in drafts[:len(phrases)]] == phrases


def test_without_guesses_the_window_still_fills_and_finds_the_period():
  period, vocab = 5, 8
  drafter = lookahead.Lookahead(vocab, LEVEL, WIDTH, guesses=0)
  table = jnp.asarray(rounds.cycle(vocab, period))
  system = rounds.compose(drafter, rounds.TableModel(vocab))
  *_, last = rounds.play(
      system, types.Params(table), rounds.prompts_of([[2]]), 20)
  assert last.after.length[0] == 21
  assert last.outcome.verdict.count.tolist() == [1]
  # The first column begins with the text's own token, not with a guess.
  columns = last.after.drafter.window.tokens[0, :, 1:]
  np.testing.assert_array_equal(columns[1:], (columns[:-1] + 1) % period)
  drafted = rounds.compose(
      lookahead.Lookahead(vocab, LEVEL, WIDTH, 2), rounds.TableModel(vocab))
  played = list(rounds.play(
      drafted, types.Params(table), rounds.prompts_of([[2]]), 40))
  pool = phrase_pool_test.contents(played[-1].after.drafter.pool, 0)
  for key in range(period):
    assert tuple((key + i) % period for i in range(1, LEVEL)) in pool[key]
  # A whole phrase and the token behind it.
  assert max(len(step.emitted(0)) for step in played) == LEVEL
  assert played[-1].after.tokens[0, :41].tolist() == [
      (2 + i) % period for i in range(41)]


@pytest.mark.parametrize("field, value", [("level", 1), ("width", 0),
                                          ("guesses", -1)])
def test_bad_hyper_parameters_are_named(field, value):
  with pytest.raises(ValueError, match=f"{field}={value}"):
    lookahead.Lookahead(8, **{field: value})
