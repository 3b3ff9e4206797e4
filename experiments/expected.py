"""What a trained part may be expected to accept, by what it was given.

Read from the cards of `experiments.drafter_race` in results/parts: one for
each budget and machine. A part that is counted takes no budget; of those that
trim a vocabulary the shares that they cover are read from the card of
`experiments.vocabulary_sizes`.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import json
import math
import pathlib
from typing import Any

from experiments import parts

FOLDER = pathlib.Path(__file__).parent / "results" / "parts"
COVERAGE = FOLDER.parent / "tiny-python" / "vocabulary_sizes.json"
_PREFIX = "eval_accept_"
# What else a last row may tell, of predictors of lengths.
_FURTHER = {"eval_wasted": "{:.2f} drafts of a call made in vain",
            "eval_error": "lengths wrong by {:.2f} drafts"}
_CORES = "CPU cores"


@dataclasses.dataclass(frozen=True)
class Budget:
  """One training of one part.

  Attributes:
    machine: it ran on, which need not be the one that decoded.
    minutes: of optimiser steps.
    steps: in them.
    batch: windows per step; None for the recipe's.
    accepted: by depth from 1 on, share of prefixes of the target's own held-out
      text at which a greedy draft is accepted at least so deep; none if it was
      not judged so.
    remark: what else must be known.
    further: what else was judged, in words.
  """

  machine: str
  minutes: float
  steps: int
  batch: int | None
  accepted: tuple[float, ...]
  remark: str = ""
  further: tuple[str, ...] = ()

  @property
  def windows(self) -> int:
    """All that were seen; of a budget whose `batch` is known."""
    return self.steps * self.batch


def of(name: str, folder: pathlib.Path = FOLDER) -> list[Budget]:
  """What is known of the part of a system, the least acceptance first."""
  found = []
  for path in sorted(folder.glob("*.json")):
    card = json.loads(path.read_text(encoding="utf-8"))
    found += [_budget(card, row["part"]) for row in card["rows"]
              if row["system"] == name and "judged" in row["part"]]
  # A part that was decoded twice was trained once.
  return sorted((budget for budget in set(found)
                 if budget.accepted or budget.further),
                key=lambda budget: budget.accepted)


@dataclasses.dataclass(frozen=True)
class Estimate:
  """What a budget should give that was not tried.

  Attributes:
    machine: whose pace is known.
    minutes: of optimiser steps on it.
    windows: in them.
    least: acceptances as of a `Budget`, the best of those on such cores that
      had fewer windows.
    most: of the next budget, on whatever machine, that had more; None if there
      is none. It may have had more text to take them from, and larger batches.
  """

  machine: str
  minutes: float
  windows: int
  least: tuple[float, ...]
  most: tuple[float, ...] | None


def estimates(name: str, minutes: Sequence[float] = (10, 60),
              folder: pathlib.Path = FOLDER) -> list[Estimate]:
  """What budgets on CPU cores should give that were not tried on such.

  Empty if no pace is known.
  """
  budgets = sorted((budget for budget in of(name, folder)
                    if budget.batch and budget.accepted),
                   key=lambda budget: budget.windows)
  # What was tried under other conditions counts where there is nothing else.
  alike = [budget for budget in budgets if not budget.remark]
  budgets = alike if len(alike) > 1 else budgets
  paced = [budget for budget in budgets if budget.machine.endswith(_CORES)]
  if not paced:
    return []
  pace = paced[-1]
  found = []
  for wanted in minutes:
    if any(math.isclose(b.minutes, wanted, rel_tol=.05) for b in paced):
      continue  # It was tried.
    windows = pace.windows * wanted / pace.minutes
    # A device's windows are of more text and in larger batches: of as many,
    # cores made less.
    fewer = [b.accepted for b in paced if b.windows <= windows]
    more = [b.accepted for b in budgets if b.windows > windows]
    if fewer:
      found.append(Estimate(pace.machine, wanted, round(windows), max(fewer),
                            max(more[0], max(fewer)) if more else None))
  return found


def coverage(name: str, card: pathlib.Path = COVERAGE) -> dict[int, float]:
  """Share of tiny-python's own held-out text by tokens of a trimmed draft."""
  if not card.exists():
    return {}
  rows = json.loads(card.read_text(encoding="utf-8"))["rows"]
  return {row["key"]["size"]: row["key"]["covers"] for row in rows
          if row["key"]["system"] == name}


def text(name: str, folder: pathlib.Path = FOLDER) -> str:
  """The same in words, a line for each budget; one for what is counted."""
  if parts.is_counted(name):
    return _counted(name)
  lines = [_line(budget) for budget in of(name, folder)]
  lines += [_estimated(found) for found in estimates(name, folder=folder)]
  return "\n".join(f"{name}, {line}" for line in lines)


def _counted(name):
  line = f"{name}, counted, not trained: {parts.summary_of(name)}"
  if found := coverage(name):
    line += (f" Expect {', '.join(map(str, found))} tokens to cover"
             f" {_shares(found.values())} of what tiny-python's target writes"
             " itself on held-out text.")
  return line


def _line(budget):
  windows = f" of {budget.batch} windows" if budget.batch else ""
  remark = f", {budget.remark}" if budget.remark else ""
  said = budget.further
  if budget.accepted:
    said = (f"acceptance to depth 1, 2, ... of {_shares(budget.accepted)}",
            *said)
  return (f"{budget.minutes:.2g} min on {budget.machine} ({budget.steps} steps"
          f"{windows}{remark}): expect {', '.join(said)}")


def _estimated(found):
  start = (f"{found.minutes:g} min on {found.machine} ({found.windows:,}"
           f" windows): expect at least {_shares(found.least)}")
  if found.most is None:
    return f"{start} (not tried: what the largest budget on such cores gave)"
  return (f"{start}, at most {_shares(found.most)} (not tried: what the next"
          " smaller and larger budget gave)")


def _shares(accepted):
  return " ".join(f"{share:.2f}" for share in accepted)


def _budget(card, part):
  last = part["judged"][-1]
  depths = sorted(int(key.removeprefix(_PREFIX)) for key in last
                  if key.startswith(_PREFIX))
  return Budget(_machine(part.get("machine", card["environment"])),
                _minutes(card["flags"], part), part["steps"],
                card["flags"]["batch"],
                tuple(last[f"{_PREFIX}{depth}"] for depth in depths),
                card.get("remark", ""),
                tuple(said.format(last[key]) for key, said in _FURTHER.items()
                      if key in last))


def _minutes(flags, part):
  """What was asked for, or what as many steps as were asked for took."""
  if flags.get("steps") is None:
    return flags["minutes"]
  return part["steps"] * part["seconds_per_step"] / 60


def _machine(environment: Mapping[str, Any]) -> str:
  if environment["backend"] == "cpu":
    return f"{environment['num_cpus']} {_CORES}"
  return str(environment["device"])
