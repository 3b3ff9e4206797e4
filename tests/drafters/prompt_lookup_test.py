"""Prompt lookup against a search over Python lists."""

import hypothesis
from hypothesis import strategies as st
import jax.numpy as jnp
import numpy as np
import pytest

from spec_jax.core import tree as tree_lib
from spec_jax.core import types
from spec_jax.drafters import prompt_lookup

CAPACITY = 24


def propose(drafter, texts):
  """The drafted tokens of each row."""
  tokens = np.full((len(texts), CAPACITY), 7, np.int32)  # Stale behind them.
  for row, text in enumerate(texts):
    tokens[row, :len(text)] = text
  ctx = types.Context(
      jnp.asarray(tokens), jnp.asarray([len(t) for t in texts], jnp.int32),
      None, None, None)
  tree, _ = drafter.propose(None, (), ctx, None)
  tree_lib.check(tree)
  assert tree.q is None and tree.draw == "deterministic"
  assert tree.tokens[:, 0].tolist() == [text[-1] for text in texts]
  return [np.asarray(tree.tokens)[row, 1:][valid].tolist()
          for row, valid in enumerate(np.asarray(tree.valid)[:, 1:])]


def search(drafter, text):
  """The definition: longest n-gram, then first or last place, then room."""
  room = 1 if drafter.allow_short else drafter.depth
  for size in range(min(drafter.max_ngram, len(text)), 0, -1):
    ends = [end for end in range(size - 1, len(text) - room)
            if text[end + 1 - size:end + 1] == text[-size:]]
    if ends:
      end = ends[-1] if drafter.take_latest else ends[0]
      return text[end + 1:end + 1 + drafter.depth]
  return []


_texts = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=CAPACITY),
                  min_size=4, max_size=4)


@pytest.mark.parametrize("take_latest", [False, True])
@pytest.mark.parametrize("allow_short", [False, True])
@hypothesis.given(texts=_texts, depth=st.sampled_from((1, 4)),
                  max_ngram=st.sampled_from((1, 3)))
@hypothesis.settings(deadline=None, max_examples=30, derandomize=True)
def test_equals_search(take_latest, allow_short, texts, depth, max_ngram):
  drafter = prompt_lookup.PromptLookup(
      depth, max_ngram, take_latest, allow_short)
  assert propose(drafter, texts) == [search(drafter, text) for text in texts]


@pytest.mark.parametrize("period", [1, 2, 3, 5])
@pytest.mark.parametrize("take_latest", [False, True])
def test_periodic_text_is_foreseen(period, take_latest):
  endless = list(range(period)) * (2 * CAPACITY)
  drafter = prompt_lookup.PromptLookup(4, 3, take_latest)
  lengths = range(2 * period + 4, CAPACITY)
  assert propose(drafter, [endless[:n] for n in lengths]) == [
      endless[n:n + 4] for n in lengths]


def test_text_without_repetition_has_no_draft():
  rng = np.random.default_rng(0)
  texts = [rng.choice(32000, CAPACITY - 1, replace=False).tolist()
           for _ in range(3)] + [[5]]
  assert propose(prompt_lookup.PromptLookup(4, allow_short=True), texts) == [
      []] * 4


def test_early_full_match_or_late_short_one():
  # "1 2" stands at 0 and at 4; only the first has three tokens behind it
  # that are not the suffix itself.
  text = [1, 2, 3, 4, 1, 2, 5, 1, 2]
  drafts = {
      (late, short): propose(
          prompt_lookup.PromptLookup(4, 2, late, short), [text])[0]
      for late in (False, True) for short in (False, True)}
  assert drafts == {
      (False, False): [3, 4, 1, 2], (False, True): [3, 4, 1, 2],
      (True, False): [3, 4, 1, 2], (True, True): [5, 1, 2]}


@pytest.mark.parametrize("name", ["depth", "max_ngram"])
def test_bad_hyper_parameters_are_named(name):
  with pytest.raises(ValueError, match=f"{name}=0, expected >= 1"):
    prompt_lookup.PromptLookup(**{name: 0})
