"""Draft heads and feature nets on one clock: same target, data and budget.

  python -m experiments.drafter_race --minutes=10
  python -m experiments.drafter_race --minutes=0 --system=medusa_1,eagle_2

trains the part of every system for the same time, then decodes with each as a
chain and as a small tree. --minutes=0 takes the parts that the bundle has.
Everything is written at once: an interrupted race, started again with the same
flags, goes on where it stopped. The acceptance by depth is that of greedy
drafts on the target's own held-out text, as the trainers judge it.
"""

from collections.abc import Sequence
import contextlib
import functools
import shutil
import sys
import time

from absl import flags
from absl import logging
import jax
import numpy as np

from experiments import cells
from experiments import common
from experiments import drafter_cells
from experiments import drafter_shapes
from experiments import drafter_table
from experiments import part_training
from experiments import parts
from spec_jax.evaluation import report
from spec_jax.models import part_file
from spec_jax.training import loop

_PROBE_STEPS = 8


def define(values: flags.FlagValues) -> None:
  """The flags of this program."""
  part_training.define(values)
  flags.DEFINE_list("system", list(drafter_shapes.BY_SYSTEM), "Whose parts"
                    " race.", flag_values=values)
  flags.DEFINE_float("minutes", 1.0, "Of optimiser steps for each part; the"
                     " number of steps follows from a few that are timed. 0:"
                     " the parts of the bundle.", lower_bound=0.0,
                     flag_values=values)
  flags.DEFINE_integer("steps", None, "Optimiser steps instead of a time.",
                       lower_bound=1, flag_values=values)
  flags.DEFINE_integer("batch", None, "Windows per step; default: each"
                       " recipe's.", lower_bound=1, flag_values=values)
  flags.DEFINE_integer("own_windows", 256, "Windows of the target's own text"
                       " to learn from.", lower_bound=2, flag_values=values)
  drafter_cells.define(values)
  flags.DEFINE_string("out", "out/drafter_race", "Folder of trainings, cells,"
                      " table and plot.", flag_values=values)


def run(values: flags.FlagValues) -> int:
  """The program; exit code 1 if a cell failed."""
  logging.set_verbosity(logging.WARNING)  # Orbax tells about every file.
  with common.clean_errors():
    check(values)
    bench = part_training.of_flags(values)
    course = drafter_cells.Course(values, bench.bundle, bench.folder)
  rows, failed = [], 0
  for name in (n for n in drafter_shapes.BY_SYSTEM if n in values.system):
    try:
      owner = drafter_shapes.PARTS.get(name, name)
      is_present = values.minutes == 0 or owner != name
      part, bench = ((_present(bench, owner), bench) if is_present
                     else _trained(values, bench, name))
    except Exception as error:  # pylint: disable=broad-exception-caught
      print(f"void: {name}: {type(error).__name__}: {error}")
      failed += 1
      continue
    decoded = []
    for shape in drafter_shapes.shapes_of(name):
      if shape in values.shape:
        decoded += course.cells(bench.bundle, drafter_shapes.choose(
            bench.bundle, name, shape), shape)
    failed += sum("error" in row for row in decoded)
    rows.append({"system": name, "part": part, "decoded": decoded})
    with common.clean_errors():
      drafter_table.write(bench.folder, common.flags_of(values), rows)
  print(drafter_table.text(rows))
  print(f"{failed} failed: {bench.folder}" if failed
        else f"written: {bench.folder}")
  return 1 if failed else 0


def check(values: flags.FlagValues) -> None:
  """Raises ValueError for systems that are not known."""
  for name in values.system:
    if name not in drafter_shapes.BY_SYSTEM:
      raise ValueError(f"--system={name}, expected some of"
                       f" {', '.join(drafter_shapes.BY_SYSTEM)}.")


def _present(bench, name):
  """The part that the bundle has, or that was trained before."""
  if name not in bench.bundle.heads:
    raise ValueError(
        f"{bench.bundle.name} has no part {name!r}, expected one of"
        f" {sorted(bench.bundle.heads)}; --minutes=1 --system={name},... trains"
        " it.")
  part = {"parameters": _size(bench.bundle.params[name])}
  if parts.is_counted(name):
    return part
  key = {"target": bench.made_for, "system": name, "seed": bench.seed,
         "part": cells.fingerprint(bench.bundle, bench.bundle.params[name])}
  return part | _finished(
      _cell(bench, f"{name}-judged", key), key, _judge, bench, name)


def _judge(bench, name):
  """The acceptance by depth of a part that the bundle has."""
  found = bench.judged(name, report.make_folder(bench.folder / name))
  return {"judged": [{f"eval_{key}": value for key, value in found.items()}]}


def _trained(values, bench, name):
  """What is known of a training, and the bench with the trained part."""
  changes = {"own_windows": values.own_windows}
  if values.batch is not None:
    changes["batch"] = values.batch
  key = {"target": bench.made_for, "system": name,
         "minutes": values.minutes, "steps": values.steps,
         "seed": values.seed, "own_temperatures": bench.own_temperatures,
         **changes}
  file = bench.folder / part_file.FOLDER / f"{name}.safetensors"
  path = _cell(bench, f"{name}-training", key)
  if not file.exists():
    path.unlink(missing_ok=True)
  row = _finished(
      path, key, _count if parts.is_counted(name) else functools.partial(
          _fit, values, key, changes), bench, name)
  hyper, params = part_file.read(file, bench.made_for)
  return row, bench.with_part(name, hyper, params)


def _cell(bench, stem, key):
  return cells.path_of(report.make_folder(bench.folder / "cells"), stem, key)


def _finished(path, key, measure_fn, *args):
  """A cell's result; raises ValueError with its error."""
  row = cells.finish(path, key, functools.partial(measure_fn, *args))
  if "error" in row:
    raise ValueError(row["error"])
  return row["result"]


def _count(bench, name):
  """Writes a part that no steps are taken for."""
  hyper, params = bench.fit(name, {}, contextlib.nullcontext)
  bench.write(bench.folder, name, hyper, params)
  return {"parameters": _size(params)}


def _fit(values, key, changes, bench, name):
  """Trains a part within the budget and writes it."""
  # A cell of its own: a training that goes on takes as many steps as planned.
  probed = lambda: _finished(_cell(bench, f"{name}-probe", key), key, _probe,
                             changes, bench, name)["seconds_per_step"]
  steps = values.steps or max(2, int(60 * values.minutes / probed()))
  laps = Laps(name)
  hyper, params = bench.fit(name, changes | {"num_steps": steps}, laps)
  bench.write(bench.folder, name, hyper, params)
  log = loop.read_log(bench.folder / name / loop.LOG_NAME)
  judged = [row for row in log if any(k.startswith("eval_") for k in row)]
  return {"parameters": _size(params), "steps": steps,
          "seconds_per_step": laps.seconds_per_step or probed(),
          "tokens_per_step": laps.tokens_per_step,
          "machine": cells.stable_environment(), "judged": judged}


def _probe(changes, bench, name):
  """The time of a step, of a few that are thrown away."""
  scratch, laps = bench.folder / "probe" / name, Laps()
  shutil.rmtree(scratch, ignore_errors=True)
  bench.fit(name, changes | {"num_steps": _PROBE_STEPS}, laps, scratch)
  shutil.rmtree(scratch)
  return {"seconds_per_step": laps.seconds_per_step}


class Laps:
  """`progress` of a training that takes the time of its steps."""

  def __init__(self, title: str | None = None):
    self._title, self._seconds = title, []
    self.tokens_per_step: int | None = None

  @contextlib.contextmanager
  def __call__(self, num_steps, tokens):
    self.tokens_per_step, before = tokens, time.monotonic()
    with (part_training.progress(self._title, num_steps, tokens) if self._title
          else contextlib.nullcontext()) as show:
      def on_step(step, row):
        nonlocal before
        now = time.monotonic()
        self._seconds.append(now - before)
        before = now
        if show:
          show(step, row)
      yield on_step

  @property
  def seconds_per_step(self) -> float | None:
    """First quartile: some steps compile, up to half of a few are judged."""
    seconds = self._seconds[2:] or self._seconds
    return float(np.percentile(seconds, 25)) if seconds else None


def _size(params):
  return sum(leaf.size for leaf in jax.tree.leaves(params))


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the program; `argv` without its name."""
  return common.launch(__doc__, define, run, argv)


if __name__ == "__main__":
  sys.exit(main())
