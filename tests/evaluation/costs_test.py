"""Forwards can be timed alone, whatever is passed to them."""

import jax.numpy as jnp
import pytest

from spec_jax import systems
from spec_jax.core import keys as keys_lib
from spec_jax.evaluation import costs
from spec_jax.executors import fused
from tests import toy


@pytest.mark.parametrize("name,num_tokens", [("kangaroo", 4), ("glide", 4)])
def test_forwards_of_a_round_are_timed(name, num_tokens):
  """A forward from a middle layer on; one that reads a second cache."""
  system, params = systems.build(name, toy.bundle(), depth=3)
  state = fused.Fused().start(
      system, params, toy.prompts((3, 4)), keys_lib.row_keys(0, 2),
      jnp.full((2,), 8), 32)
  forwards = costs.Forwards({name: (system, params, state)})
  forwards.sample(1)
  cost = forwards.take()[name]
  assert cost.tree_tokens == num_tokens and cost.draft_forwards >= 2
  assert cost.target > 0 and cost.draft > 0
