"""The automaton against scans of the text, at every step."""

import hypothesis
from hypothesis import strategies as st
import numpy as np

from spec_jax.stores import suffix_automaton


def scan(text, room=0):
  """The longest suffix that ended before, and where it first did."""
  for size in range(len(text) - 1, 0, -1):
    for end in range(size - 1, len(text) - 1):
      if len(text) - 1 - end < room:
        break
      if text[end + 1 - size:end + 1] == text[-size:]:
        return size, end
  return 0, -1


@hypothesis.given(text=st.lists(st.integers(0, 2), max_size=40),
                  room=st.integers(1, 6))
@hypothesis.settings(deadline=None, max_examples=150, derandomize=True)
def test_matches_are_those_of_a_scan(text, room):
  automaton = suffix_automaton.SuffixAutomaton()
  for size, token in enumerate(text, 1):
    automaton.append(token)
    seen = text[:size]
    assert automaton.match() == scan(seen)
    if scan(seen, room)[0]:
      assert automaton.match(room) == scan(seen, room)
    # Without a suffix that has the room a shorter draft is better than none.
    assert bool(automaton.match(room)[0]) == bool(scan(seen)[0])
  assert automaton.num_states <= max(2, 2 * len(text))


def test_match_lengths_by_recursion_give_the_same():
  """What a device would carry: m_j <- m_{j-1} + 1 if text[j] == t else 0."""
  text = np.random.default_rng(0).integers(0, 3, 400)
  automaton, lengths = suffix_automaton.SuffixAutomaton(), np.zeros(400, int)
  for n, token in enumerate(text):
    if n:
      before = np.concatenate([[0], lengths[:n - 1]])
      lengths[:n] = np.where(text[:n] == token, before + 1, 0)
    automaton.append(int(token))
    longest = int(lengths[:n].max(initial=0))
    end = int(np.argmax(lengths[:n])) if longest else -1
    assert automaton.match() == (longest, end)


def test_a_repeated_block_is_copied_whole():
  block = np.random.default_rng(0).integers(0, 1000, 50).tolist()
  automaton = suffix_automaton.SuffixAutomaton()
  for token in block + block[:6]:
    automaton.append(token)
  size, end = automaton.match(room=40)
  assert (size, automaton.after(end, 40)) == (6, block[6:46])
