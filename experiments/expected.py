"""What a trained part may be expected to accept, by what it was given.

Read from the cards of `experiments.drafter_race` in results/parts: one for
each budget and machine.
"""

from collections.abc import Mapping
import dataclasses
import json
import pathlib
from typing import Any

FOLDER = pathlib.Path(__file__).parent / "results" / "parts"
_PREFIX = "eval_accept_"


@dataclasses.dataclass(frozen=True)
class Budget:
  """One training of one part.

  Attributes:
    machine: it ran on, which need not be the one that decoded.
    minutes: of optimiser steps.
    steps: in them.
    batch: windows per step; None for the recipe's.
    accepted: by depth from 1 on, share of prefixes of the target's own held-out
      text at which a greedy draft is accepted at least so deep.
    remark: what else must be known.
  """

  machine: str
  minutes: float
  steps: int
  batch: int | None
  accepted: tuple[float, ...]
  remark: str = ""


def of(name: str, folder: pathlib.Path = FOLDER) -> list[Budget]:
  """What is known of the part of a system, the least acceptance first."""
  found = []
  for path in sorted(folder.glob("*.json")):
    card = json.loads(path.read_text(encoding="utf-8"))
    found += [_budget(card, row["part"]) for row in card["rows"]
              if row["system"] == name and "judged" in row["part"]]
  # A part that was decoded twice was trained once.
  return sorted(set(found), key=lambda budget: budget.accepted)


def text(name: str, folder: pathlib.Path = FOLDER) -> str:
  """The same in words, a line for each budget."""
  return "\n".join(f"{name}, {_line(budget)}" for budget in of(name, folder))


def _line(budget):
  windows = f" of {budget.batch} windows" if budget.batch else ""
  shares = " ".join(f"{share:.2f}" for share in budget.accepted)
  remark = f", {budget.remark}" if budget.remark else ""
  return (f"{budget.minutes:.2g} min on {budget.machine} ({budget.steps} steps"
          f"{windows}{remark}): expect acceptance to depth 1, 2, ... of"
          f" {shares}")


def _budget(card, part):
  last = part["judged"][-1]
  depths = sorted(int(key.removeprefix(_PREFIX)) for key in last
                  if key.startswith(_PREFIX))
  return Budget(_machine(part.get("machine", card["environment"])),
                _minutes(card["flags"], part), part["steps"],
                card["flags"]["batch"],
                tuple(last[f"{_PREFIX}{depth}"] for depth in depths),
                card.get("remark", ""))


def _minutes(flags, part):
  """What was asked for, or what as many steps as were asked for took."""
  if flags.get("steps") is None:
    return flags["minutes"]
  return part["steps"] * part["seconds_per_step"] / 60


def _machine(environment: Mapping[str, Any]) -> str:
  if environment["backend"] == "cpu":
    return f"{environment['num_cpus']} CPU cores"
  return str(environment["device"])
