"""Where a round's time goes, predicted against measured, and what pays.

  python -m experiments.profile_round
  python -m experiments.profile_round --system=all --batch=1,8

Times the stages of a round (draft, target, verify, commit, update,
bookkeeping) alone and the whole round as the executor runs it, in turn;
predicts from the forwards alone. Then measures forwards over batch and
length, and draws where drafting a chain breaks even: the predicted speed-up
over batch, depth and acceptance, with the measured systems in it.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import itertools
import sys
import time
from typing import Any

from absl import flags
import jax
import numpy as np
from tqdm import auto as tqdm

from experiments import common
from spec_jax import api
from spec_jax.core import keys as keys_lib
from spec_jax.evaluation import costs as costs_lib
from spec_jax.evaluation import counts as counts_lib
from spec_jax.evaluation import profile_plots
from spec_jax.evaluation import report
from spec_jax.evaluation import stages
from theory import latency

_SHOWN = (common.BASELINE, "speculative_sampling", "prompt_lookup")
_TIMERS = {"wall": time.perf_counter, "cpu": time.process_time}
_ACCEPTANCES = np.linspace(0.02, 0.98, 25)


def define(values: flags.FlagValues) -> None:
  """The flags of this program."""
  common.define_models(values)
  common.define_systems(values, None, ", ".join(_SHOWN))
  common.define_decoding(values, ("0", "0.8"), 64)
  flags.DEFINE_string("out", "out/profile", "Folder of card, table and plots.",
                      flag_values=values)
  flags.DEFINE_list("batch", ["1"], "Rows decoded at once, one or more sizes.",
                    flag_values=values)
  flags.DEFINE_integer("prompt_tokens", 128, "Length of each prompt.",
                       lower_bound=1, flag_values=values)
  flags.DEFINE_integer("samples", 15, "Of each time.", lower_bound=1,
                       flag_values=values)
  flags.DEFINE_enum("timer", "wall", sorted(_TIMERS), "'cpu' counts processor"
                    " seconds of this process: other work on a CPU stays out."
                    " Means nothing on an accelerator.", flag_values=values)
  flags.DEFINE_integer("max_depth", 8, "Deepest chain of the break-even plot;"
                       " 0 leaves it out.", lower_bound=0, flag_values=values)
  flags.DEFINE_list("plot_batch", ["1", "4", "16"], "Batch sizes of the"
                    " break-even plot.", flag_values=values)


def run(values: flags.FlagValues) -> int:
  """The program; returns the exit code."""
  temperatures = common.temperatures(values)
  with common.clean_errors():
    batches = common.numbers(values.batch, "batch", int)
    plot_batches = common.numbers(values.plot_batch, "plot_batch", int)
    if min(batches + plot_batches) < 1:
      raise ValueError(f"--batch={batches} --plot_batch={plot_batches},"
                       " expected sizes >= 1.")
    folder = report.make_folder(values.out)
  bundle = common.load_models(values)
  names = values.system
  if names and names != ["all"]:
    names = [common.BASELINE, *names]
  choices, skipped = common.choose(bundle, names, values.set, _SHOWN)
  choices = common.with_baselines(bundle, choices)
  rows = []
  for temperature, batch in itertools.product(temperatures, batches):
    rows += measure(values, bundle, choices, temperature, batch)
  grid = {}
  if values.max_depth and "draft" in bundle.models:
    grid = break_even(values, bundle, plot_batches)
  with common.clean_errors():
    write(folder, values, bundle, rows, grid, skipped)
  print(text(rows))
  print(f"card, table and plots: {folder}")
  return 0


def measure(values, bundle, choices, temperature, batch
            ) -> list[dict[str, Any]]:
  """One row per system, at one temperature and batch size."""
  with common.clean_errors():
    if not bundle.prompts:
      raise ValueError(f"{bundle.name} comes without prompts; use a bundle"
                       " with some: --bundle.")
    encoded = [bundle.tokenizer.encode(prompt)[-values.prompt_tokens:]
               for prompt in itertools.islice(
                   itertools.cycle(bundle.prompts), batch)]
    prompts = api.make_prompts(
        encoded, bundle.target.config.max_positions, values.max_new_tokens)
  keys = keys_lib.row_keys(values.seed, batch)
  cases, first = {}, {}
  for choice in choices:
    system = choice.at(temperature)
    given = (system, choice.params, prompts, keys, values.max_new_tokens)
    executor = choice.executor
    cases[choice.name] = (*given[:2], executor.start(*given), executor)
    first[choice.name] = first_decode(choice.executor, given)
  profiler = stages.Profiler(cases, _TIMERS[values.timer])
  for _ in tqdm.trange(values.samples, unit="sample",
                       desc=f"T={temperature:g}, batch {batch}"):
    profiler.sample()
  profiles = profiler.take()
  return [row_of(c, temperature, batch, profiles, *first[c.name])
          for c in choices]


def first_decode(executor, given) -> tuple[counts_lib.Stats, float]:
  """Counts of a decode, and by how many seconds the first took longer."""
  seconds = []
  for _ in range(2):
    begin = time.perf_counter()
    result = jax.block_until_ready(executor.run(*given))
    seconds.append(time.perf_counter() - begin)
  return counts_lib.stats(result.counts), seconds[0] - seconds[1]


def row_of(choice, temperature, batch, profiles, stats, compile_seconds
           ) -> dict[str, Any]:
  """What the card holds of one system."""
  profile = profiles[choice.name]
  baseline, tau = profiles[choice.baseline], stats.block_efficiency
  return {
      "system": choice.name, "hyper_parameters": choice.hyper,
      "temperature": temperature, "batch": batch,
      "depth": choice.system.drafter.depth,
      "is_chain": getattr(choice.system.drafter, "max_children", 1) == 1,
      "compile_seconds": compile_seconds, "counts": stats.as_dict(),
      **profile.as_dict(),
      "predicted_speedup": costs_lib.predicted_speedup(
          tau, profile.forwards, baseline.forwards),
      "measured_speedup": tau * baseline.measured / profile.measured}


def break_even(values, bundle, batches) -> dict[str, Any]:
  """Measured forwards, and the speed-ups they allow a chain."""
  depths = list(range(1, values.max_depth + 1))
  timer, prefix = _TIMERS[values.timer], values.prompt_tokens
  sizes = [(batch, tokens) for batch in batches
           for tokens in range(1, values.max_depth + 2)]
  target = costs_lib.grid(bundle.target, bundle.params["target"], sizes,
                          prefix, values.samples, timer)
  draft = costs_lib.grid(
      bundle.models["draft"], bundle.params["draft"],
      [(batch, 1) for batch in batches], prefix, values.samples, timer)
  found = []
  for batch in batches:
    plain = target[batch, 1]
    speedups = np.stack([latency.walltime_factor(
        latency.expected_tokens(_ACCEPTANCES, depth), depth,
        draft[batch, 1] / plain, target[batch, depth + 1] / plain)
                         for depth in depths], axis=1)
    found.append({
        "batch": batch, "draft_seconds": draft[batch, 1],
        "target_seconds": [target[batch, n + 1] for n in [0, *depths]],
        "speedups": speedups})
  return {"depths": depths, "acceptances": _ACCEPTANCES, "batches": found}


def text(rows: Sequence[Mapping[str, Any]]) -> str:
  """The table in markdown, milliseconds."""
  lines = []
  for row in rows:
    ms = lambda seconds: report.number(1e3 * seconds, 3)
    lines.append({
        "system": row["system"], "T": f"{row['temperature']:g}",
        "batch": str(row["batch"]),
        **{name: ms(row["stages"][name]) for name in stages.NAMES},
        "sum": ms(row["sum_of_stages"]), "round": ms(row["measured"]),
        "forwards": ms(row["predicted"]), "in turn": ms(row["in_turn"]),
        "overhead": f"{row['overhead']['median']:+.1%}",
        "of the loop": f"{row['loop_overhead']['median']:+.1%}",
        "speed-up": report.number(row["measured_speedup"], 2, "x"),
        "predicted": report.number(row["predicted_speedup"], 2, "x"),
        "compile": report.number(row["compile_seconds"], 1)})
  return report.markdown(lines) + LEGEND


LEGEND = """
Milliseconds of a round. draft ... bookkeeping: stages timed alone, but what the
host drafts and hears as it does so (part of draft and update; "host" in the
card); sum: of them. round: as the executor runs it. forwards: those of target
and draft alone; in turn: the same, one after the other. overhead: round over
forwards, minus one, median of paired samples; of the loop: round over forwards
in turn. speed-up: tokens a round over rounds' times; predicted: the same from
the forwards alone. compile: seconds that the first decode took longer than the
second (with JAX_ENABLE_COMPILATION_CACHE=false nothing of earlier runs helps).
"""


def write(folder, values, bundle, rows, grid, skipped) -> None:
  """Card, table and plots; raises ValueError."""
  report.write_json(folder / "profile.json", report.card(
      common.flags_of(values), bundle=bundle.name, left_out=skipped, rows=rows,
      break_even=grid))
  report.write_text(folder / "profile.md", text(rows))
  groups = {}
  for row in rows:
    heading = f"temperature {row['temperature']:g}, batch {row['batch']}"
    groups.setdefault(heading, {})[row["system"]] = row
  report.write_bytes(folder / "profile.png", profile_plots.rounds(
      list(groups.items()), f"{bundle.name}: where a round's time goes"))
  if len(grid.get("depths", ())) < 2:
    return  # No plane to draw.
  points = {}
  for row in rows:
    if row["depth"] and row["is_chain"]:
      name = f"{row['system']}, T={row['temperature']:g}"
      points.setdefault(row["batch"], {})[name] = (
          row["depth"], row["counts"]["acceptance"])
  report.write_bytes(folder / "break_even.png", profile_plots.break_even(
      {row["batch"]: row["speedups"] for row in grid["batches"]},
      grid["depths"], grid["acceptances"], points))


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the program; `argv` without its name."""
  return common.launch(__doc__, define, run, argv)


if __name__ == "__main__":
  sys.exit(main())
