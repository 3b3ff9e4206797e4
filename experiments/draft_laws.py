"""Fits the three log-linear laws of a drafter to measurements.

  python -m experiments.draft_laws --system=scylla --steps=75,150,300,600
  python -m experiments.draft_laws --steps=300 --layers=1,2,4 --batches=1,2,4,8

Yan et al. 2025 (arXiv 2505.07858): tokens per call over the tokens of its
training (--steps), tokens per call over its parameters (--layers, each trained
for the most steps), and decoding speed over the batch (--batches, in the
fastest of the shapes), each a line over log10. A line is fitted to all points,
with its band, and to all but the largest; what the latter predicts of the
largest is the test of the law. Trainings that were finished before are not
repeated.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import sys
from typing import Any

from absl import flags
from absl import logging

from experiments import benchmark
from experiments import common
from experiments import drafter_shapes
from experiments import law_points
from experiments import part_training
from spec_jax.evaluation import curves
from spec_jax.evaluation import report
from theory import scaling


def define(values: flags.FlagValues) -> None:
  """The flags of this program."""
  flags.DEFINE_enum("system", "scylla", law_points.systems(), "Whose part is"
                    " trained.", flag_values=values)
  flags.DEFINE_list("steps", ["75", "150", "300", "600"], "Optimiser steps of"
                    " each training; the law of data needs three different"
                    " numbers.", flag_values=values)
  flags.DEFINE_list("layers", [], "Layers of the net, at least three different"
                    " numbers: the law of capacity.", flag_values=values)
  flags.DEFINE_list("batches", [], "Rows decoded at once, at least three"
                    " different numbers: the law of speed.",
                    flag_values=values)
  part_training.define(values)
  flags.DEFINE_integer("batch", None, "Windows per step; default: the"
                       " recipe's.", lower_bound=1, flag_values=values)
  flags.DEFINE_integer("own_windows", None, "Windows of the target's own text;"
                       " default: the recipe's.", lower_bound=2,
                       flag_values=values)
  drafter_shapes.define(values)
  common.define_decoding(values, ("0",))
  benchmark.define_timing(values)
  flags.DEFINE_string("out", "out/draft_laws", "Folder of trainings, laws and"
                      " plot.", flag_values=values)


def run(values: flags.FlagValues) -> int:
  """The program; returns the exit code."""
  logging.set_verbosity(logging.WARNING)  # Orbax tells about every file.
  with common.clean_errors():
    steps, layers, batches = (
        sizes(values, flag) for flag in ("steps", "layers", "batches"))
    if not steps:
      raise ValueError("--steps is empty, expected at least one number.")
    if len(common.temperatures(values)) != 1:
      raise ValueError(f"--temperature={values.temperature}, expected one.")
    bench = part_training.of_flags(values)
  lab = law_points.Lab(values, bench)
  points = {}
  if len(steps) > 1:
    points["data"] = [lab.of_data(n) for n in steps]
  if layers:
    points["capacity"] = [lab.of_capacity(n, steps[-1]) for n in layers]
  if batches:
    points["batch"] = [lab.of_batch(n, steps[-1]) for n in batches]
  found = {law: law_of(rows, ceiling=None if law == "batch" else lab.ceiling)
           for law, rows in points.items()}
  with common.clean_errors():
    report.write_json(bench.folder / "draft_laws.json", report.card(
        common.flags_of(values), points=points, laws=found))
    report.write_text(bench.folder / "draft_laws.md", text(points, found))
    report.write_bytes(bench.folder / "draft_laws.png", picture(points))
  print(text(points, found))
  return 0


def sizes(values: flags.FlagValues, flag: str) -> list[int]:
  """One axis, rising; raises ValueError for too few points."""
  given = getattr(values, flag)
  found = sorted(set(common.numbers(given, flag, int))) if given else []
  # One number of steps trains what the other laws ask for.
  is_enough = len(found) >= 3 or flag == "steps" and len(found) == 1
  if found and (found[0] < 1 or not is_enough):
    raise ValueError(
        f"--{flag}={given}, expected three different numbers above 0.")
  return found


def law_of(points: Sequence[Mapping[str, float]], ceiling: float | None
           ) -> dict[str, Any]:
  """The law of all points, and what all but the last say of the last.

  Args:
    points: of "x", rising, and "y".
    ceiling: that no y can exceed, None for none.
  """
  x, y = ([point[key] for point in points] for key in ("x", "y"))
  limit = {} if ceiling is None else {"ceiling": ceiling}
  line = scaling.fit(x, y)
  return {
      "law": dataclasses.asdict(line),
      "band": [bound.tolist() for bound in line.band(x)],
      "predicted": float(scaling.fit(x[:-1], y[:-1]).predict(x[-1], **limit)),
      "measured": y[-1]}


def text(points: Mapping[str, Sequence[Mapping[str, float]]],
         found: Mapping[str, Mapping[str, Any]]) -> str:
  """Points and laws in markdown."""
  sections = []
  for name, rows in points.items():
    x_name, y_name = scaling.LAWS[name]
    law = found[name]["law"]
    table = report.markdown([
        {x_name: f"{row['x']:.0f}", y_name: report.number(row["y"])} | (
            {"shape": row["shape"]} if "shape" in row else {})
        for row in rows])
    sections.append(
        f"## {name}\n\n{table}\n{y_name} = {law['slope']:.3f} * log10({x_name})"
        f" {law['intercept']:+.3f}, R2 = {law['r_squared']:.3f}; without the"
        f" last point {found[name]['predicted']:.3f} is predicted there,"
        f" {found[name]['measured']:.3f} was measured.\n")
  return "\n".join(sections)


def picture(points: Mapping[str, Sequence[Mapping[str, float]]]) -> bytes:
  """A PNG: points, line and band of each law."""
  panels = []
  for name, rows in points.items():
    x, y = ([row[key] for row in rows] for key in ("x", "y"))
    line = scaling.fit(x, y)
    panels.append(curves.Law(name, *scaling.LAWS[name], x, y,
                             line.predict(x), *line.band(x)))
  return curves.laws(panels)


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the program; `argv` without its name."""
  return common.launch(__doc__, define, run, argv)


if __name__ == "__main__":
  sys.exit(main())
