"""Trained parts that systems add to the models of a bundle."""

from collections.abc import Callable
import pathlib
from types import MappingProxyType
from typing import Any

import numpy as np

from spec_jax.models import bundle as bundle_lib
from spec_jax.training import acceptance
from spec_jax.training import data
from spec_jax.training import loop

# By system: how its part is trained. Options have `num_steps`, and what
# `train.own_text` needs: `own_windows` and `length`.
TRAINERS = MappingProxyType({"specdec_pp": acceptance.AcceptanceRecipe()})


def train(options: Any, bundle: bundle_lib.Bundle, own: np.ndarray,
          heldout: np.ndarray, folder: pathlib.Path, *, seed: int,
          checkpoint_every: int, on_step: Callable[..., None] | None = None
          ) -> tuple[dict[str, Any], Any]:
  """Trains a part, or goes on from its last checkpoint.

  Args:
    options: one of `TRAINERS`.
    bundle: the models, which stay as they are.
    own: `u16[n, length]`, text that the target wrote.
    heldout: `u16[n]`, text to judge by.
    folder: of checkpoints and log.
    seed: of weights, draws and order.
    checkpoint_every: steps.
    on_step: see `loop.fit`.

  Returns:
    What the bundle keeps: hyper-parameters and parameters.
  """
  target, draft = bundle.target, bundle.models["draft"]
  frozen = {name: bundle.params[name] for name in ("target", "draft")}
  windows = data.Rows(own, options.batch, seed)
  params = loop.fit(
      acceptance.recipe(options, target, draft), windows,
      num_steps=options.num_steps, folder=folder, frozen=frozen, seed=seed,
      checkpoint_every=checkpoint_every, on_step=on_step,
      evaluate=acceptance.evaluator(options, target, draft, frozen, heldout))
  return options.hyper, params
