"""Jakiro: what a faithful implementation must show."""

import collections
import dataclasses
from unittest import mock

import jax
import numpy as np
import pytest

from spec_jax import systems
from spec_jax.core import keys as keys_lib
from spec_jax.core import sampling as sampling_lib
from spec_jax.core import system as system_lib
from spec_jax.core import tree as tree_lib
from spec_jax.executors import decoding
from spec_jax.executors import fused
from spec_jax.models import feature_model
from tests import features as oracle
from tests import rounds
from tests import toy

SMALL = dict(budget=8, depth=3, top_k=3)


def equal_experts():
  """Both experts are EAGLE's own feed-forward."""
  bundle = toy.bundle()
  net, own = bundle.params["eagle_2"], bundle.params["jakiro"]
  layer = net["layers_0"]
  mlp = {"gate": own["layers_0"]["mlp"]["gate"],
         "experts_0": layer["mlp"], "experts_1": layer["mlp"]}
  params = {**bundle.params,
            "jakiro": {**net, "layers_0": {**layer, "mlp": mlp}}}
  return toy.ToyBundle(
      bundle.target, bundle.models, params, heads=bundle.heads)


def decode(name, bundle, **hyper):
  system, params = systems.build(name, bundle, **{**SMALL, **hyper})
  return jax.device_get(fused.Fused().run(
      system.with_sampling(sampling_lib.Sampling(0.7)), params,
      toy.prompts(), keys_lib.row_keys(0, 4), 12))


def test_equal_experts_without_the_second_guess_are_eagle_2():
  ours = decode("jakiro", equal_experts(), ahead=0)
  theirs = decode("eagle_2", toy.bundle())
  jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_second_guess_is_the_difference_larger_weight_first():
  """By hand, of one layer's output."""
  system, params = systems.build("jakiro", toy.bundle())
  module = system.drafter.model.net
  x = jax.random.normal(jax.random.key(0), (1, 3, 16))
  own = params.drafter["jakiro"]["layers_0"]["mlp"]
  block = module.bind({"params": params.drafter["jakiro"]}).layers[0].mlp
  left, right = block(x)
  gate = np.einsum("bte,egn->btgn", x, own["gate"]["kernel"])
  experts = [_feed_forward(own[f"experts_{i}"], x) for i in range(2)]
  weights = np.exp(gate) / np.exp(gate).sum(-1, keepdims=True)
  terms = [weights[:, :, 1, i, None] * experts[i] for i in range(2)]
  sign = np.where(weights[:, :, 1, 0] > weights[:, :, 1, 1], 1, -1)
  np.testing.assert_allclose(
      right, sign[..., None] * (terms[0] - terms[1]), atol=1e-5)
  np.testing.assert_allclose(left, sum(
      weights[:, :, 0, i, None] * experts[i] for i in range(2)), atol=1e-5)
  assert {-1, 1} == set(sign.ravel().tolist())


def _feed_forward(params, x):
  up = np.einsum("bte,ewf->btwf", x, params["up"]["kernel"])
  return np.asarray(jax.nn.silu(up[:, :, 0]) * up[:, :, 1]) @ np.asarray(
      params["down"]["kernel"])


@pytest.mark.parametrize("ahead,forwards", [(0, 3), (1, 2)])
def test_a_round_has_a_forward_less_than_levels(ahead, forwards):
  system, params = systems.build("jakiro", toy.bundle(), ahead=ahead, **SMALL)
  state = decoding.start(
      system, params, toy.prompts((3,)), keys_lib.row_keys(0, 1), 4, 16)
  calls, forward = [], feature_model.FeatureModel.forward

  def counted(*args, **kwargs):
    jax.debug.callback(lambda: calls.append(1))
    return forward(*args, **kwargs)

  with mock.patch.object(feature_model.FeatureModel, "forward", counted):
    tree, _ = jax.jit(lambda state: system_lib.propose(
        system, params, state))(state)
    jax.effects_barrier()
  assert len(calls) == forwards
  assert tree_lib.depths(tree.parents).max() == 3


def test_last_level_hangs_below_the_nodes_it_was_guessed_from():
  """Its tokens are the best of what the parent's parent said of them."""
  system, params = systems.build(
      "jakiro", toy.bundle(), budget=40, depth=3, top_k=3)
  model, found = system.drafter.model, set()
  for each in rounds.play(
      system.with_sampling(sampling_lib.Sampling(0.7)), params,
      toy.prompts((4, 7)), 9, num_rounds=2):
    depths = tree_lib.depths(each.tree.parents)
    for row in range(2):
      tree = jax.tree.map(lambda a, i=row: a[i], each.tree)
      for node in np.flatnonzero(tree.valid & (depths[row] == 3)):
        parent = tree.parents[node]
        above = tree.parents[parent]
        logits = oracle.ahead(
            model, params.drafter, each.text(row), [tree.tokens[above]])[0]
        assert tree.tokens[node] in np.argsort(-logits)[:3]
        found.add((row, int(tree.tokens[above]), int(tree.tokens[node])))
  assert len(found) > 6


def other_second_guess():
  """The experts' weights of the second guess the other way round."""
  bundle = toy.bundle()
  own = bundle.params["jakiro"]
  layer = own["layers_0"]
  gate = {"kernel": layer["mlp"]["gate"]["kernel"].at[:, 1].multiply(-1)}
  layer = {**layer, "mlp": {**layer["mlp"], "gate": gate}}
  return dataclasses.replace(bundle, params={
      **bundle.params, "jakiro": {**own, "layers_0": layer}})


def paths_and_text(bundle):
  """The paths of a first round, by their length, and what all rounds wrote."""
  system, params = systems.build(
      "jakiro", bundle, budget=40, depth=3, top_k=3)
  played = list(rounds.play(
      system.with_sampling(sampling_lib.Sampling(0.7)), params,
      toy.prompts((4, 7)), 9))
  tree, paths = played[0].tree, {0: ()}
  found = collections.defaultdict(set)
  for node in np.flatnonzero(tree.valid[0])[1:]:
    path = (*paths[int(tree.parents[0, node])], int(tree.tokens[0, node]))
    paths[int(node)] = path
    found[len(path)].add(path)
  return found, played[-1].after.tokens


def test_the_second_guess_changes_the_last_level_and_no_text():
  (ours, text), (theirs, wanted) = map(
      paths_and_text, (toy.bundle(), other_second_guess()))
  assert ours[1] == theirs[1] and ours[2] == theirs[2]
  assert ours[3] != theirs[3]
  np.testing.assert_array_equal(text, wanted)


def test_levels_that_nothing_speaks_for_are_named():
  with pytest.raises(ValueError, match="num_ahead=2 of depth=3.*'jakiro'"):
    systems.build("jakiro", toy.bundle(), ahead=2, **SMALL)
