"""The RNG contract: a draw depends on seed, row, position and role alone."""

import itertools

import jax
import numpy as np
import pytest

from spec_jax import verifiers
from spec_jax.core import keys
from spec_jax.core import types
from tests.exactness import markov

data = lambda key: np.asarray(jax.random.key_data(key))


@pytest.mark.parametrize("num_rows,first_row", [(1, 0), (3, 0), (1, 2), (5, 1)])
def test_a_row_has_its_key_in_any_batch(num_rows, first_row):
  everything = data(keys.row_keys(3, 8))
  np.testing.assert_array_equal(
      data(keys.row_keys(3, num_rows, first_row)),
      everything[first_row:first_row + num_rows])


def test_keys_are_folded_in_the_written_order():
  expected = jax.random.key(7)
  for part in (2, 11, int(types.Role.DRAFT), 5):
    expected = jax.random.fold_in(expected, part)
  found = keys.at(keys.row_keys(7, 1, 2)[0], 11, types.Role.DRAFT, 5)
  np.testing.assert_array_equal(data(found), data(expected))


def test_no_two_draws_share_a_key():
  found = [
      tuple(data(keys.at(row_key, position, role, index)).tolist())
      for row_key in [*keys.row_keys(0, 3), *keys.row_keys(1, 3)]
      for position, role, index in itertools.product(
          range(4), types.Role, (None, 0, 1, 2))]
  assert len(set(found)) == len(found)


def _text(num_rows, first_row, seed=0):
  system = markov.system(verifiers.get("recursive"), (2, 1), "iid")
  out = markov.decode(system, markov.params(), num_rows, 8, seed=seed,
                      first_row=first_row)
  return np.asarray(out.tokens)[:, :9]


def test_text_of_a_row_does_not_depend_on_its_batch():
  together = _text(6, 0)
  np.testing.assert_array_equal(_text(2, 3), together[3:5])
  assert len(np.unique(together, axis=0)) > 1
  assert (_text(6, 0, seed=1) != together).any()


@pytest.mark.parametrize(
    "seed", [-1, 2 ** 32, 99999999999999999999, 1.5, True])
def test_a_seed_without_keys_of_its_own_is_named(seed):
  with pytest.raises(ValueError, match=f"seed={seed}, expected a whole number"
                     " from 0 to 4294967295"):
    keys.row_keys(seed, 1)


def test_the_largest_seeds_have_keys_of_their_own():
  found = {data(keys.row_keys(seed, 1)).tobytes()
           for seed in (0, 2 ** 31, 2 ** 32 - 2, np.int64(keys.MOST_SEED))}
  assert len(found) == 4
