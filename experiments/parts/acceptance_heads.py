"""Heads of a draft model that predict acceptance."""

import functools
from types import MappingProxyType
from typing import Any

from experiments.parts import run as run_lib
from spec_jax.controllers import decision
from spec_jax.training import acceptance
from spec_jax.training import data


def acceptance_head(options: acceptance.AcceptanceRecipe, run: run_lib.Run
                    ) -> tuple[dict[str, Any], Any]:
  """A head that predicts acceptance; goes on from its last checkpoint."""
  bundle, options = run.bundle, run.adapt(options)
  target, draft = bundle.target, bundle.models["draft"]
  frozen = {name: bundle.params[name] for name in ("target", "draft")}
  windows = data.Rows(run.own_text(options, run.train), options.batch,
                      run.seed)
  judged = run.judged(options, options.batch * 4)
  params = run.fit(
      acceptance.recipe(options, target, draft), windows, options.num_steps,
      frozen,
      evaluate=acceptance.evaluator(options, target, draft, frozen, judged))
  return options.hyper, params


TRAINERS = MappingProxyType({
    "specdec_pp": functools.partial(
        acceptance_head, acceptance.AcceptanceRecipe()),
    "mcsd_improved": functools.partial(
        acceptance_head, acceptance.AcceptanceRecipe(
            decision.DecisionNetwork(), is_ahead=True,
            mismatch_weight=1.0)),
})
