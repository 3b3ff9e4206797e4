"""Decodes held-out Python code with every system, faster, and with proof.

  python -m experiments.demo
  python -m experiments.demo --system=specinfer,mcsd --set mcsd.branching=3,2
  python -m experiments.demo --system=all

Shows text as it arrives, then races the systems against plain decoding at
temperature 0 and 0.8, and then proves that nothing was lost: equal texts at
temperature 0, equal texts for systems that share the noise of plain sampling,
output laws by enumeration, and a chi-square test on the models themselves.
Ends with exit code 1 if a proof fails. Tables, plot and result cards go to
--out.
"""

from collections.abc import Sequence
import dataclasses
import functools
import pathlib
import sys
import time

from absl import flags
import jax
from tqdm import auto as tqdm

from experiments import common
from experiments import comparison
from experiments import proof
from experiments import streaming
from experiments import tables
import spec_jax
from spec_jax.core import registry
from spec_jax.evaluation import ahead
from spec_jax.evaluation import memory
from spec_jax.evaluation import plots
from spec_jax.evaluation import prompts as prompts_lib
from spec_jax.evaluation import report
from spec_jax.evaluation import workload as workload_lib

# A tour that ends in minutes: one system of each kind. The benchmark, and
# --system=all, run every one.
_SHOWN = ("speculative_sampling", "prompt_lookup", "gumbel_coupled",
          "race_transport", "block_verification", "medusa_1", "hydra_pp",
          "recurrent_drafter", "eagle_2", "eagle_3")


def define(values: flags.FlagValues) -> None:
  """The flags of this program."""
  common.define_models(values)
  common.define_systems(values, None, ", ".join(_SHOWN))
  common.define_decoding(values, ("0", "0.8"), 64)
  flags.DEFINE_string("out", "out/demo", "Folder for tables, plot and cards.",
                      flag_values=values)
  flags.DEFINE_string(
      "prompts", None, "A prompt file (jsonl or text); default: the held-out"
      " prompts of the bundle.", flag_values=values)
  flags.DEFINE_integer("num_prompts", 3, "How many of them.", lower_bound=1,
                       flag_values=values)
  flags.DEFINE_integer("repeats", 2, "Timed passes per system.",
                       lower_bound=1, flag_values=values)
  flags.DEFINE_string("show", "speculative_sampling", "The system whose text"
                      " is shown as it arrives; empty for none.",
                      flag_values=values)
  flags.DEFINE_integer("law_rows", 256, "Rows of the chi-square test; 0 leaves"
                       " it out.", lower_bound=0, flag_values=values)


def run(values: flags.FlagValues) -> int:
  """The program; returns the exit code."""
  first_text = FirstText()
  temperatures = common.temperatures(values)
  with common.clean_errors():
    folder = report.make_folder(values.out)
  bundle = common.load_models(values)
  names = values.system
  if names and names != ["all"]:
    names = [common.BASELINE, *names]
  choices, skipped = common.choose(
      bundle, names, values.set, (common.BASELINE, *_SHOWN))
  with common.clean_errors():
    check_shown(values, choices)
  # Half as many programs; the rounds become up to 3% slower, all alike.
  defers = len(temperatures) > 1
  choices = [dataclasses.replace(choice, defers_temperature=defers)
             for choice in common.with_baselines(bundle, choices)]
  work = make_workload(values, bundle)
  introduce(bundle, work, choices, skipped)
  # The first text comes soon: nothing else is compiled before it. What is shown
  # after it compiles its own programs, beside those of all others.
  watch(values, choices, work, temperatures[:1], first_text)
  with ahead.beside([
      *comparison.rehearsals([c for c in choices if c.name != values.show],
                             temperatures, work),
      lambda: comparison.forwards_of(choices, temperatures[-1], work)
  ]) as tasks:
    watch(values, choices, work, temperatures[1:], first_text)
  results = race(values, choices, work, temperatures, tasks[-1].result())
  checks = prove(values, choices, work, results)
  spent = {"seconds_to_first_text": first_text.seconds,
           "peak_memory_gib": memory.peak_bytes() / 2 ** 30}
  with common.clean_errors():
    write(values, folder, bundle, work, results, checks, skipped, spent)
  print(f"\n{spent_text(spent)}")
  failed = [check for check in checks if not check.passed]
  print(f"{len(checks) - len(failed)} of {len(checks)} checks passed. Tables,"
        f" plot and cards: {folder}")
  return 1 if failed else 0


class FirstText:
  """Seconds from when it was made until the first text was shown.

  Attributes:
    seconds: None as long as there was none. What Python needs to start and to
      import is not in it.
  """

  def __init__(self):
    self._begin, self.seconds = time.perf_counter(), None

  def __call__(self) -> None:
    """Text was shown."""
    if self.seconds is None:
      self.seconds = time.perf_counter() - self._begin


def spent_text(spent) -> str:
  """A line of time and memory."""
  seconds = spent["seconds_to_first_text"]
  shown = "not shown" if seconds is None else f"after {seconds:.1f} s"
  return (f"first text {shown}; at most {spent['peak_memory_gib']:.2f} GiB of"
          " main memory")


def make_workload(values, bundle) -> workload_lib.Workload:
  """The prompts, checked before anything is compiled."""
  with common.clean_errors():
    if values.prompts:
      rows = prompts_lib.read(values.prompts)
    elif bundle.prompts:
      rows = prompts_lib.from_texts(bundle.prompts, bundle.name)
    else:
      raise ValueError(f"{bundle.name} comes without prompts, expected a file:"
                       " --prompts.")
    work = workload_lib.Workload(
        rows[:values.num_prompts], bundle.tokenizer,
        bundle.target.config.max_positions, values.max_new_tokens,
        seed=values.seed)
    for row in work.conversations:
      work.fit(work.encode(row, 0), row.name)
  return work


def introduce(bundle, work, choices, skipped) -> None:
  """What is about to happen."""
  size = lambda params: sum(x.size for x in jax.tree.leaves(params)) / 1e6
  models = ", ".join(f"{name} {size(params):.1f}M"
                     for name, params in bundle.params.items())
  print(f"{bundle.name}: {models} parameters; {jax.devices()[0].device_kind},"
        f" {len(work.conversations)} prompts, {work.max_new_tokens} new tokens"
        " each, batch 1.")
  print(f"systems: {', '.join(choice.name for choice in choices)}")
  for name, reason in skipped.items():
    print(f"left out: {name}: {reason}")


def check_shown(values, choices) -> None:
  """Raises ValueError if --show names no system, or one that is not run."""
  known = [choice.name for choice in choices]
  # The default gives way to --system.
  if values["show"].present and values.show not in ("", *known):
    raise ValueError("--show: " + registry.unknown(
        "system among those of this demo", values.show, known))


def watch(values, choices, work, temperatures, on_piece) -> None:
  """One prompt, live."""
  choice = next((c for c in choices if c.name == values.show), None)
  if choice is None:
    return
  first = work.conversations[0]
  tokens, _ = work.fit(work.encode(first, 0), first.name)
  tail = "\n".join(first.turns[0].splitlines()[-6:])
  colours = streaming.Colours(sys.stdout)
  for temperature in temperatures:
    print(f"\n--- {choice.name}, temperature {temperature:g}"
          f" ({colours.accepted('coloured')}: drafts that were kept) ---")
    print(colours.dim(tail), end="", flush=True)
    stats, status = streaming.show(
        choice, spec_jax.Sampling(temperature), tokens, work.max_new_tokens,
        work.seed, work.limit, on_piece=on_piece)
    print(f"--- {stats.emitted} tokens in {stats.target_calls} target calls"
          f" ({stats.block_efficiency:.2f} per call), stopped by:"
          f" {streaming.reason(status)} ---")
    streaming.check(first.name, stats.emitted, status)


def race(values, choices, work, temperatures, forwards):
  """All systems at all temperatures: results by temperature and name."""
  found = {}
  total = len(choices) * values.repeats * len(temperatures)
  with tqdm.tqdm(total=total, desc="racing", unit="pass", leave=False) as bar:

    def on_lap(name):
      bar.set_postfix_str(name)
      bar.update()

    for temperature in temperatures:
      group = comparison.race(
          choices, temperature, work, values.repeats, forwards, on_lap)
      if temperature > 0:
        bar.set_postfix_str("holding the acceptance against the optimum")
        audited = ahead.together([
            functools.partial(comparison.with_audit, result, work)
            for result in group.values()])
        group = dict(zip(group, audited))
      found[temperature] = group
      # Unlike print, this leaves the progress bar whole.
      tqdm.tqdm.write(f"\n{heading(temperature)}\n\n{table(group)}")
  print(tables.LEGEND)
  return found


def heading(temperature: float) -> str:
  return f"temperature {temperature:g}"


def table(results) -> str:
  return tables.table(
      [tables.line(result.as_dict()) for result in results.values()])


def prove(values, choices, work, results) -> list[proof.Check]:
  """All checks; each is printed as soon as it is known."""
  checks = []

  def add(found: Sequence[proof.Check]):
    for check in found:
      mark = "ok  " if check.passed else "FAIL"
      print(f"[{mark}] {check.title}: {check.name}: {check.detail}",
            flush=True)
    checks.extend(found)

  print("proof that nothing was lost")
  sampled = [t for t in results if t > 0]
  if 0 in results:
    add(proof.greedy_texts(results[0]))
  for temperature in sampled:
    add(proof.coupled_texts(results[temperature], work))
  add(proof.enumerated_laws())
  if sampled and values.law_rows:
    add(proof.sampled_laws(choices, sampled[-1], work, values.law_rows))
  return checks


def write(values, folder: pathlib.Path, bundle, work, results, checks,
          skipped, spent) -> None:
  """Card, table and plot."""
  setting = {
      "bundle": bundle.name, "dtype": str(bundle.target.dtype),
      "prompts_sha256": prompts_lib.digest(work.conversations),
      "num_prompts": len(work.conversations), "batch": work.batch,
      "seeds": [values.seed], "temperatures": list(results)}
  report.write_json(folder / "card.json", report.card(
      common.flags_of(values), setting=setting,
      results=[result.as_dict() for group in results.values()
               for result in group.values()],
      checks=[vars(check) for check in checks], left_out=skipped, **spent))
  report.write_text(folder / "table.md", "\n".join(
      f"## {heading(t)}\n\n{table(group)}" for t, group in results.items())
      + f"\n{tables.LEGEND}")
  title = (f"{bundle.name}: {len(work.conversations)} prompts,"
           f" {work.max_new_tokens} new tokens, batch {work.batch}")
  report.write_bytes(folder / "comparison.png", plots.comparison(
      [(heading(t), [tables.bar(r.as_dict()) for r in group.values()])
       for t, group in results.items()], title))


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the program; `argv` without its name."""
  return common.launch(__doc__, define, run, argv)


if __name__ == "__main__":
  sys.exit(main())
