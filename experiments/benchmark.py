"""Systems x prompt files x temperatures x batch sizes, resumable.

  python -m experiments.benchmark --prompts=question.jsonl --batch=1,4

Every cell races one system against plain decoding in the same run, and is
written at once: an interrupted benchmark, started again with the same flags,
goes on where it stopped. A cell is found again only if everything that decides
its numbers is the same, from the weights to the version of JAX. A cell that
fails is recorded with its error, voids its row, and is tried again next time.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import functools
import pathlib
import sys
from typing import Any

from absl import flags
from tqdm import auto as tqdm

from experiments import cells
from experiments import common
from experiments import comparison
from experiments import tables
from spec_jax.evaluation import edits
from spec_jax.evaluation import prompts as prompts_lib
from spec_jax.evaluation import report
from spec_jax.evaluation import workload as workload_lib
from spec_jax.training import data as data_lib


def define(values: flags.FlagValues) -> None:
  """The flags of this program."""
  common.define_models(values)
  common.define_systems(values, None)
  common.define_decoding(values, ("0", "0.8"))
  flags.DEFINE_string("out", "out/benchmark", "Folder of the cells, the table"
                      " and the plot.", flag_values=values)
  flags.DEFINE_list(
      "prompts", [], "Prompt files: Spec-Bench or HumanEval jsonl, or text;"
      " default: the held-out prompts of the bundle. The name"
      f" {edits.NAME!r} stands for repeated edits of held-out files of the"
      " standard library.", flag_values=values)
  flags.DEFINE_integer("num_prompts", 0, "Prompts of each file; 0: all.",
                       lower_bound=0, flag_values=values)
  flags.DEFINE_integer("samples", 1, "Rows of each prompt, next to each other:"
                       " with an equal --batch a batch is the samples of one"
                       " prompt.", lower_bound=1, flag_values=values)
  flags.DEFINE_list("batch", ["1"], "Rows decoded at once, one or more sizes.",
                    flag_values=values)
  define_cells(values)


def define_cells(values: flags.FlagValues) -> None:
  """--truncate, --repeats and --audit: how a cell is measured."""
  flags.DEFINE_bool("truncate", True, "Whether contexts that are too long lose"
                    " their oldest tokens (counted in the row); else the cell"
                    " fails.", flag_values=values)
  define_timing(values)


def define_timing(values: flags.FlagValues) -> None:
  """--repeats, --audit: what `measure` asks for."""
  flags.DEFINE_integer("repeats", 3, "Timed passes per system and cell.",
                       lower_bound=1, flag_values=values)
  flags.DEFINE_bool("audit", True, "Whether to hold the acceptance against the"
                    " optimum, at temperature > 0.", flag_values=values)


def run(values: flags.FlagValues) -> int:
  """The program; exit code 1 if a cell failed."""
  temperatures = common.temperatures(values)
  with common.clean_errors():
    batches = common.numbers(values.batch, "batch", int)
    folder = report.make_folder(values.out)
    report.make_folder(folder / "cells")
  bundle = common.load_models(values)
  choices, skipped = common.choose(bundle, values.system, values.set)
  for name, reason in skipped.items():
    print(f"left out: {name}: {reason}")
  with common.clean_errors():
    files = read_files(values, bundle)
    works = [(label, workload(values, bundle, rows, batch))
             for label, rows in files.items() for batch in batches]
  rows = race_cells(values, folder, bundle, choices, works, temperatures)
  with common.clean_errors():
    tables.write_cells(
        folder, common.flags_of(values), bundle.name, rows, skipped)
  print(tables.cells_text(rows))
  failed = [row for row in rows if "error" in row]
  print(f"{len(rows) - len(failed)} of {len(rows)} cells are whole: {folder}")
  return 1 if failed else 0


def race_cells(values, folder: pathlib.Path, bundle,
               choices: Sequence[common.Choice],
               works: Sequence[tuple[str, workload_lib.Workload]],
               temperatures: Sequence[float]) -> list[dict[str, Any]]:
  """The rows of all cells, those measured earlier included.

  Args:
    values: flags of `define`: --repeats and --audit.
    folder: has a folder "cells".
    bundle: the models.
    choices: the systems.
    works: workloads by name.
    temperatures: of each workload.
  """
  baselines = {choice.baseline: choice for choice in
               common.with_baselines(bundle, choices)
               if choice.name == choice.baseline}
  common_key = {"repeats": values.repeats, "audit": values.audit,
                "environment": cells.stable_environment()}
  # Of what a system runs alone: other parts may come and go.
  models = {choice.name: cells.fingerprint(bundle, choice.params)
            for choice in choices}
  plan = [(label, work, temperature, choice) for label, work in works
          for temperature in temperatures for choice in choices]
  rows = []
  for label, work, temperature, choice in tqdm.tqdm(
      plan, desc="cells", unit="cell"):
    key = common_key | cell_key(label, work, temperature, choice) | {
        "models": models[choice.name]}
    measure_fn = functools.partial(
        measure, values, baselines[choice.baseline], choice, work, temperature)
    with common.clean_errors():
      rows.append(cells.finish(
          cell_path(folder / "cells", key), key, measure_fn))
  return rows


def read_files(values, bundle) -> dict[str, Sequence[prompts_lib.Conversation]]:
  """The prompts by file; raises ValueError."""
  files = {path: read_prompts(path, bundle) for path in values.prompts} or {
      bundle.name: read_prompts("", bundle)}
  return {path: [row for row in rows[:values.num_prompts or None]
                 for _ in range(values.samples)]
          for path, rows in files.items()}


def read_prompts(path: str, bundle) -> Sequence[prompts_lib.Conversation]:
  """A prompt file, or a workload by name, or by "" the bundle's own.

  Raises:
    ValueError: there are none, or the file is not one of prompts.
  """
  if path == edits.NAME:
    return edits.conversations(data_lib.read_corpus().heldout)
  if path:
    return prompts_lib.read(path)
  if not bundle.prompts:
    raise ValueError(f"{bundle.name} comes without prompts, expected a file:"
                     " --prompts.")
  return prompts_lib.from_texts(bundle.prompts, bundle.name)


def workload(values, bundle, rows, batch) -> workload_lib.Workload:
  """What one cell decodes; raises ValueError."""
  return workload_lib.Workload(
      rows, bundle.tokenizer, bundle.target.config.max_positions,
      values.max_new_tokens, batch, values.seed, values.truncate)


def cell_key(label, work, temperature, choice) -> dict[str, Any]:
  """What tells a cell from every other."""
  return {
      "system": choice.name, "hyper_parameters": choice.hyper,
      "prompts": str(label), "num_prompts": len(work.conversations),
      "prompts_sha256": prompts_lib.digest(work.conversations),
      "temperature": temperature, "batch": work.batch,
      "max_new_tokens": work.max_new_tokens, "seed": work.seed,
      "truncate": work.truncate}


def cell_path(folder: pathlib.Path, key: Mapping[str, Any]) -> pathlib.Path:
  """Readable, and different for different keys."""
  stem = pathlib.Path(key["prompts"]).stem
  return cells.path_of(
      folder, f"{key['system']}-{stem}-t{key['temperature']:g}"
      f"-b{key['batch']}", key)


def measure(values, baseline, choice, work, temperature) -> dict[str, Any]:
  """One cell: the system and the baseline, lap by lap."""
  pair = list({c.name: c for c in (baseline, choice)}.values())
  forwards = comparison.forwards_of(
      pair, temperature, work, with_in_turn=True)
  results = comparison.race(pair, temperature, work, values.repeats, forwards)
  result = results[choice.name]
  if values.audit and temperature > 0:
    result = comparison.with_audit(result, work)
  return result.as_dict() | {
      "baseline_clock": results[baseline.name].timing.as_dict()}


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the program; `argv` without its name."""
  return common.launch(__doc__, define, run, argv)


if __name__ == "__main__":
  sys.exit(main())
