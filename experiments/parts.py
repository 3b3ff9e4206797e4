"""Trained parts that systems add to the models of a bundle."""

from collections.abc import Callable
import dataclasses
import functools
import pathlib
from types import MappingProxyType
from typing import Any

import numpy as np

from spec_jax.controllers import decision
from spec_jax.models import bundle as bundle_lib
from spec_jax.models import feature_model
from spec_jax.training import acceptance
from spec_jax.training import bigrams
from spec_jax.training import data
from spec_jax.training import features
from spec_jax.training import loop


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
  """What a trainer works with.

  Attributes:
    bundle: the models, which stay as they are.
    train: `u16[n]`, text to learn from.
    heldout: `u16[n]`, text to judge by.
    own_text: `(options, tokens) -> u16[n, length]`, text of the target; options
      have `own_windows` and `length`.
    folder: of checkpoints and log.
    seed: of weights, draws and order.
    checkpoint_every: steps.
    progress: `num_steps ->` context of a function for `loop.fit`.
    num_steps: optimiser steps instead of the recipe's, or None.
  """

  bundle: bundle_lib.Bundle
  train: np.ndarray
  heldout: np.ndarray
  own_text: Callable[[Any, np.ndarray], np.ndarray]
  folder: pathlib.Path
  seed: int
  checkpoint_every: int
  progress: Callable[[int], Any]
  num_steps: int | None = None

  def sized(self, options: Any) -> Any:
    """The recipe with as many steps as were asked for."""
    return options if self.num_steps is None else dataclasses.replace(
        options, num_steps=self.num_steps)


def acceptance_head(options: acceptance.AcceptanceRecipe, run: Run
                    ) -> tuple[dict[str, Any], Any]:
  """A head that predicts acceptance; goes on from its last checkpoint."""
  bundle, options = run.bundle, run.sized(options)
  target, draft = bundle.target, bundle.models["draft"]
  frozen = {name: bundle.params[name] for name in ("target", "draft")}
  windows = data.Rows(run.own_text(options, run.train), options.batch,
                      run.seed)
  judged = run.own_text(dataclasses.replace(
      options, own_windows=options.batch * 4), run.heldout)
  with run.progress(options.num_steps) as on_step:
    params = loop.fit(
        acceptance.recipe(options, target, draft), windows,
        num_steps=options.num_steps, folder=run.folder, frozen=frozen,
        seed=run.seed, checkpoint_every=run.checkpoint_every, on_step=on_step,
        evaluate=acceptance.evaluator(options, target, draft, frozen, judged))
  return options.hyper, params


def feature_net(name: str, options: features.FeatureRecipe, run: Run
                ) -> tuple[dict[str, Any], Any]:
  """A net that guesses features; goes on from its last checkpoint."""
  bundle, options = run.bundle, run.sized(options)
  model = feature_model.from_hyper(bundle.target, name, options.hyper)
  frozen = {"target": bundle.params["target"]}
  windows = data.Mixed(
      data.Windows(run.train, options.batch, options.length, run.seed),
      run.own_text(options, run.train), run.seed)
  judged = run.own_text(dataclasses.replace(
      options, own_windows=options.judged_windows), run.heldout)
  with run.progress(options.num_steps) as on_step:
    params = loop.fit(
        features.recipe(options, model), windows,
        num_steps=options.num_steps, folder=run.folder, frozen=frozen,
        seed=run.seed, checkpoint_every=run.checkpoint_every, on_step=on_step,
        evaluate_every=max(1, options.num_steps // 4),
        evaluate=features.evaluator(options, model, frozen, judged))
  return options.hyper, params


def successors(run: Run) -> tuple[dict[str, Any], Any]:
  """Max-Gram's table, counted."""
  return {}, {"successors": bigrams.successors(
      run.train, run.bundle.target.vocab_size)}


# By system: how its part is trained. Returns what the bundle keeps,
# hyper-parameters and parameters.
TRAINERS: MappingProxyType[str, Callable[[Run], tuple[dict[str, Any], Any]]] = (
    MappingProxyType({
        "specdec_pp": functools.partial(
            acceptance_head, acceptance.AcceptanceRecipe()),
        "mcsd_improved": functools.partial(
            acceptance_head, acceptance.AcceptanceRecipe(
                decision.DecisionNetwork(), is_ahead=True,
                mismatch_weight=1.0)),
        "cs_drafting": successors,
        "eagle_2": functools.partial(
            feature_net, "eagle_2", features.FeatureRecipe()),
    }))
