"""A training that is killed in its midst and started again."""

from collections.abc import Callable
import pathlib
from typing import Any

import chex
import pytest

from spec_jax.training import loop


class _Killed(Exception):
  pass


def resumed_log(folder: pathlib.Path, fit_fn: Callable[..., Any],
                interrupted_at: int) -> list[dict[str, float]]:
  """Checks that parameters and log are those of an uninterrupted training.

  Args:
    folder: for both.
    fit_fn: `(folder, **arguments of loop.fit) -> params`.
    interrupted_at: the step that does not return.

  Returns:
    The log of both.
  """
  whole = fit_fn(folder / "whole")

  def kill(step, row):
    del row
    if step == interrupted_at:
      raise _Killed

  with pytest.raises(_Killed):
    fit_fn(folder / "resumed", on_step=kill)
  chex.assert_trees_all_equal(whole, fit_fn(folder / "resumed"))
  logs = [loop.read_log(folder / name / loop.LOG_NAME)
          for name in ("whole", "resumed")]
  assert logs[0] == logs[1]
  return logs[0]
