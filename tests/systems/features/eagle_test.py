"""EAGLE-1 to 3: what faithful implementations must show."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spec_jax import systems
from spec_jax.core import keys as keys_lib
from spec_jax.core import sampling as sampling_lib
from spec_jax.core import tree as tree_lib
from spec_jax.drafters import feature_drafter
from spec_jax.evaluation import costs
from spec_jax.executors import decoding
from spec_jax.models import feature_model
from spec_jax.trees import shapes
from tests import features as oracle
from tests import rounds
from tests import toy


def first_tree(system, params, sampling=sampling_lib.GREEDY):
  system = system.with_sampling(sampling)
  tree = next(rounds.play(
      system, params, toy.prompts((5, 7)), 9, num_rounds=1)).tree
  tree_lib.check(tree)
  return tree


def test_static_tree_is_the_published_one():
  tree = first_tree(*systems.build("eagle_1", toy.bundle()),
                    sampling_lib.Sampling(temperature=1.0))
  assert tree.num_nodes == 26 and tree.valid.all()
  assert tree.draw == "without_replacement" and tree.q is not None
  np.testing.assert_array_equal(
      np.asarray(tree.parents),
      np.tile(tree_lib.static_parents(shapes.PUBLISHED["eagle"]), (2, 1)))
  # Siblings without replacement are different tokens.
  for row in range(2):
    pairs = list(zip(np.asarray(tree.parents[row]).tolist(),
                     np.asarray(tree.tokens[row]).tolist()))
    assert len(set(pairs)) == len(pairs)


@pytest.mark.parametrize("name", ["eagle_2", "eagle_3"])
@pytest.mark.parametrize("budget,depth,size", [(60, 3, 3), (3, 4, 2)])
def test_one_candidate_a_node_is_a_chain(name, budget, depth, size):
  tree = first_tree(*systems.build(
      name, toy.bundle(), budget=budget, depth=depth, top_k=1))
  assert (tree.valid.sum(1) == size + 1).all()
  assert (tree_lib.depths(tree.parents).max(1) == size).all()


def test_all_nodes_of_the_budget_are_used_and_connected():
  tree = first_tree(*systems.build(
      "eagle_2", toy.bundle(), budget=20, depth=3, top_k=4))
  assert tree.num_nodes == 20 and tree.valid.all()


def expected_drafts(model, params, tree, known):
  """Sum over drafts of the product of the net's probabilities, in row 0."""
  text = np.asarray(toy.prompts((5, 7)).tokens)[0, :5]
  paths, total = {0: ((), 1.0)}, 0.0
  for node in range(1, tree.num_nodes):
    parent, token = int(tree.parents[0, node]), int(tree.tokens[0, node])
    path, reach = paths[parent]
    if path not in known:
      known[path] = jax.nn.softmax(jnp.asarray(
          oracle.rollout(model, params.drafter, text, path)[-1]))
    reach *= float(known[path][token])
    paths[node] = ((*path, token), reach)
    total += reach
  return total


def test_grown_tree_is_worth_more_than_the_static_one():
  """Under the draft's own law, at an equal number of nodes."""
  bundle = toy.bundle()
  system, params = systems.build(
      "eagle_2", bundle, budget=26, depth=5, top_k=8)
  static = feature_drafter.StaticFeatureDrafter(
      system.drafter.model, shapes.PUBLISHED["eagle"], "without_replacement")
  law_of, worth = {}, []
  for drafter in (system.drafter, static):
    composed = rounds.compose(drafter, bundle.target, sampling_lib.GREEDY)
    tree = first_tree(composed, params)
    worth.append(expected_drafts(
        system.drafter.model, params, tree, law_of))
  assert worth[0] > worth[1] > 0


@pytest.mark.parametrize("name,hyper,depth", [
    ("eagle_1", dict(branching=(2, (2, 1))), 2),
    ("poss", dict(budget=5, depth=3, top_k=2), None)])
def test_a_round_has_no_forward_more_than_levels(name, hyper, depth):
  """That of the new pairs says what follows the root."""
  system, params = systems.build(name, toy.bundle(), **hyper)
  state = decoding.start(
      system, params, toy.prompts((3,)), keys_lib.row_keys(0, 1), 4, 16)
  forwards = costs.Forwards({name: (system, params, state)})
  forwards.sample(1)
  # A loop over levels is traced once.
  assert forwards.take()[name].draft_forwards == (depth or 2)


def test_taps_of_three_depths():
  assert feature_model.three_depths(32) == (2, 16, 29)
  assert feature_model.three_depths(9) == (2, 4, 6)
  assert feature_model.three_depths(7) == (2, 3, 4)
  assert feature_model.three_depths(6) == (2, 3, 5)
  assert feature_model.three_depths(4) == (1, 2, 3)
  assert feature_model.three_depths(3) == (1, 2, 3)
  assert feature_model.three_depths(2) == (1, 2, 2)
  for num_layers in range(4, 100):  # Published layouts can name them.
    first, second, third = feature_model.three_depths(num_layers)
    assert 1 <= first < second < third < num_layers
  system, _ = systems.build("eagle_3", toy.bundle())
  assert system.drafter.needs.taps == (0, 1, 2)


def test_a_missing_part_is_named():
  bundle = toy.ToyBundle(toy.bundle().target, {}, {})
  for name in ("eagle_1", "eagle_2"):
    with pytest.raises(ValueError, match="--system=eagle_2"):
      systems.build(name, bundle)
