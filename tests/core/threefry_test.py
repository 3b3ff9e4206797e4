"""The flat hash gives the bits of `jax.random`, whatever is drawn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spec_jax.core import keys
from spec_jax.core import sampling
from spec_jax.core import threefry
from spec_jax.core import types

_SEEDS = (0, 1, 7, 2 ** 31 - 1)


@pytest.mark.parametrize("seed", _SEEDS)
def test_fold_in_is_that_of_jax(seed):
  key = jax.random.key(seed)
  for data in ((0,), (5, 1), (2 ** 31 - 1, 0, 3)):
    expected = key
    for datum in data:
      expected = jax.random.fold_in(expected, datum)
    np.testing.assert_array_equal(
        jax.random.key_data(threefry.fold_in(key, *data)),
        jax.random.key_data(expected))


def test_keys_in_a_batch_are_those_of_jax():
  row_keys = keys.row_keys(3, 4)
  positions = jnp.arange(4) * 1000
  at = lambda key, position: keys.at(key, position, types.Role.DRAFT, 2)
  naive = lambda key, position: jax.random.fold_in(jax.random.fold_in(
      jax.random.fold_in(key, position), int(types.Role.DRAFT)), 2)
  np.testing.assert_array_equal(
      jax.random.key_data(jax.vmap(at)(row_keys, positions)),
      jax.random.key_data(jax.vmap(naive)(row_keys, positions)))


@pytest.mark.parametrize("size", [1, 2, 7, 257])
@pytest.mark.parametrize("seed", _SEEDS)
def test_bits_and_clocks_are_those_of_jax(seed, size):
  key = jax.random.key(seed)
  np.testing.assert_array_equal(
      threefry.bits(key, size), jax.random.bits(key, (size,)))
  tiny = jnp.finfo(jnp.float32).tiny
  uniform = jax.random.uniform(key, (size,), minval=tiny)
  np.testing.assert_array_equal(
      threefry.uniform(key, size, tiny), uniform)
  np.testing.assert_array_equal(
      sampling.clocks(key, size), -jnp.log(uniform))


def test_other_generators_and_layouts_are_left_to_jax():
  foreign = jax.random.key(0, impl="rbg")
  assert not threefry.is_plain(foreign)
  expected = jax.random.fold_in(jax.random.fold_in(foreign, 5), 0)
  np.testing.assert_array_equal(
      jax.random.key_data(keys.at(foreign, 5, types.Role.EMIT)),
      jax.random.key_data(expected))
  with jax.threefry_partitionable(False):
    assert not threefry.is_plain(jax.random.key(0))
  assert threefry.is_plain(jax.random.key(0))
