"""The RNG contract: `fold_in(fold_in(fold_in(seed, row), position), role)`.

What a row draws depends on its seed, its number, the position in its text and
the use of the draw: not on its batch mates, on padding, on the executor or on
the number of devices. Keys are therefore never split and never advanced.
"""

import jax
import jax.numpy as jnp
import numpy as np

from spec_jax.core import threefry
from spec_jax.core import types

# Larger ones would be cut to 32 bits: two seeds, one stream.
MOST_SEED = 2 ** 32 - 1


def row_keys(seed: int, num_rows: int, first_row: int = 0) -> jax.Array:
  """One key per row, `key[B]`; rows are numbered from `first_row`.

  Raises:
    ValueError: for a seed that is no whole number of 32 bits.
  """
  if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or (
      not 0 <= seed <= MOST_SEED):
    raise ValueError(f"seed={seed!r}, expected a whole number from 0 to"
                     f" {MOST_SEED}.")
  rows = jnp.arange(first_row, first_row + num_rows)
  return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), rows)


def at(row_key: jax.Array, position, role: types.Role,
       index=None) -> jax.Array:
  """The key of one draw of one row.

  Args:
    row_key: a scalar key.
    position: position in the text of the token that is drawn.
    role: what the draw is for.
    index: tells draws of one position apart (nodes of a tree); optional.
  """
  data = (position, int(role)) + (() if index is None else (index,))
  if threefry.is_plain(row_key):
    return threefry.fold_in(row_key, *data)
  for datum in data:
    row_key = jax.random.fold_in(row_key, datum)
  return row_key
