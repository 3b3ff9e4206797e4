"""Controllers by name: how long a drafted chain should be."""

from types import MappingProxyType
from typing import Any

from spec_jax.controllers import bandits
from spec_jax.controllers import cost_model
from spec_jax.controllers import fixed
from spec_jax.controllers import threshold

_CONTROLLERS = MappingProxyType({
    "fixed": fixed.Fixed,
    "threshold": threshold.ConfidenceThreshold,
    "thompson": bandits.Thompson,
    "ucb": bandits.UpperConfidence,
    "cost_model": cost_model.CostModel,
})


def names() -> tuple[str, ...]:
  """The controllers that need no trained part."""
  return tuple(_CONTROLLERS)


def get(name: str, **hyper: Any) -> Any:
  """A controller with its defaults, or these hyper-parameters.

  Raises:
    ValueError: if there is none of that name.
  """
  if name not in _CONTROLLERS:
    raise ValueError(f"controller={name!r}, expected one of {names()}.")
  return _CONTROLLERS[name](**hyper)
