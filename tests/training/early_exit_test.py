"""LayerSkip's loss against its formula, exit by exit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spec_jax.models import contract
from spec_jax.training import early_exit
from spec_jax.training import losses
from tests import toy


@pytest.fixture(scope="module", name="case")
def fixture_case():
  model = contract.decoder_model(toy.config(num_layers=4))
  tokens = jnp.arange(12).reshape(2, 6) % toy.VOCAB
  return model, model.init(jax.random.key(0)), tokens


def by_exit(model, params, tokens):
  """Next-token loss of each truncated model."""
  found = []
  for layer in range(1, 5):
    stream = model.score(params, tokens, taps=(layer,)).taps[layer]
    found.append(float(losses.next_token(
        model.read_out(params, stream), tokens)))
  return np.asarray(found)


def test_weights_grow_with_depth_and_the_last_dominates():
  np.testing.assert_allclose(early_exit.exit_weights(4, 0.2),
                             [0, 0.2, 0.6, 3.6])


def test_without_rotation_all_exits_take_part(case):
  expected = np.average(by_exit(*case), weights=early_exit.exit_weights(4, 0.2))
  value, metrics = early_exit.loss(*case, jax.random.key(1), 0.2, 1)
  assert float(value) == pytest.approx(expected, rel=1e-5)
  assert float(metrics["last_layer"]) == pytest.approx(
      by_exit(*case)[-1], rel=1e-5)


def test_rotation_takes_one_residue_and_always_the_last(case):
  exits, weights = by_exit(*case), early_exit.exit_weights(4, 0.2)
  allowed = [np.average(exits[sorted({*part, 3})],
                        weights=weights[sorted({*part, 3})])
             for part in ([0, 2], [1, 3])]
  values = [float(early_exit.loss(*case, jax.random.key(i), 0.2, 2)[0])
            for i in range(8)]
  distance = np.abs(np.subtract.outer(values, allowed))
  assert distance.min(1).max() < 1e-5
  assert set(distance.argmin(1)) == {0, 1}


def test_rotation_must_divide_the_layers(case):
  with pytest.raises(ValueError, match="exit_rotation=3 does not divide the 4"):
    early_exit.loss(*case, jax.random.key(1), 0.2, 3)
