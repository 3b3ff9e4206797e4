"""Static shapes: the published ones, and searches against the theory's."""

import itertools

import numpy as np
import pytest

from spec_jax.core import tree as tree_lib
from spec_jax.trees import sequoia
from spec_jax.trees import shapes
from tests.exactness import golden
from theory import sequoia as sequoia_theory
from theory import trees as trees_theory

# How often the token of each rank is right, by depth.
ACCURACY = ((.55, .2, .1, .05), (.4, .3, .1, .1), (.5, .1, .1, .0))
ACCEPTS = ((.6, .2, .1), (.3, .3, .3), (.1, .6, .2), (.7, 0., .2), (.9,))


def parents(shape):
  return tree_lib.static_parents(shape).tolist()


@pytest.mark.parametrize("name,per_level", [
    ("mc_sim_7b_63", [10, 28, 23, 2]), ("vicuna_7b_stage2", [10, 23, 23, 7]),
    ("eagle", [4, 8, 8, 3, 2])])
def test_published_shapes(name, per_level):
  shape = shapes.PUBLISHED[name]
  assert [sum(level) for level in shape] == per_level
  paths = shapes.paths_of(shape)
  assert shapes.shape_of(reversed(paths)) == shape
  index = {(): 0, **{path: n for n, path in enumerate(paths, 1)}}
  assert parents(shape) == [-1] + [index[path[:-1]] for path in paths]


@pytest.mark.parametrize("budget", [2, 3, 6, 9])
def test_calibrated_shape_is_the_best_of_all(budget):
  """Against all closed sets of nodes that the accuracies know of."""
  nodes = [path for length in (1, 2, 3)
           for path in itertools.product(range(3), repeat=length)]
  best = trees_theory.best_first(
      lambda path: np.asarray(ACCURACY[len(path)]), budget - 1, 3)
  shape = shapes.calibrated(ACCURACY, budget)
  found = shapes.expected_tokens(shape, ACCURACY)
  assert len(shapes.paths_of(shape)) == budget - 1
  assert found == pytest.approx(1 + sum(best.values()))
  assert found == pytest.approx(
      trees_theory.expected_tokens(parents(shape), ACCURACY))
  if budget <= 3:
    closed = (chosen for chosen in itertools.combinations(nodes, budget - 1)
              if all(p[:-1] in (*chosen, ()) for p in chosen))
    value = lambda path: np.prod([ACCURACY[d][r] for d, r in enumerate(path)])
    assert found == pytest.approx(max(1 + sum(map(value, c)) for c in closed))


def test_calibrated_shapes_stop_where_nothing_is_ever_right():
  assert shapes.calibrated([[.5, 0.], [0., 0.]], 9) == ((1,),)
  # One accuracy for all depths: bounded by the budget alone.
  assert shapes.calibrated([.9, .05], 5) == ((1,),) * 4


@pytest.mark.parametrize("case", golden.table()["sequoia_dp"],
                         ids=lambda case: str(case["child_accept"]))
def test_dynamic_program_equals_golden(case):
  found = sequoia.best_tokens(case["child_accept"], 16, 5)
  for nodes, by_level in case["values"].items():
    for level, value in by_level.items():  # Levels of the table hold the root.
      value = -np.inf if value is None else value
      np.testing.assert_allclose(
          found[int(level) - 1, int(nodes)], value, atol=1e-9)


@pytest.mark.parametrize("accepts", ACCEPTS)
def test_dynamic_program_equals_the_theory(accepts):
  np.testing.assert_allclose(
      sequoia.best_tokens(accepts, 12, 4),
      sequoia_theory.best_values(accepts, 12, 5)[:, 1:].T, atol=1e-12)


@pytest.mark.parametrize("accepts", ACCEPTS)
@pytest.mark.parametrize("budget,depth", [(2, 1), (7, 3), (12, 2), (33, 4)])
def test_rebuilt_shape_has_the_value_and_keeps_the_bounds(
    accepts, budget, depth):
  shape = sequoia.best_shape(accepts, budget, depth)
  tokens = sequoia.best_tokens(accepts, budget, depth)[depth]
  size = 1 + len(shapes.paths_of(shape))
  assert len(shape) <= depth and size <= budget
  assert size == np.flatnonzero(np.isfinite(tokens)).max()
  assert shapes.expected_tokens(shape, accepts) == pytest.approx(tokens[size])


def test_a_sure_first_child_is_a_chain():
  shape = sequoia.best_shape((.6, 0., 0.), 6, 5)
  assert shape == ((1,),) * 5
  assert shapes.expected_tokens(shape, (.6,)) == pytest.approx(
      (1 - .6 ** 6) / .4)


def test_size_of_the_least_time_per_token():
  costs = ((1, 1.), (2, 1.1), (4, 1.2), (8, 2.), (16, 4.))
  for draft_cost in (.01, .3, 2.):
    found = sequoia.best_size(ACCEPTS[0], 6, draft_cost, costs)
    nodes, levels = sequoia_theory.best_shape(
        ACCEPTS[0], draft_cost, dict(costs[1:]), range(2, 8))
    assert found == (nodes, levels - 1)


@pytest.mark.parametrize("call,message", [
    (lambda: sequoia.best_shape((.6, .6), 4, 2), "of sum at most 1"),
    (lambda: sequoia.best_shape((), 4, 2), r"acceptance=\(\)"),
    (lambda: sequoia.best_shape((.6,), 1, 2), "budget=1, expected at least 2"),
    (lambda: sequoia.best_shape((.6,), 4, 0), "depth=0, expected at least 1"),
    (lambda: sequoia.best_size((.6,), 2, .1, ()), "of at least one size"),
    (lambda: sequoia.best_size((.6,), 2, .1, ((9, 1.),)), "at most 2 levels"),
    (lambda: sequoia.best_size((.6,), 2, -.1, ((2, 1.),)), "draft_cost=-0.1"),
    (lambda: sequoia.best_size((.6,), 2, .1, (1, 2)), r"1 is not a number of"),
    (lambda: sequoia.best_size((.6,), 2, .1, ((2, 1., 3),)), r"\(2, 1.0, 3\)"),
    (lambda: sequoia.best_size((.6,), 2, .1, ((2.5, 1.),)), r"\(2.5, 1.0\) is"),
    (lambda: sequoia.best_size((.6,), 2, .1, ((2, 0.),)), r"\(2, 0.0\) is not"),
    (lambda: sequoia.best_size((.6,), 2, .1, ("24",)), "'24' is not"),
    (lambda: shapes.calibrated([.2, .5], 4), "fall with the rank"),
    (lambda: shapes.calibrated([.5], 1), "budget=1"),
    (lambda: shapes.calibrated([[.5]], 4, 2), "2 or more"),
    (lambda: shapes.shape_of([(0,), (1, 0)]), r"expected \(1,\) too"),
    (lambda: shapes.shape_of([(1,)]), r"expected \(0,\) too"),
    (lambda: tree_lib.child_counts((2, (1,))), "lists 1 numbers"),
])
def test_bad_arguments_are_named(call, message):
  with pytest.raises(ValueError, match=message):
    call()


def test_only_published_shapes_are_cut_to_the_levels_there_are():
  shape = shapes.PUBLISHED["mc_sim_7b_63"]
  assert shapes.within(shape, 2) == shape[:2]
  tree_lib.static_parents(shapes.within(shape, 2))
  assert shapes.within(shape, 5) == shape
  assert shapes.within((2, 2, 2), 2) == (2, 2, 2)
