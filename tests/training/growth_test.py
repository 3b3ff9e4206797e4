"""A deepened model computes what the shallow one did."""

import chex
import jax
import jax.numpy as jnp
import pytest

from spec_jax.models import contract
from spec_jax.training import growth
from tests import toy


@pytest.mark.parametrize("deep", [2, 3, 5])
def test_deepening_keeps_the_function(deep):
  shallow = contract.decoder_model(toy.config(num_layers=2))
  params = shallow.init(jax.random.key(0))
  grown = growth.deepen(params, deep)
  model = contract.decoder_model(toy.config(num_layers=deep))
  chex.assert_trees_all_equal_shapes(grown, model.init(jax.random.key(1)))
  tokens = jnp.arange(10)[None] % toy.VOCAB
  chex.assert_trees_all_close(
      model.score(grown, tokens).logits, shallow.score(params, tokens).logits,
      atol=1e-5)


def test_no_deepening_to_fewer_layers():
  params = contract.decoder_model(toy.config(num_layers=2)).init(
      jax.random.key(0))
  with pytest.raises(ValueError, match="cannot deepen 2 layers to 1"):
    growth.deepen(params, 1)
