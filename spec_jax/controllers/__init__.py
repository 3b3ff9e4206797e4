"""Controllers by name: how long a drafted chain should be."""

import dataclasses
from types import MappingProxyType
from typing import Any

from spec_jax.controllers import bandits
from spec_jax.controllers import cost_model
from spec_jax.controllers import fixed
from spec_jax.controllers import threshold
from spec_jax.core import registry

_CONTROLLERS = MappingProxyType({
    "fixed": fixed.Fixed,
    "threshold": threshold.ConfidenceThreshold,
    "thompson": bandits.Thompson,
    "ucb": bandits.UpperConfidence,
    "cost_model": cost_model.CostModel,
})


# `controllers.learned.LearnedAcceptance`, whose head is a trained part.
LEARNED = "learned"


def names() -> tuple[str, ...]:
  """The controllers that need no trained part."""
  return tuple(_CONTROLLERS)


def get(name: str, draft_cost: float | None = None, **hyper: Any) -> Any:
  """A controller with its defaults, or these hyper-parameters.

  Args:
    name: of the controller.
    draft_cost: time of a draft forward over that of a target forward. Those
      that weigh costs take it in place of their default, others ignore it.
    **hyper: what this controller has.

  Raises:
    ValueError: if there is none of that name.
  """
  if name not in _CONTROLLERS:
    raise ValueError(
        f"controller={name!r}, expected one of {names()}; chains of the"
        f" bundle's draft model also take {LEARNED!r}."
        + registry.hint(name, (*names(), LEARNED)))
  kind = _CONTROLLERS[name]
  known = {field.name for field in dataclasses.fields(kind)}
  if draft_cost is not None and "draft_cost" in known:
    hyper["draft_cost"] = draft_cost
  return kind(**hyper)
