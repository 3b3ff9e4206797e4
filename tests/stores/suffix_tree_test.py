"""Counts against substrings counted by hand; drafts against the definition."""

import itertools

import hypothesis
from hypothesis import strategies as st
import pytest

from spec_jax.stores import suffix_draft
from spec_jax.stores import suffix_tree

DEPTH = 5


def substrings(sequences, depth):
  """All strings up to `depth` tokens with their counts."""
  counts = {}
  for tokens in sequences:
    for start in range(len(tokens)):
      for stop in range(start + 1, min(len(tokens), start + depth) + 1):
        word = tuple(tokens[start:stop])
        counts[word] = counts.get(word, 0) + 1
  return counts


def assert_counts(tree, sequences, depth, alphabet=3):
  expected = substrings(sequences, depth)
  for size in range(1, depth + 1):
    for word in itertools.product(range(alphabet), repeat=size):
      assert tree.count(list(word)) == expected.get(word, 0), word


_step = st.tuples(st.integers(0, 2), st.integers(0, 2))


@hypothesis.given(steps=st.lists(_step, max_size=40),
                  removed=st.integers(0, 2),
                  more=st.lists(_step, max_size=15))
@hypothesis.settings(deadline=None, max_examples=120, derandomize=True)
def test_counts_are_those_of_all_substrings(steps, removed, more):
  tree, sequences = suffix_tree.SuffixTree(DEPTH), {}
  for sequence, token in steps:  # The sequences grow in turn.
    tree.append(sequence, token)
    sequences.setdefault(sequence, []).append(token)
  assert_counts(tree, sequences.values(), DEPTH)
  if removed in sequences:
    tree.remove(removed)
    del sequences[removed]
    assert removed not in tree
    assert_counts(tree, sequences.values(), DEPTH)
  for sequence, token in more:
    tree.append(sequence, token)
    sequences.setdefault(sequence, []).append(token)
  assert_counts(tree, sequences.values(), DEPTH)
  for sequence in list(sequences):
    tree.remove(sequence)
  assert tree.num_nodes == 1


def test_runs_are_kept_together():
  tree, text = suffix_tree.SuffixTree(64), list(range(300))
  for token in text:
    tree.append(0, token)
  assert tree.num_nodes == 301  # One run for each suffix.
  for token in text:
    tree.append(1, token)
  assert tree.num_nodes <= 2 * 301


def best_subset(tree, pattern, budget, depth, min_prob):
  """Values of the likeliest nodes, from counts of whole strings."""
  values, level = [], [((), 1.0)]
  for _ in range(depth):
    grown = []
    for word, value in level:
      total = tree.count(list(pattern + word))
      for token in range(3):
        ratio = tree.count(list(pattern + word + (token,))) / total
        if value * ratio >= min_prob:
          grown.append((word + (token,), value * ratio))
    values += [value for _, value in grown]
    level = grown
  return sorted(values, reverse=True)[:budget]


_text = st.lists(st.integers(0, 2), min_size=3, max_size=30)


@hypothesis.given(text=_text, budget=st.integers(1, 6),
                  size=st.integers(1, 3))
@hypothesis.settings(deadline=None, max_examples=80, derandomize=True)
def test_expansion_takes_the_likeliest_nodes(text, budget, size):
  tree = suffix_tree.SuffixTree(12)
  for token in text:
    tree.append(0, token)
  pattern = text[-size:]
  speculation = suffix_draft.Speculation(depth=4)
  found = speculation.expand(tree, tree.find(pattern), budget)
  wanted = best_subset(tree, tuple(pattern), budget, 4, 0.1)
  assert found.weights == pytest.approx(wanted)
  assert found.score == pytest.approx(sum(wanted))
  paths = set(found.paths())
  assert len(paths) == len(found)
  assert all(path[:-1] in paths for path in paths if len(path) > 1)


@hypothesis.given(text=_text, factor=st.sampled_from((0.0, 1.0, 2.5)),
                  as_tree=st.booleans())
@hypothesis.settings(deadline=None, max_examples=80, derandomize=True)
def test_draft_is_the_best_over_all_patterns(text, factor, as_tree):
  tree = suffix_tree.SuffixTree(8)
  for token in text:
    tree.append(0, token)
  speculation = suffix_draft.Speculation(
      budget=6, depth=6, factor=factor, as_tree=as_tree)
  found = speculation.draft(tree, text)
  scores = [speculation.expand(tree, tree.find(text[-size:]),
                               min(6, int(factor * size))).score
            for size in range(1, min(8, len(text) + 1))
            if tree.count(text[-size:])]
  assert found.score == pytest.approx(max(scores, default=0))
  if not factor:
    assert not len(found)
  if not as_tree:
    assert found.parents == list(range(len(found)))


def test_path_is_the_tree_where_nothing_branches():
  tree = suffix_tree.SuffixTree(16)
  for token in list(range(9)) + list(range(4)):
    tree.append(0, token)
  drafts = [suffix_draft.Speculation(as_tree=as_tree).draft(
      tree, list(range(4))) for as_tree in (False, True)]
  assert drafts[0] == drafts[1] and drafts[0].tokens == [4, 5, 6, 7]


def test_longer_match_drafts_more():
  tree = suffix_tree.SuffixTree(16)
  for token in list(range(12)) * 2:
    tree.append(0, token)
  speculation = suffix_draft.Speculation()
  sizes = [len(speculation.draft(tree, [50, 51] + list(range(n))))
           for n in range(1, 9)]
  assert sizes == sorted(sizes) and sizes[-1] > sizes[0]


def test_the_oldest_request_is_forgotten():
  cache = suffix_draft.RequestCache(max_depth=8, max_requests=2)
  first, second = cache.begin(), cache.begin()
  cache.append(first, [1, 2, 3])
  cache.append(second, [1, 2, 4])
  assert cache.tree.count([1, 2]) == 2
  third = cache.begin()
  cache.append(first, [9])  # Too late.
  cache.append(third, [1, 5])
  assert cache.num_requests == 2
  assert cache.tree.count([1, 2]) == 1 and cache.tree.count([9]) == 0
  assert cache.tree.count([2, 3]) == 0 and cache.tree.count([1]) == 2


@pytest.mark.parametrize("make", [
    lambda: suffix_tree.SuffixTree(0),
    lambda: suffix_draft.RequestCache(max_requests=0),
    lambda: suffix_draft.Speculation(budget=0),
    lambda: suffix_draft.Speculation(min_prob=0.0)])
def test_bad_sizes_are_named(make):
  with pytest.raises(ValueError, match=r"=0(\.0)?, expected"):
    make()
