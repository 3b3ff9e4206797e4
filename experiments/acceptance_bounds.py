"""Acceptance of every rule beside the optimum, by draws, number, temperature.

  python -m experiments.acceptance_bounds                     # the shipped pair
  python -m experiments.acceptance_bounds --family=log_normal,zipf
  python -m experiments.acceptance_bounds --p=p.npy --q=q.npy

Streams over positions, a chunk at a time. Every chunk is written when it is
done: an interrupted run, started again with the same flags, goes on there.
Acceptance is the rule's closed form where it has one, else enumerated, else
the mean over drawn drafts of the mass that the rule puts on them.
"""

from collections.abc import Sequence
import functools
import pathlib
import sys

from absl import flags
import jax
import jax.numpy as jnp
import numpy as np
from tqdm import auto as tqdm

from experiments import bounds_table
from experiments import cells
from experiments import common
from experiments import laws
from spec_jax import verifiers
from spec_jax.core import types
from spec_jax.evaluation import clock
from spec_jax.evaluation import prompts as prompts_lib
from spec_jax.evaluation import report
import theory

_TIMED = 20  # Evaluations per cost.


def define(values: flags.FlagValues) -> None:
  """The flags of this program."""
  common.define_models(values)
  flags.DEFINE_string("p", None, "File of target laws, [V] or [n, V], .npy or"
                      " .json; with --q, in place of models.",
                      flag_values=values)
  flags.DEFINE_string("q", None, "File of draft laws, shaped like --p.",
                      flag_values=values)
  flags.DEFINE_list("family", [], "Parametric families in place of models:"
                    f" {', '.join(laws.FAMILIES)}.", flag_values=values)
  flags.DEFINE_integer("vocab_size", 32_000, "Of the families.", lower_bound=2,
                       flag_values=values)
  flags.DEFINE_string("draft", "draft", "Which of the bundle's models drafts.",
                      flag_values=values)
  flags.DEFINE_string("prompts", None, "Text whose positions are used; default:"
                      " the held-out prompts of the bundle.",
                      flag_values=values)
  flags.DEFINE_integer("num_positions", 64, "Of each family, or of the text.",
                       lower_bound=1, flag_values=values)
  flags.DEFINE_list("rule", [], "Rules; default: all exact ones. Known:"
                    f" {', '.join(verifiers.names())}.", flag_values=values)
  flags.DEFINE_list("draw", list(types.RANDOM_DRAWS), "How drafts are drawn.",
                    flag_values=values)
  flags.DEFINE_list("num_drafts", ["1", "2", "4", "8"], "Drafts per position.",
                    flag_values=values)
  flags.DEFINE_list("temperature", ["1", "0.6"], "Of models and families.",
                    flag_values=values)
  flags.DEFINE_integer("num_samples", 16, "Tuples of drafts per position, where"
                       " a rule has no closed form.", lower_bound=2,
                       flag_values=values)
  common.define_seed(values, "Of families and draws.")
  flags.DEFINE_string("out", "out/acceptance_bounds", "Folder of the chunks,"
                      " the table and the plot.", flag_values=values)


def run(values: flags.FlagValues) -> int:
  """The program; exit code 1 if a chunk failed."""
  with common.clean_errors():
    temperatures = common.numbers(values.temperature, "temperature")
    if min(temperatures) <= 0:
      raise ValueError(f"--temperature={min(temperatures):g}: at temperature 0"
                       " every exact rule emits the argmax; expected > 0.")
    folder = report.make_folder(values.out)
    report.make_folder(folder / "chunks")
    plan = cases(values)
    sources = read_sources(values)
  rows, failed = [], 0
  for source in sources:
    for temperature in temperatures if source.is_logits else [1.0]:
      chunks = tqdm.trange(source.num_chunks, unit="chunk",
                           desc=f"{source.label}, T={temperature:g}")
      done = [chunk_row(values, folder, source, temperature, plan, chunk)
              for chunk in chunks]
      failed += sum("error" in row for row in done)
      rows.append(bounds_table.summary(
          source.label, temperature,
          [row["result"] for row in done if "result" in row]))
  with common.clean_errors():
    bounds_table.write(folder, common.flags_of(values), rows)
  print(bounds_table.text(rows))
  print(f"{failed} chunks failed: {folder}" if failed else f"written: {folder}")
  return 1 if failed else 0


def cases(values) -> list[tuple[str, str, int]]:
  """(rule, draw, number of drafts) to evaluate; raises ValueError."""
  names = values.rule or [n for n in verifiers.names()
                          if verifiers.info(n).exact]
  for draw in values.draw:
    if draw not in types.RANDOM_DRAWS:
      raise ValueError(f"--draw={draw}, expected one or more of"
                       f" {types.RANDOM_DRAWS}.")
  found = []
  for draw in values.draw:
    for num_drafts in common.numbers(values.num_drafts, "num_drafts", int):
      if num_drafts < 1:
        raise ValueError(f"--num_drafts={num_drafts}, expected at least 1.")
      for name in names:
        info = verifiers.info(name)
        if draw in info.draws and num_drafts <= (info.max_drafts or num_drafts):
          found.append((name, draw, num_drafts))
  if not found:
    raise ValueError(f"--rule={','.join(names)} takes none of the draws"
                     f" {values.draw} with {values.num_drafts} drafts.")
  return found


def read_sources(values) -> list[laws.Source]:
  """What the flags ask for; raises ValueError."""
  if (values.p is None) != (values.q is None):
    raise ValueError("--p and --q belong together, only one was given.")
  if values.p is not None:
    return [laws.from_files(values.p, values.q)]
  if values.family:
    return [laws.from_family(name, values.vocab_size, values.num_positions,
                             values.seed) for name in values.family]
  bundle = common.load_models(values)
  if values.prompts is None:
    texts = prompts_lib.from_texts(bundle.prompts, bundle.name)
    label = bundle.name
  else:
    texts = prompts_lib.read(values.prompts)
    label = f"{bundle.name}, {pathlib.Path(values.prompts).name}"
  return [laws.from_models(bundle, values.draft, texts, label,
                           values.num_positions, cells.fingerprint(bundle))]


def chunk_row(values, folder, source, temperature, plan, chunk):
  """One chunk, measured or found."""
  key = {"source": source.key, "temperature": temperature, "chunk": chunk,
         "plan": [list(case) for case in plan], "seed": values.seed,
         "num_samples": values.num_samples}
  stem = source.label.split(",")[0].replace(" ", "_")
  path = cells.path_of(
      folder / "chunks", f"{stem}-t{temperature:g}-{chunk}", key)
  with common.clean_errors():
    return cells.finish(path, key, lambda: measure(
        *source.laws(chunk, temperature), plan, values.num_samples,
        values.seed + chunk, with_cost=chunk == 0))


def measure(p, q, plan, num_samples, seed, with_cost) -> list[dict]:
  """Per case: acceptance, its variance, the optimum; `f[n]` of a chunk."""
  rows, optima = [], {}
  for name, draw, num_drafts in plan:
    # Distinct drafts end with the support of q.
    at = np.flatnonzero((q > 0).sum(-1) >= num_drafts)
    if draw == "iid":
      at = np.arange(len(p))
    if not at.size:
      continue
    if (draw, num_drafts) not in optima:
      optima[draw, num_drafts] = np.asarray(theory.optimal_acceptance(
          p[at], q[at], num_drafts, draw), np.float64)
    found = [verifiers.acceptance(name, p[i], q[i], num_drafts, draw,
                                  num_samples=num_samples, seed=seed + i)
             for i in at.tolist()]
    rows.append({
        "rule": name, "draw": draw, "num_drafts": num_drafts,
        "acceptance": [a.value for a in found],
        "variance": [a.standard_error ** 2 for a in found],
        "method": found[0].method,
        "optimum": optima[draw, num_drafts],
        "microseconds": cost(name, p[0], q[0], num_drafts) if with_cost
                        else None})
  return rows


def cost(name, p, q, num_drafts) -> float:
  """Microseconds of the rule's law at one node, compiled; a median."""
  drafts = jnp.asarray(np.argsort(-q)[:num_drafts], jnp.int32)
  law = functools.partial(
      jax.jit(verifiers.get(name).law), jnp.asarray(p, jnp.float32),
      jnp.asarray(q, jnp.float32), drafts, jnp.ones(drafts.shape, bool))
  return 1e6 * clock.medians({name: law}, _TIMED)[name]


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the program; `argv` without its name."""
  return common.launch(__doc__, define, run, argv)


if __name__ == "__main__":
  sys.exit(main())
