"""Prompt lookup against a search over Python lists."""

import dataclasses

import hypothesis
from hypothesis import strategies as st
import jax.numpy as jnp
import numpy as np
import pytest

from spec_jax.core import tree as tree_lib
from spec_jax.core import types
from spec_jax.drafters import prompt_lookup
from tests import rounds

CAPACITY = 24


def propose(drafter, texts):
  """The drafted tokens of each row."""
  tokens = np.full((len(texts), CAPACITY), 7, np.int32)  # Stale behind them.
  for row, text in enumerate(texts):
    tokens[row, :len(text)] = text
  ctx = types.Context(
      jnp.asarray(tokens), jnp.asarray([len(t) for t in texts], jnp.int32),
      None, None, None)
  tree, _ = rounds.propose_from_text(drafter, (), ctx)
  tree_lib.check(tree)
  assert tree.q is None and tree.draw == "deterministic"
  assert tree.tokens[:, 0].tolist() == [text[-1] for text in texts]
  return [np.asarray(tree.tokens)[row, 1:][valid].tolist()
          for row, valid in enumerate(np.asarray(tree.valid)[:, 1:])]


def ends_of(drafter, text):
  """Where the longest n-grams end that occurred before, with room behind."""
  room = 1 if drafter.allow_short else drafter.depth
  for size in range(min(drafter.max_ngram, len(text)), 0, -1):
    ends = [end for end in range(size - 1, len(text) - room)
            if text[end + 1 - size:end + 1] == text[-size:]]
    if ends:
      return ends
  return []


def search(drafter, text):
  """The definition: longest n-gram, then first or last place."""
  ends = ends_of(drafter, text)
  if not ends:
    return []
  end = ends[-1] if drafter.take_latest else ends[0]
  return text[end + 1:end + 1 + drafter.depth]


def vote(drafter, text):
  """The definition: longest n-gram, then the majority, token by token."""
  alive, run = ends_of(drafter, text), []
  if drafter.take_latest:
    alive = alive[::-1]
  while len(run) < drafter.depth:
    ahead = [text[end + 1 + len(run)] for end in alive
             if end + 1 + len(run) < len(text)]
    if not ahead:
      break
    token = max(ahead, key=ahead.count)  # The first of equal ones.
    alive = [end for end in alive if end + 1 + len(run) < len(text)
             and text[end + 1 + len(run)] == token]
    run.append(token)
  return run


_VOCAB = 8  # Of the texts here.
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


@pytest.mark.parametrize("take_latest", [False, True])
@pytest.mark.parametrize("allow_short", [False, True])
@hypothesis.given(texts=_texts, depth=st.sampled_from((1, 4)),
                  max_ngram=st.sampled_from((1, 3)))
@hypothesis.settings(deadline=None, max_examples=20, derandomize=True)
def test_the_majority_equals_counting(take_latest, allow_short, texts, depth,
                                      max_ngram):
  drafter = prompt_lookup.PromptLookup(
      depth, max_ngram, take_latest, allow_short, True, _VOCAB)
  assert propose(drafter, texts) == [vote(drafter, text) for text in texts]


@hypothesis.given(texts=_texts, take_latest=st.booleans(),
                  allow_short=st.booleans())
@hypothesis.settings(deadline=None, max_examples=20, derandomize=True)
def test_one_match_leaves_nothing_to_vote_on(texts, take_latest, allow_short):
  drafter = prompt_lookup.PromptLookup(4, 3, take_latest, allow_short)
  texts = [t if len(ends_of(drafter, t)) < 2 else t[-1:] for t in texts]
  voting = dataclasses.replace(
      drafter, most_frequent=True, vocab_size=_VOCAB)
  assert propose(voting, texts) == propose(drafter, texts)


def test_first_last_or_most_frequent():
  # After "1": first 2 3, then 4 5 twice, last 6 7.
  text = [1, 2, 3, 1, 4, 5, 0, 1, 4, 5, 1, 6, 7, 1]
  options = {"first": {}, "last": {"take_latest": True},
             "most": {"most_frequent": True, "vocab_size": _VOCAB}}
  assert {name: propose(prompt_lookup.PromptLookup(2, 1, **more), [text])[0]
          for name, more in options.items()} == {
              "first": [2, 3], "last": [6, 7], "most": [4, 5]}


def test_a_vote_does_not_look_behind_the_text():
  """Stale tokens after the text, and the suffix itself, have no vote."""
  drafter = prompt_lookup.PromptLookup(3, 1, False, True, True, _VOCAB)
  assert propose(drafter, [[7, 2, 7], [7, 7], [3, 7]]) == [[2, 7], [7], []]


@pytest.mark.parametrize("period", [1, 2, 3, 5])
@pytest.mark.parametrize("take_latest", [False, True])
@pytest.mark.parametrize("most_frequent", [False, True])
def test_periodic_text_is_foreseen(period, take_latest, most_frequent):
  endless = list(range(period)) * (2 * CAPACITY)
  drafter = prompt_lookup.PromptLookup(
      4, 3, take_latest, most_frequent=most_frequent, vocab_size=_VOCAB)
  lengths = range(2 * period + 4, CAPACITY)
  assert propose(drafter, [endless[:n] for n in lengths]) == [
      endless[n:n + 4] for n in lengths]


def test_a_vote_needs_the_size_of_the_vocabulary():
  with pytest.raises(ValueError, match="vocab_size=0, expected the target's"):
    prompt_lookup.PromptLookup(most_frequent=True)


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
