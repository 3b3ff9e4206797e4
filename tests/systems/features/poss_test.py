"""PosS: what a faithful implementation must show."""

import jax
import numpy as np
import pytest

from spec_jax import systems
from spec_jax.core import keys as keys_lib
from spec_jax.core import sampling as sampling_lib
from spec_jax.executors import fused
from tests import features as oracle
from tests import rounds
from tests import toy

SMALL = dict(budget=8, depth=3, top_k=3)


def bundle_of(num_layers, span=1, is_copy=False):
  """Specialists: copies of EAGLE's layer, or as random as it is."""
  bundle = toy.bundle()
  net = bundle.params["eagle_2"]
  noise = lambda leaf, i: leaf if is_copy or not i else leaf + (
      .5 * leaf.std() + .1) * jax.random.normal(jax.random.key(i), leaf.shape)
  own = {"fuse": net["fuse"]} | {
      f"layers_{i}": jax.tree.map(lambda leaf, i=i: noise(leaf, i),
                                  net["layers_0"]) for i in range(num_layers)}
  hyper = {"layers": {"num_layers": num_layers}, "span": span}
  return toy.ToyBundle(
      bundle.target, bundle.models, {**bundle.params, "poss": own},
      heads={**bundle.heads, "poss": hyper})


def decode(name, bundle):
  system, params = systems.build(name, bundle, **SMALL)
  return jax.device_get(fused.Fused().run(
      system.with_sampling(sampling_lib.Sampling(0.7)), params,
      toy.prompts(), keys_lib.row_keys(0, 4), 12))


@pytest.mark.parametrize("num_layers", [1, 3])
def test_one_specialist_and_equal_specialists_are_eagle_2(num_layers):
  bundle = bundle_of(num_layers, is_copy=True)
  jax.tree.map(np.testing.assert_array_equal, decode("poss", bundle),
               decode("eagle_2", bundle))


@pytest.mark.parametrize("num_layers,span", [(3, 1), (2, 2)])
def test_a_change_of_specialist_equals_running_it_from_the_start(
    num_layers, span):
  bundle = bundle_of(num_layers, span)
  system, params = systems.build("poss", bundle, budget=5, depth=4, top_k=1)
  chains = set()
  for each in rounds.play(system.with_sampling(sampling_lib.Sampling(0.7)),
                          params, toy.prompts((4, 7)), 9, num_rounds=3):
    oracle.assert_stable_part_is_that_of_the_text(
        system.drafter.model, params.drafter, each.before.drafter,
        each.before.tokens, each.before.length)
    for row in range(2):
      path = each.tree.tokens[row, 1:]
      logits = oracle.rollout(
          system.drafter.model, params.drafter, each.text(row), path[:-1])
      np.testing.assert_array_equal(path, np.argmax(logits, axis=-1))
      chains.add(tuple(path.tolist()))
  assert len(chains) > 2
