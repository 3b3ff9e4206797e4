"""Adapters behind the target's first layers."""

import functools
from types import MappingProxyType
from typing import Any

from experiments.parts import run as run_lib
from spec_jax.models import early_exit
from spec_jax.training import adapters
from spec_jax.training import data


def adapter(name: str, options: adapters.AdapterRecipe, run: run_lib.Run
            ) -> tuple[dict[str, Any], Any]:
  """What speaks for the layers behind an exit; resumes from its checkpoint."""
  target, options = run.bundle.target, run.adapt(options)
  deepest = target.config.num_layers - 1
  hyper = {**options.hyper,
           "exit_layer": min(options.hyper["exit_layer"], deepest)}
  model = early_exit.from_hyper(target, name, hyper)
  frozen = {"target": run.bundle.params["target"]}
  windows = run.mixed(options)
  if options.is_self_taught:
    windows = data.Rows(windows.rows, options.batch, run.seed)
  judged = run.judged(options, options.judged_windows)
  params = run.fit(
      adapters.recipe(options, model, frozen), windows, options.num_steps,
      frozen, evaluate=adapters.evaluator(options, model, frozen, judged))
  return hyper, params


# Kangaroo's repository exits after two of 32 layers.
TRAINERS = MappingProxyType({
    "kangaroo": functools.partial(
        adapter, "kangaroo", adapters.AdapterRecipe(
            {"exit_layer": 2, "has_feed_forward": False})),
    "eesd": functools.partial(
        adapter, "eesd", adapters.AdapterRecipe(
            {"exit_layer": 2}, is_self_taught=True)),
})
