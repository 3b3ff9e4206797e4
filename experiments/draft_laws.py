"""Fits how a drafter's tokens per call grow with its training data.

  python -m experiments.draft_laws --system=scylla --steps=75,150,300,600

trains the part of a system for each number of steps, from the beginning each
time, and fits `slope * log10(training tokens) + intercept` (Yan et al. 2025,
arXiv 2505.07858) to all points and to all but the largest; what the latter
predicts of the largest is the test of the law. Trainings that were finished
before are not repeated.
"""

from collections.abc import Sequence
import dataclasses
import pathlib
import shutil
import sys
from typing import Any

from absl import flags

from experiments import common
from experiments import parts
from experiments import train
from spec_jax.evaluation import report
from spec_jax.training import loop
from theory import scaling

_MEASURE = "eval_tokens_per_call"


def _systems() -> list[str]:
  """Those whose recipe judges by tokens per call."""
  return sorted(name for name, trainer in parts.TRAINERS.items()
                if hasattr(_recipe(trainer), "judged_depth"))


def _recipe(trainer: Any) -> Any:
  """The recipe that a trainer was given, the last of what it was."""
  return (getattr(trainer, "args", ()) or (None,))[-1]


def define(values: flags.FlagValues) -> None:
  """The flags of this program."""
  flags.DEFINE_enum("system", "scylla", _systems(), "Whose part is trained.",
                    flag_values=values)
  flags.DEFINE_list("steps", ["75", "150", "300", "600"], "Optimiser steps of"
                    " each training, at least three different numbers.",
                    flag_values=values)
  flags.DEFINE_string("models", "tiny-python", "A bundle, by name or folder.",
                      flag_values=values)
  flags.DEFINE_string("corpus", None, "As of experiments.train.",
                      flag_values=values)
  flags.DEFINE_integer("batch", None, "Windows per step; default: the"
                       " recipe's.", lower_bound=1, flag_values=values)
  flags.DEFINE_integer("own_windows", None, "Windows of the target's own text;"
                       " default: the recipe's.", lower_bound=2,
                       flag_values=values)
  flags.DEFINE_integer("seed", 0, "Of weights and data order.",
                       flag_values=values)
  flags.DEFINE_string("out", "out/draft_laws", "Folder of trainings and law.",
                      flag_values=values)


def run(values: flags.FlagValues) -> int:
  """The program; returns the exit code."""
  with common.clean_errors():
    steps = sorted(set(common.numbers(values.steps, "steps", int)))
    if len(steps) < 3 or steps[0] < 1:
      raise ValueError(
          f"--steps={values.steps}, expected three different numbers above 0.")
    folder = report.make_folder(values.out)
  recipe = _recipe(parts.TRAINERS[values.system])
  tokens_per_step = (values.batch or recipe.batch) * recipe.length
  points = []
  for num in steps:
    code = _train(values, folder, num, folder / str(steps[0]))
    if code:
      return code
    points.append({"tokens": num * tokens_per_step, "tokens_per_call": measured(
        folder / str(num) / values.system / loop.LOG_NAME)})
  found = law_of(points, ceiling=1 + recipe.judged_depth)
  with common.clean_errors():
    report.write_json(folder / "draft_laws.json", report.card(
        common.flags_of(values), points=points, **found))
    report.write_text(folder / "draft_laws.md", text(points, found))
  print(text(points, found))
  return 0


def _train(values, folder, num_steps, first) -> int:
  """One training; the target's texts are written in the first folder."""
  own = report.make_folder(folder / str(num_steps))
  for path in first.glob("own_*.npy"):
    if not (own / path.name).exists():
      shutil.copy(path, own / path.name)
  arguments = [f"--system={values.system}", f"--models={values.models}",
               f"--steps={num_steps}", f"--seed={values.seed}", f"--out={own}"]
  arguments += [f"--{name}={getattr(values, name)}"
                for name in ("corpus", "batch", "own_windows")
                if getattr(values, name) is not None]
  return train.main(arguments)


def measured(log: pathlib.Path) -> float:
  """Tokens per call on held-out text, at the end of a training."""
  return [row for row in loop.read_log(log) if _MEASURE in row][-1][_MEASURE]


def law_of(points: Sequence[dict[str, float]], ceiling: float
           ) -> dict[str, Any]:
  """The law of all points, and what all but the last say of the last.

  Args:
    points: of "tokens", rising, and "tokens_per_call".
    ceiling: tokens per call that no draft can exceed.
  """
  tokens = [point["tokens"] for point in points]
  calls = [point["tokens_per_call"] for point in points]
  return {
      "law": dataclasses.asdict(scaling.fit(tokens, calls)),
      "predicted": float(scaling.fit(tokens[:-1], calls[:-1]).predict(
          tokens[-1], ceiling)),
      "measured": calls[-1]}


def text(points: Sequence[dict[str, float]], found: dict[str, Any]) -> str:
  """Points and law in markdown."""
  law = found["law"]
  table = report.markdown([{
      "training tokens": str(point["tokens"]),
      "tokens per call": report.number(point["tokens_per_call"])}
                           for point in points])
  return (f"{table}\ntokens per call = {law['slope']:.3f} * log10(tokens)"
          f" {law['intercept']:+.3f}, R2 = {law['r_squared']:.3f}; without the"
          f" last point {found['predicted']:.3f} is predicted there,"
          f" {found['measured']:.3f} was measured.\n")


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the program; `argv` without its name."""
  return common.launch(__doc__, define, run, argv)


if __name__ == "__main__":
  sys.exit(main())
