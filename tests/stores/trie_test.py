"""Tries against brute force over tuples."""

import collections
import itertools

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from spec_jax.stores import trie as trie_lib

_paths = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=3),
                  min_size=1, max_size=8)


def prefix_counts(paths):
  return collections.Counter(
      tuple(path[:i + 1]) for path in paths for i in range(len(path)))


@hypothesis.given(paths=_paths)
@hypothesis.settings(deadline=None, max_examples=80, derandomize=True)
def test_merge_is_the_union_with_counts(paths):
  trie = trie_lib.merge(paths)
  assert dict(zip(trie.paths(), trie.weights)) == prefix_counts(paths)
  assert len(set(trie.paths())) == len(trie)


@hypothesis.given(paths=_paths, budget=st.integers(1, 6))
@hypothesis.settings(deadline=None, max_examples=80, derandomize=True)
def test_best_is_the_heaviest_closed_subset(paths, budget):
  kept = trie_lib.best(trie_lib.merge(paths), budget)
  found, counts = set(kept.paths()), prefix_counts(paths)
  is_closed = lambda words: all(
      word[:-1] in words for word in words if len(word) > 1)
  assert len(kept) == min(budget, len(counts)) and is_closed(found)
  closed = [words for words in map(
      set, itertools.combinations(counts, len(kept))) if is_closed(words)]
  weigh = lambda words: sum(counts[word] for word in words)
  assert weigh(found) == max(map(weigh, closed)) == sum(kept.weights)


@hypothesis.given(paths=_paths, budget=st.integers(1, 12))
@hypothesis.settings(deadline=None, max_examples=80, derandomize=True)
def test_prefix_counts_of_rows(paths, budget):
  rows = np.full((len(paths), 3), 9)
  for row, path in zip(rows, paths):
    row[:len(path)] = path
  found = trie_lib.count_prefixes(
      rows, np.asarray([len(path) for path in paths]), budget)
  counts = prefix_counts(paths)
  assert all(counts[path] == weight
             for path, weight in zip(found.paths(), found.weights))
  assert sorted(found.weights) == sorted(
      sorted(counts.values(), reverse=True)[:budget])
  assert len(set(found.paths())) == len(found)


def test_width_of_a_depth_is_bounded():
  trie = trie_lib.merge([[i, j] for i in range(5) for j in range(i + 1)])
  kept = trie_lib.best(trie, 20, per_depth=2)
  sizes = collections.Counter(map(len, kept.paths()))
  assert sizes == {1: 2, 2: 2}
  assert {path[0] for path in kept.paths()} == {3, 4}


def test_fill_keeps_the_shape():
  tokens, parents, valid, score = trie_lib.fill(
      [trie_lib.chain([5, 6], 2.0), None, trie_lib.merge([[1], [2]])], 3)
  assert tokens.tolist() == [[5, 6, 0], [0, 0, 0], [1, 2, 0]]
  assert parents.tolist() == [[0, 1, 0], [0, 0, 0], [0, 0, 0]]
  assert valid.sum(1).tolist() == [2, 0, 2] and score.tolist() == [2, 0, 0]
  with pytest.raises(ValueError, match="row 0: a draft of 4 nodes, .* most 3"):
    trie_lib.fill([trie_lib.chain([1, 2, 3, 4])], 3)
