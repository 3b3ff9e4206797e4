"""Decodes of one bundle's drafters: the same prompts, one cell for each."""

import functools
import pathlib
from typing import Any

from absl import flags

from experiments import benchmark
from experiments import cells
from experiments import common
from experiments import drafter_shapes
from spec_jax.evaluation import prompts as prompts_lib
from spec_jax.evaluation import report
from spec_jax.evaluation import workload as workload_lib
from spec_jax.models import bundle as bundle_lib


def define(values: flags.FlagValues) -> None:
  """--num_prompts, --shape, and those of decoding and timing."""
  flags.DEFINE_integer("num_prompts", 4, "Held-out prompts of the bundle; 0:"
                       " all.", lower_bound=0, flag_values=values)
  drafter_shapes.define(values)
  common.define_decoding(values, ("0", "0.8"))
  benchmark.define_timing(values)


class Course:
  """What every drafter has to decode, beside plain decoding."""

  def __init__(self, values: flags.FlagValues, bundle: bundle_lib.Bundle,
               folder: pathlib.Path, batch: int = 1,
               num_prompts: int | None = None):
    """The first prompts of a bundle.

    Args:
      values: see `define`.
      bundle: the models; parts may be added later, see `cell`.
      folder: exists; cells are kept below it.
      batch: rows decoded at once.
      num_prompts: in place of the flag.
    """
    self._temperatures = common.temperatures(values)
    self._values, self._folder = values, report.make_folder(folder / "cells")
    (self._baseline,), _ = common.choose(bundle, [common.BASELINE], ())
    prompts = prompts_lib.from_texts(bundle.prompts, bundle.name)
    self._label = bundle.name
    self._work = workload_lib.Workload(
        prompts[:num_prompts or values.num_prompts or None], bundle.tokenizer,
        bundle.target.config.max_positions, values.max_new_tokens, batch,
        values.seed, truncate=True)

  def cells(self, bundle: bundle_lib.Bundle, choice: common.Choice, shape: str,
            **more: Any) -> list[dict[str, Any]]:
    """A row with "key" and "result" or "error" for each temperature.

    Args:
      bundle: with the parts of the drafter.
      choice: the system.
      shape: of its drafts.
      **more: goes into the key and tells the cell from others.
    """
    return [self._cell(bundle, choice, t, {"shape": shape, **more})
            for t in self._temperatures]

  def _cell(self, bundle, choice, temperature, more):
    values, baseline = self._values, self._baseline
    if choice.baseline != baseline.name:
      baseline = common.baseline_of(bundle, choice)
    key = benchmark.cell_key(self._label, self._work, temperature, choice) | {
        "models": cells.fingerprint(bundle, choice.params),
        "repeats": values.repeats, "audit": values.audit,
        "environment": cells.stable_environment(), **more}
    stem = "-".join([choice.name, *(str(v) for v in more.values() if isinstance(
        v, (str, int))), f"t{temperature:g}", f"b{self._work.batch}"])
    return cells.finish(
        cells.path_of(self._folder, stem, key), key, functools.partial(
            benchmark.measure, values, baseline, choice, self._work,
            temperature))
