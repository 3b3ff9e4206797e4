"""Ranks the systems that need no training, and asks whether papers agree.

  python -m experiments.ranking --num_prompts=8 --repeats=3

Systems that retrieve or draft for themselves, with plain decoding and an
ordinary draft model as references, on three workloads: the held-out prompts of
the bundle ("code"), Spec-Bench ("chat") and repeated edits of one file
("edits"). The cells are those of experiments.benchmark: written at once, found
again. Beside the ranks stand the orders that papers claim (experiments.claims),
pair by pair: agrees, disagrees, or within noise. Speed-ups are those of this
machine; claims about them were made on others.

Stores come from --datastore and --dense_store, or are built, small, in --out.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import os
import pathlib
import sys
from typing import Any

from absl import flags

from experiments import benchmark
from experiments import build_datastore
from experiments import build_dense_store
from experiments import claims
from experiments import common
from experiments import corpus
from experiments import ranking_tables
from spec_jax import systems
from spec_jax.evaluation import edits
from spec_jax.evaluation import report

_REFERENCES = (common.BASELINE, "speculative_sampling")
_FAMILIES = ("retrieval", "self_speculative")
# They draft from the other rows of a batch, and here a batch is one row.
_OF_MANY = ("multi_sample",)
_SPEC_BENCH = "../shared/data/spec_bench_question.jsonl"


def define(values: flags.FlagValues) -> None:
  """The flags of this program."""
  common.define_models(values)
  common.define_systems(
      values, None, "the references and all of the families"
      f" {' and '.join(_FAMILIES)} that the models allow")
  common.define_decoding(values, ("0", "0.8"))
  benchmark.define_cells(values)
  flags.DEFINE_string("out", "out/ranking", "Folder of the cells, the tables"
                      " and the plot.", flag_values=values)
  flags.DEFINE_integer("num_prompts", 8, "Prompts of each workload, spread over"
                       " it; 0: all.", lower_bound=0, flag_values=values)
  flags.DEFINE_string("spec_bench", _SPEC_BENCH, "Spec-Bench's question.jsonl;"
                      " empty leaves this workload out.", flag_values=values)
  flags.DEFINE_string("datastore", "", "Folder of experiments.build_datastore.",
                      flag_values=values)
  flags.DEFINE_string("dense_store", "", "Folder of"
                      " experiments.build_dense_store.", flag_values=values)
  flags.DEFINE_bool("build_stores", True, "Whether to build the stores that are"
                    " not given; else what needs them is left out.",
                    flag_values=values)
  flags.DEFINE_integer("store_tokens", 2_000_000, "Of a datastore built here.",
                       lower_bound=1, flag_values=values)
  flags.DEFINE_integer("dense_tokens", 100_000, "Of a dense store built here.",
                       lower_bound=2, flag_values=values)
  corpus.define(values)


def run(values: flags.FlagValues) -> int:
  """The program; exit code 1 if a cell failed."""
  temperatures = common.temperatures(values)
  with common.clean_errors():
    folder = report.make_folder(values.out)
    report.make_folder(folder / "cells")
  bundle = common.load_models(values)
  with common.clean_errors():
    works = workloads(values, bundle)
    given = [name for name in values.system or () if name != "all"]
    names = tuple(dict.fromkeys((common.BASELINE, *given))) if given else None
    default = default_names()
    overrides = stores(
        values, bundle, folder, names or default) + values.set
  choices, skipped = common.choose(bundle, names, overrides, default)
  for name, reason in skipped.items():
    print(f"left out: {name}: {reason}")
  rows = benchmark.race_cells(
      values, folder, bundle, choices, [work[1:] for work in works],
      temperatures)
  kinds = {label: kind for kind, label, _ in works}
  with common.clean_errors():
    text = ranking_tables.write(
        folder, common.flags_of(values), bundle.name, groups(rows, kinds),
        claims.CLAIMS, rows, skipped)
  print(text)
  failed = [row for row in rows if "error" in row]
  print(f"{len(rows) - len(failed)} of {len(rows)} cells are whole: {folder}")
  return 1 if failed else 0


def default_names() -> tuple[str, ...]:
  """The references, then the systems that are ranked."""
  return _REFERENCES + tuple(
      name for name in systems.names()
      if systems.info(name).family in _FAMILIES and name not in _OF_MANY)


def workloads(values, bundle) -> list[tuple[str, str, Any]]:
  """Kind, label and workload; raises ValueError."""
  sources = [("code", bundle.name, "")]
  if values.spec_bench:
    if not pathlib.Path(values.spec_bench).is_file():
      raise ValueError(f"--spec_bench={values.spec_bench}: no such file,"
                       " expected Spec-Bench's question.jsonl; an empty"
                       " --spec_bench= leaves this workload out.")
    sources.append(("chat", values.spec_bench, values.spec_bench))
  sources.append(("edits", edits.NAME, edits.NAME))
  found = []
  for kind, label, path in sources:
    rows = spread(benchmark.read_prompts(path, bundle), values.num_prompts)
    found.append((kind, label, benchmark.workload(values, bundle, rows, 1)))
  return found


def spread(rows: Sequence[Any], count: int) -> Sequence[Any]:
  """`count` rows at equal distances, so that a file's parts all have a say."""
  if not count or count >= len(rows):
    return rows
  return tuple(rows[i * len(rows) // count] for i in range(count))


def stores(values, bundle, folder: pathlib.Path, names: Sequence[str]
           ) -> list[str]:
  """What --set would say of the stores; builds them; raises ValueError."""
  builders = {
      "datastore": lambda path: build_datastore.build(
          path, bundle, corpus.of_flags(values, shuffled=True),
          values.store_tokens),
      "dense_store": lambda path: build_dense_store.build(
          path, bundle, corpus.of_flags(values, shuffled=True),
          values.dense_tokens)}
  found = []
  for key, build_fn in builders.items():
    takers = [name for name in names
              if key in systems.hyper_parameters(name)]
    path: str | os.PathLike = getattr(values, key)
    if takers and not path and values.build_stores:
      path = folder / key
      build_fn(path)
    if path:
      found += [f"{name}.{key}={path}" for name in takers]
  return found


def groups(rows: Sequence[Mapping[str, Any]], kinds: Mapping[str, str]
           ) -> list[tuple[str, float, dict[str, Any]]]:
  """Kind of workload, temperature, and the whole records by system."""
  found = {}
  for row in rows:
    key = row["key"]
    group = found.setdefault((kinds[key["prompts"]], key["temperature"]), {})
    if "result" in row:
      group[key["system"]] = row["result"]
  return [(*key, records) for key, records in found.items()]


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the program; `argv` without its name."""
  return common.launch(__doc__, define, run, argv)


if __name__ == "__main__":
  sys.exit(main())
