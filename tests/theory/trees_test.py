"""Trees: golden values, brute force over all small trees, simulation."""

import itertools

import numpy as np
import pytest

from tests.exactness import golden
from theory import sequoia
from theory import trees


@pytest.mark.parametrize("case", golden.table()["sequoia_dp"],
                         ids=lambda case: str(case["child_accept"]))
def test_golden_dynamic_program(case):
  found = sequoia.best_values(case["child_accept"], 16, 6)
  for nodes, by_level in case["values"].items():
    for level, value in by_level.items():
      value = -np.inf if value is None else value
      np.testing.assert_allclose(
          found[int(nodes), int(level)], value, atol=1e-9)


def _ordered_trees(num_nodes):
  """Parents of all ordered trees, nodes in order of a depth-first walk."""
  shapes = [[-1]]
  for node in range(1, num_nodes):
    grown = []
    for parents in shapes:
      parent = node - 1
      while parent >= 0:
        grown.append(parents + [parent])
        parent = parents[parent]
    shapes = grown
  return shapes


_ACCEPTS = [(.6, .2, .1), (.3, .3, .3), (.1, .6, .2), (.7, 0., .2), (.9,)]


@pytest.mark.parametrize("accepts", _ACCEPTS)
def test_dynamic_program_is_the_best_of_all_trees(accepts):
  values = sequoia.best_values(accepts, 7, 7)
  assert len(_ordered_trees(6)) == 42  # Catalan number.
  for nodes in range(1, 8):
    best = np.full(8, -np.inf)
    for parents in _ordered_trees(nodes):
      depths, ranks = trees.depths_and_ranks(parents)
      if ranks.max() < len(accepts):
        level = depths.max() + 1
        best[level] = max(
            best[level], trees.expected_tokens(parents, accepts))
    np.testing.assert_allclose(
        values[nodes], np.maximum.accumulate(best), atol=1e-12)


@pytest.mark.parametrize("accepts", _ACCEPTS)
def test_the_rebuilt_tree_has_the_value_and_keeps_the_bounds(accepts):
  values = sequoia.best_values(accepts, 16, 5)
  built = 0
  for nodes, level in itertools.product(range(1, 17), range(1, 6)):
    if np.isfinite(values[nodes, level]):
      parents = sequoia.best_tree(accepts, nodes, level)
      depths, ranks = trees.depths_and_ranks(parents)
      assert len(parents) == nodes and depths.max() < level
      assert ranks.max() < len(accepts)
      np.testing.assert_allclose(
          trees.expected_tokens(parents, accepts), values[nodes, level])
      built += 1
  assert built > 10


def test_values_rise_with_the_budget_and_a_sure_first_child_is_a_chain():
  values = sequoia.best_values(_ACCEPTS[0], 12, 6)
  assert (values[1:, 1:] >= values[1:, :-1]).all()
  assert (np.diff(values[1:, 6]) > 0).all()
  chain = sequoia.best_tree([.6, 0., 0.], 6, 6)
  assert chain == [-1, 0, 1, 2, 3, 4]
  np.testing.assert_allclose(
      trees.expected_tokens(chain, [.6]), (1 - .6 ** 6) / .4)


def test_best_shape_is_the_least_time_per_token():
  accepts, costs = _ACCEPTS[0], {1: 10., 4: 10., 8: 12., 16: 18.}
  values, levels = sequoia.best_values(accepts, 16, 6), range(1, 7)
  depths = []
  for draft_cost in (0., .3, 3., 30.):
    nodes, level = sequoia.best_shape(accepts, draft_cost, costs, levels)
    per_token = lambda m, n, d=draft_cost: (
        (n - 1) * d + costs[m]) / values[m, n]
    assert per_token(nodes, level) == min(
        per_token(m, n) for m in costs for n in levels if values[m, n] > 0)
    depths.append(level)
  assert (np.diff(depths) <= 0).all() and depths[0] > depths[-1] == 1


def test_expected_tokens_by_simulation():
  parents, accepts = [-1, 0, 0, 1, 1, 2, 4], np.asarray([[.5, .3], [.4, .2],
                                                         [.9, 0.]])
  rng, total, num_rounds = np.random.default_rng(0), 0, 8_000
  depths, ranks = trees.depths_and_ranks(parents)
  child = {(parent, ranks[node]): node
           for node, parent in enumerate(parents)}
  for _ in range(num_rounds):
    node = 0
    while node is not None:
      total += 1
      row = accepts[depths[node]] if depths[node] < 3 else [0., 0.]
      node = child.get((node, np.searchsorted(np.cumsum(row), rng.random(),
                                              "right")))
  exact = trees.expected_tokens(parents, accepts)
  assert abs(total / num_rounds - exact) < .05
  chain = np.asarray([[.8], [.5], [.3]])
  np.testing.assert_allclose(
      trees.expected_tokens([-1, 0, 1, 2], chain), 1 + .8 + .4 + .12)


def _random_law(seed, vocab_size):
  """A law after every path, the same at every call."""
  return lambda path: np.random.default_rng([seed, 7, *path]).dirichlet(
      np.full(vocab_size, .6))


def _path_weights(law, vocab_size, depth):
  weights = {(): 1.0}
  for length in range(1, depth + 1):
    for path in itertools.product(range(vocab_size), repeat=length):
      weights[path] = weights[path[:-1]] * law(path[:-1])[path[-1]]
  del weights[()]
  return weights


@pytest.mark.parametrize("seed", range(3))
def test_heaviest_paths_are_the_best_tree(seed):
  law = _random_law(seed, 2)
  weights = _path_weights(law, 2, 3)
  for num_nodes in (1, 3, 5):
    best = max(
        sum(weights[path] for path in subset)
        for subset in itertools.combinations(weights, num_nodes)
        if all(len(path) == 1 or path[:-1] in subset for path in subset))
    found = trees.best_first(law, num_nodes, 3)
    assert len(found) == num_nodes
    np.testing.assert_allclose(sum(found.values()), best, atol=1e-12)
    assert all(found[path] == pytest.approx(weights[path]) for path in found)
    parents = trees.parents_of(list(found))  # Prefixes are there.
    assert len(parents) == num_nodes + 1


def test_larger_budgets_and_one_sure_path():
  law = _random_law(5, 3)
  worth = lambda n, depth: sum(trees.best_first(law, n, depth).values())
  assert (np.diff([worth(n, 4) for n in (0, 1, 4, 9, 20)]) > 0).all()
  assert (np.diff([worth(12, d) for d in (1, 2, 3, 4)]) >= 0).all()
  sure = trees.best_first(lambda path: np.asarray([0., 1., 0.]), 9, 4)
  assert list(sure) == [(1,) * d for d in (1, 2, 3, 4)]
  assert set(sure.values()) == {1.0}
  weights = list(trees.best_first(law, 15, 4).values())
  assert (np.diff(weights) <= 0).all()


def test_of_falling_ranks_the_heaviest_paths_are_the_dynamic_program():
  for accepts in ((.6, .2, .1), (.5, .5), (.4, .3, .2, .1)):
    values = sequoia.best_values(accepts, 10, 4)
    for nodes in (2, 5, 10):
      if np.isfinite(values[nodes, 4]):
        found = trees.best_first(lambda _, a=accepts: a, nodes - 1, 3)
        np.testing.assert_allclose(
            1 + sum(found.values()), values[nodes, 4], atol=1e-12)


def test_path_probabilities_of_a_joint_law():
  joint = np.random.default_rng(0).dirichlet(np.ones(27)).reshape(3, 3, 3)
  parents, tokens = [-1, 0, 0, 1, 3, 1], [0, 2, 1, 0, 0, 0]
  # The second copy of the path (2, 0) adds nothing.
  expected = (1 + joint[2].sum() + joint[1].sum() + joint[2, 0].sum()
              + joint[2, 0, 0])
  np.testing.assert_allclose(
      trees.expected_tokens_of_text(parents, tokens, joint), expected)
  law = _random_law(3, 3)
  p_first, p_next = law(()), np.stack([law((t,)) for t in range(3)])
  joint = p_first[:, None] * p_next
  markov_law = lambda path: p_next[path[-1]] if path else p_first
  found = trees.best_first(markov_law, 4, 2)
  order = sorted(found, key=lambda path: (len(path), path))
  np.testing.assert_allclose(
      trees.expected_tokens_of_text(
          trees.parents_of(order), [0, *(p[-1] for p in order)], joint),
      1 + sum(found.values()))


@pytest.mark.parametrize("call,message", [
    (lambda: trees.depths_and_ranks([0]), "parents=[0], expected -1"),
    (lambda: trees.depths_and_ranks([-1, 1]), "parents=[-1, 1]"),
    (lambda: trees.expected_tokens([-1, 0], [.9, .2]), "sums up to 1.1"),
    (lambda: trees.expected_tokens([-1, 0, 0], [.9]), "at least (1, 2)"),
    (lambda: trees.expected_tokens_of_text([-1, 0], [0], [.5, .5]),
     "1 tokens and 1 positions"),
    (lambda: trees.best_first(lambda _: [1.5], 1, 1), "law=[1.5]"),
    (lambda: trees.parents_of([(0, 1)]), "without parent: [(0, 1)]"),
    (lambda: sequoia.best_values([.9, .2], 4, 4), "sum at most 1"),
    (lambda: sequoia.best_values([.9], 0, 4), "max_nodes=0"),
    (lambda: sequoia.best_tree([.5, .2], 8, 3), "num_nodes=8"),
    (lambda: sequoia.best_shape([.5], 0., {9: 1.}, (2,)), "nodes [9]")])
def test_bad_arguments(call, message):
  with pytest.raises(ValueError) as error:
    call()
  assert message in str(error.value)
