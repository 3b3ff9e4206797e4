"""What a controller hears of a round, whoever drafted it."""

from typing import Any

import jax
import jax.numpy as jnp

from spec_jax.core import rows as rows_lib
from spec_jax.core import types


def after_round(controller: Any, control: Any, drafted: jax.Array, most: Any,
                verdict: types.Verdict) -> Any:
  """The controller's state once its chains were verified.

  A row that took no part, or drafted nothing, is left alone.

  Args:
    controller: a `protocols.Controller`.
    control: its state.
    drafted: `i32[B]`, tokens of each chain.
    most: `i32[B]` or a number, so many could have been drafted.
    verdict: of the round.
  """
  checked = types.Checked(
      drafted=drafted, accepted=jnp.maximum(verdict.count - 1, 0),
      is_full=drafted == most, is_active=(verdict.count > 0) & (drafted > 0))
  return rows_lib.where(
      checked.is_active, controller.update(control, checked), control)
