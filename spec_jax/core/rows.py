"""Per-row choices between two states of the same structure."""

from typing import Any

import jax
import jax.numpy as jnp


def where(rows: jax.Array, new: Any, old: Any) -> Any:
  """`new` in the rows `bool[B]`, `old` in the others.

  Args:
    rows: `bool[B]`.
    new: a pytree whose leaves have a leading axis B.
    old: likewise, of the same structure and shapes.
  """
  pick = lambda a, b: jnp.where(
      rows.reshape((-1,) + (1,) * (a.ndim - 1)), a, b)
  return jax.tree.map(pick, new, old)
