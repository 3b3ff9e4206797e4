"""Trained parts that systems add to the models of a bundle."""

from collections.abc import Callable
import inspect
from types import MappingProxyType
from typing import Any

from experiments.parts import acceptance_heads
from experiments.parts import adapters
from experiments.parts import draft_blocks
from experiments.parts import feature_nets
from experiments.parts import run
from experiments.parts import tables
from experiments.parts import token_heads
from experiments.parts import vocabularies

Run, Judge, begun = run.Run, run.Judge, run.begun

# By system: how its part is trained. Returns what the bundle keeps,
# hyper-parameters and parameters.
TRAINERS: MappingProxyType[str, Callable[[Run], tuple[dict[str, Any], Any]]] = (
    MappingProxyType({
        **acceptance_heads.TRAINERS, **adapters.TRAINERS,
        **draft_blocks.TRAINERS, **tables.TRAINERS, **token_heads.TRAINERS,
        **feature_nets.TRAINERS,
        **vocabularies.TRAINERS}))


def recipe_of(name: str) -> Any:
  """The recipe of a part; None for a part that has none."""
  return (getattr(TRAINERS[name], "args", ()) or (None,))[-1]


def is_counted(name: str) -> bool:
  """Whether no steps are taken for a part: it follows from a text at once."""
  return not hasattr(recipe_of(name), "num_steps")


def summary_of(name: str) -> str:
  """One line, the first of the trainer's docstring."""
  trainer = TRAINERS[name]
  return inspect.getdoc(getattr(trainer, "func", trainer)).splitlines()[0]
