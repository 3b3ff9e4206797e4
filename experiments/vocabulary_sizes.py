"""What a smaller draft vocabulary costs in acceptance, and what it saves.

  python -m experiments.vocabulary_sizes --sizes=64,128,256,512,1024

drafts with EAGLE-2's net of a bundle over fewer and fewer tokens, chosen by
their frequency in the corpus (fr_spec) and in the target's own text
(vocab_trim); the whole vocabulary is eagle_2 itself. The text is the target's
in every case. Resumes.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import dataclasses
import sys
from typing import Any

from absl import flags
import numpy as np

from experiments import common
from experiments import drafter_cells
from experiments import drafter_shapes
from experiments import part_training
from experiments import parts
from experiments import tables
from spec_jax.evaluation import curves
from spec_jax.evaluation import report
from spec_jax.models import feature_model
from spec_jax.training import vocabulary

WHOLE, TRIMMED = "eagle_2", ("fr_spec", "vocab_trim")
_LEGEND = """\
covers: share of the target's own held-out text that the tokens make up; draft:
milliseconds of a round's drafting, timed alone; the rest as of
experiments.benchmark.
"""


def define(values: flags.FlagValues) -> None:
  """The flags of this program."""
  flags.DEFINE_list("sizes", ["64", "128", "256", "512", "1024"], "Tokens of"
                    " the draft's head.", flag_values=values)
  part_training.define(values)
  flags.DEFINE_integer("own_windows", 64, "Windows of the target's own text to"
                       " count.", lower_bound=2, flag_values=values)
  drafter_cells.define(values)
  flags.DEFINE_string("out", "out/vocabulary_sizes", "Folder of cells, table"
                      " and plot.", flag_values=values)


def run(values: flags.FlagValues) -> int:
  """The program; exit code 1 if a cell failed."""
  with common.clean_errors():
    bench = part_training.of_flags(values)
    plan = cases(values, bench)
    course = drafter_cells.Course(values, bench.bundle, bench.folder)
  judged = own(values, bench, bench.heldout)
  rows = []
  for name, size in plan:
    ids, there = part(values, bench, name, size)
    for shape in values.shape:
      rows += course.cells(
          there.bundle, drafter_shapes.build(
              there.bundle, name,
              drafter_shapes.hyper_parameters(WHOLE, shape)),
          shape, size=size, covers=vocabulary.coverage(judged, ids))
  write(bench.folder, common.flags_of(values), rows)
  print(text(rows))
  return 1 if any("error" in row for row in rows) else 0


def cases(values: flags.FlagValues, bench: part_training.Bench
          ) -> list[tuple[str, int]]:
  """System and size; raises ValueError."""
  bundle, found = bench.bundle, common.numbers(values.sizes, "sizes", int)
  vocab_size = bundle.target.vocab_size
  if not 1 < min(found) <= max(found) < vocab_size:
    raise ValueError(f"--sizes={values.sizes}, expected numbers above 1 and"
                     f" below the vocabulary's {vocab_size}.")
  if WHOLE not in bundle.heads:
    raise ValueError(f"--models={values.models} has no part {WHOLE!r}, whose"
                     " head is trimmed here; it has"
                     f" {sorted(bundle.heads) or 'none'}.")
  return [(name, size) for name in TRIMMED for size in sorted(found)] + [
      (WHOLE, vocab_size)]


def own(values, bench, stream) -> np.ndarray:
  """The target's own part of its texts."""
  recipe = dataclasses.replace(
      parts.recipe_of("vocab_trim"), own_windows=values.own_windows)
  found = bench.own_text(recipe, stream)
  return found[:, parts.begun(recipe.length):]


def part(values, bench, name, size):
  """The tokens `i32[size]`, and the bench whose bundle knows them."""
  if name == WHOLE:
    return np.arange(size), bench
  trainer = parts.TRAINERS[name]
  recipe = dataclasses.replace(
      parts.recipe_of(name), size=size, own_windows=values.own_windows)
  hyper, params = trainer.func(recipe, bench.run(
      name, {}, lambda _: contextlib.nullcontext()))
  return params[feature_model.TOKEN_IDS], bench.with_part(name, hyper, params)


def line(row: Mapping[str, Any]) -> dict[str, str]:
  """One line of the table."""
  key = row["key"]
  if "error" in row:
    shown = tables.void_line(key["system"], row["error"])
    costs = "-"
  else:
    shown = tables.line(row["result"])
    costs = report.number(1e3 * row["result"]["forward_costs"]["draft"])
  return {"drafter": f"{key['system']}, {key['shape']}",
          "tokens": str(key["size"]), "covers": report.number(key["covers"], 3),
          "draft": costs} | {
              name: shown[name] for name in (
                  "tokens/call", "acceptance", "speed-up")}


def text(rows: Sequence[Mapping[str, Any]]) -> str:
  """One table for each temperature."""
  return f"{tables.temperatures_text(rows, line)}\n{_LEGEND}"


def write(folder, given, rows) -> None:
  """JSON, markdown and PNG."""
  report.write_json(folder / "vocabulary_sizes.json",
                    report.card(given, rows=rows))
  report.write_text(folder / "vocabulary_sizes.md", text(rows))
  lines = {}
  for row in rows:
    if "result" in row:
      key, result = row["key"], row["result"]
      names = TRIMMED if key["system"] == WHOLE else (key["system"],)
      for name in names:
        lines.setdefault(f"T={key['temperature']:g}", {}).setdefault(
            f"{name}, {key['shape']}", []).append(
                (key["size"], result["counts"]["block_efficiency"],
                 1e3 * result["forward_costs"]["draft"]))
  if lines:
    report.write_bytes(folder / "vocabulary_sizes.png", curves.over_size(
        lines, "tokens of the draft's head",
        ("tokens per call", "ms of drafting")))


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the program; `argv` without its name."""
  return common.launch(__doc__, define, run, argv)


if __name__ == "__main__":
  sys.exit(main())
