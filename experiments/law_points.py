"""Measures the points that `experiments.draft_laws` fits."""

import functools
from typing import Any

from absl import flags
import jax

from experiments import drafter_cells
from experiments import drafter_shapes
from experiments import part_training
from experiments import parts
from spec_jax.training import loop

_MEASURE = "eval_tokens_per_call"


def systems() -> list[str]:
  """Those whose recipe judges by tokens per call."""
  return sorted(name for name in parts.TRAINERS
                if hasattr(parts.recipe_of(name), "judged_depth"))


class Lab:
  """Trains and decodes one drafter in many sizes.

  Attributes:
    ceiling: tokens per call that no draft can exceed.
  """

  def __init__(self, values: flags.FlagValues, bench: part_training.Bench):
    self._values, self._bench = values, bench
    self._recipe = parts.recipe_of(values.system)
    self.ceiling = 1 + self._recipe.judged_depth

  def of_data(self, steps: int) -> dict[str, float]:
    """Tokens per call after a training."""
    self._trained(str(steps), steps)
    batch = self._values.batch or self._recipe.batch
    return {"x": steps * batch * self._recipe.length,
            "y": self._measured(str(steps))}

  def of_capacity(self, layers: int, steps: int) -> dict[str, float]:
    """Tokens per call of a net of so many layers."""
    hyper = dict(self._recipe.hyper)
    hyper["layers"] = {**hyper.get("layers", {}), "num_layers": layers}
    title = f"{layers}_layers_{steps}"
    params = self._trained(title, steps, {"hyper": hyper})[1]
    return {"x": sum(leaf.size for leaf in jax.tree.leaves(params)),
            "y": self._measured(title), "layers": layers}

  def of_batch(self, batch: int, steps: int) -> dict[str, Any]:
    """Tokens per second at the fastest shape, for so many rows at once."""
    values, name = self._values, self._values.system
    prompts = self._bench.bundle.prompts
    if batch > len(prompts):
      raise ValueError(f"--batches: {batch}, expected at most the"
                       f" {len(prompts)} prompts of the bundle.")
    bench = self._bench.with_part(name, *self._trained(str(steps), steps))
    course = drafter_cells.Course(
        values, bench.bundle, bench.folder, batch, num_prompts=batch)
    speeds = {}
    for shape in drafter_shapes.shapes_of(name):
      if shape not in values.shape:
        continue
      row = course.cells(bench.bundle, drafter_shapes.choose(
          bench.bundle, name, shape), shape)[0]
      if "error" in row:
        raise ValueError(f"{name} as {shape}: {row['error']}")
      speeds[shape] = row["result"]["clock"]["tokens_per_second"]["median"]
    best = max(speeds, key=speeds.get)
    return {"x": batch, "y": speeds[best], "shape": best, "speeds": speeds}

  def _trained(self, title, steps, changes=()):
    """A part, trained in a folder of that title or found there."""
    values = self._values
    changes = dict(changes) | {"num_steps": steps} | {
        key: getattr(values, key) for key in ("batch", "own_windows")
        if getattr(values, key) is not None}
    return self._bench.fit(
        values.system, changes,
        functools.partial(part_training.progress, title), self._folder(title))

  def _folder(self, title):
    return self._bench.folder / title / self._values.system

  def _measured(self, title):
    """Tokens per call on held-out text, at the end of a training."""
    log = loop.read_log(self._folder(title) / loop.LOG_NAME)
    return [row for row in log if _MEASURE in row][-1][_MEASURE]
