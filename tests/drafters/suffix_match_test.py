"""Match lengths on the device against the automaton and against scans."""


import hypothesis
from hypothesis import strategies as st
import jax.numpy as jnp
import numpy as np
import pytest

from spec_jax import systems
from spec_jax.core import keys as keys_lib
from spec_jax.core import types
from spec_jax.drafters import prompt_lookup
from spec_jax.drafters import suffix_match
from spec_jax.executors import fused
from spec_jax.stores import suffix_automaton
from tests import rounds
from tests import toy

CAPACITY = 32


def context(texts):
  tokens = np.full((len(texts), CAPACITY), 7, np.int32)  # Stale behind them.
  for row, text in enumerate(texts):
    tokens[row, :len(text)] = text
  return types.Context(
      jnp.asarray(tokens), jnp.asarray([len(t) for t in texts], jnp.int32),
      None, None, None)


def propose(drafter, texts, state=None):
  """The drafted tokens of each row, and the state."""
  ctx = context(texts)
  if state is None:
    state = drafter.init(None, len(texts), CAPACITY)
  tree, state = rounds.propose_from_text(drafter, state, ctx)
  return [np.asarray(tree.tokens)[row, 1:][valid].tolist()
          for row, valid in enumerate(np.asarray(tree.valid)[:, 1:])], state


_rows = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=CAPACITY),
                 min_size=3, max_size=3)


@hypothesis.given(texts=_rows, cuts=st.lists(
    st.integers(1, CAPACITY), min_size=3, max_size=3))
@hypothesis.settings(deadline=None, max_examples=40, derandomize=True)
def test_is_the_automaton_however_the_text_grew(texts, cuts):
  drafter = suffix_match.SuffixMatch(depth=4, allow_short=True)
  _, state = propose(drafter, [t[:c] for t, c in zip(texts, cuts)])
  drafts, state = propose(drafter, texts, state)
  end, matched = drafter.match(
      state.lengths, jnp.asarray([len(t) for t in texts]))
  for row, text in enumerate(texts):
    automaton = suffix_automaton.SuffixAutomaton()
    for token in text:
      automaton.append(token)
    size, place = automaton.match()
    assert int(matched[row]) == size
    if size:
      assert int(end[row]) == place
    assert drafts[row] == (automaton.after(place, 4) if size else [])


@hypothesis.given(texts=_rows)
@hypothesis.settings(deadline=None, max_examples=30, derandomize=True)
def test_full_windows_are_the_ancestor_fallback(texts):
  drafts, _ = propose(suffix_match.SuffixMatch(depth=5), texts)
  for text, draft in zip(texts, drafts):
    automaton = suffix_automaton.SuffixAutomaton()
    for token in text:
      automaton.append(token)
    size, place = automaton.match(room=5)
    has_room = size and len(text) - 1 - place >= 5
    assert draft == (automaton.after(place, 5) if has_room else [])


@hypothesis.given(texts=_rows, late=st.booleans(), short=st.booleans())
@hypothesis.settings(deadline=None, max_examples=30, derandomize=True)
def test_is_prompt_lookup_without_a_limit(texts, late, short):
  ours = suffix_match.SuffixMatch(4, 1, late, short)
  theirs = prompt_lookup.PromptLookup(4, CAPACITY, late, short)
  assert propose(ours, texts)[0] == propose(theirs, texts, ())[0]


def test_length_follows_the_match():
  text = list(range(8)) + [30, 3, 4]
  sizes = {factor: len(propose(
      suffix_match.SuffixMatch(9, allow_short=True, factor=factor),
      [text])[0][0]) for factor in (0.0, 0.5, 1.0, 1.9)}
  assert sizes == {0.0: 6, 0.5: 2, 1.0: 3, 1.9: 4}
  strict = suffix_match.SuffixMatch(9, shortest=3, allow_short=True)
  assert propose(strict, [text])[0] == [[]]


def test_the_variant_writes_the_same_text():
  texts = []
  for variant in ({"max_ngram": 3}, {"max_ngram": 0},
                  {"max_ngram": 2, "most_frequent": True}):
    system, params = systems.build(
        "prompt_lookup", toy.bundle(), allow_short=True, depth=4, **variant)
    texts.append(np.asarray(fused.Fused().run(
        system, params, toy.prompts(), keys_lib.row_keys(0, 4), 20).tokens))
  np.testing.assert_array_equal(texts[0], texts[1])
  np.testing.assert_array_equal(texts[0], texts[2])


def test_bad_hyper_parameters_are_named():
  with pytest.raises(ValueError, match="shortest=0, expected >= 1"):
    suffix_match.SuffixMatch(shortest=0)
  with pytest.raises(ValueError, match="factor=2.0 is for matches of any"):
    systems.build("prompt_lookup", toy.bundle(), factor=2.0)
  with pytest.raises(ValueError, match="most_frequent=True is for matches of a"
                     " limited length, expected max_ngram >= 1, got"):
    systems.build("prompt_lookup", toy.bundle(), most_frequent=True,
                  max_ngram=0)
