"""Trigram shares against counts by hand; corrections; the search."""

import collections

import numpy as np
import pytest

from spec_jax.stores import tree_search
from spec_jax.stores import trigrams

RNG = np.random.default_rng(0)


class Fixed:
  """A table that is given."""

  def __init__(self, rows):
    self.rows = rows

  def lookup(self, pair):
    return self.rows.get(pair, {})


def test_shares_are_those_of_a_count():
  tokens = RNG.integers(0, 4, 900).astype(np.uint16)
  counts = collections.Counter(
      gram for gram in zip(*(tokens[i:].tolist() for i in range(3)))
      if 0 not in gram)
  table = trigrams.count(tokens, 2, end_of_document=0)
  for a in range(5):
    for b in range(5):
      row = {c: counts[a, b, c] for c in range(4) if counts[a, b, c]}
      total = sum(row.values())
      best = sorted(row, key=lambda c: (-row[c], c))[:2]
      found = table.lookup((a, b))
      assert list(found) == best
      assert list(found.values()) == pytest.approx(
          [row[c] / total for c in best])


def test_repetition_overtakes_the_corpus_and_is_capped():
  corpus = trigrams.count(np.asarray([1, 2, 3] * 5 + [1, 2, 4]), 12)
  table = trigrams.TrigramTable(corpus, step=0.04, cap=3.0)
  before = table.lookup((1, 2))
  assert max(before, key=before.get) == 3
  times = 0
  while max(table.lookup((1, 2)), key=table.lookup((1, 2)).get) == 3:
    table.learn([1, 2, 9])
    times += 1
  assert times == int(before[3] / 0.04) + 1
  for _ in range(100):
    table.learn([1, 2, 9])
  assert table.lookup((1, 2))[9] == 3.0
  assert corpus.lookup((1, 2)) == before and table.num_learnt == 1


def test_one_successor_each_is_one_path():
  table = Fixed({(i, i + 1): {i + 2: 0.7} for i in range(10)})
  found = tree_search.TreeSearch(simulations=20).draft(table, [0, 1])
  assert found.tokens == [2, 3, 4, 5] and found.parents == [0, 1, 2, 3]
  assert not len(tree_search.TreeSearch().draft(table, [5, 1]))
  assert not len(tree_search.TreeSearch().draft(table, [5]))


def full_table(num_tokens=4):
  rng = np.random.default_rng(1)
  return Fixed({(a, b): dict(enumerate(
      rng.dirichlet(np.full(num_tokens, 0.5)).tolist()))
                for a in range(num_tokens) for b in range(num_tokens)})


def test_visits_add_up_and_favour_what_is_likely():
  search, table = tree_search.TreeSearch(simulations=150), full_table()
  root, *_ = nodes = search.search(table, 0, 1, 2)
  assert root.visits == 150
  assert sum(child.visits for child in root.children) == 150
  best = max(root.children, key=lambda child: child.weight)
  assert max(root.children, key=lambda child: child.visits) is best
  for node in nodes:
    if node.children:
      below = sum(child.visits for child in node.children)
      assert below in (node.visits, node.visits - 1, node.visits - 2)


def test_without_exploration_the_reward_decides():
  # The likelier first move leads to a dead end.
  table = Fixed({(0, 1): {2: 0.6, 3: 0.4}, (1, 3): {4: 1.0}, (3, 4): {5: 1.0}})
  greedy = tree_search.TreeSearch(simulations=60, c1=-0.11, c2=1e9)
  root = greedy.search(table, 0, 1, 2)[0]
  visits = {child.token: child.visits for child in root.children}
  assert visits[3] > 50 > visits[2]


def test_same_search_same_draft():
  table = full_table()
  drafts = [tree_search.TreeSearch(seed=seed).draft(table, [0, 1])
            for seed in (0, 0, 7)]
  assert drafts[0] == drafts[1]
  paths = drafts[0].paths()
  assert len(paths) <= 64 and max(map(len, paths)) <= 4
  assert len(set(paths)) == len(paths)
  nodes = [[(n.token, n.visits) for n in tree_search.TreeSearch(
      seed=seed).search(table, 0, 1, 2)] for seed in (0, 7)]
  assert nodes[0] != nodes[1]


def test_budget_cuts_the_longest_first():
  table = full_table()
  found = tree_search.TreeSearch(budget=6).draft(table, [0, 1])
  assert 0 < len(found) <= 6


@pytest.mark.parametrize("field", ["simulations", "depth", "paths", "budget"])
def test_bad_sizes_are_named(field):
  with pytest.raises(ValueError, match=f"{field}=0, expected >= 1"):
    tree_search.TreeSearch(**{field: 0})
