"""This library and `transformers` side by side: same weights, same prompts.

  pip install -c constraints.txt -e '.[parity]'
  python -m experiments.peer_race

Target and draft are exported as Hugging Face folders and loaded by
`transformers`; then its plain, assisted and prompt-lookup generation and our
systems decode the same prompts in turn, one prompt at a time, prefill
included. At temperature 0 the texts must be equal, up to near-ties that
rounding decides, else the exit code is 1.
"""

from collections.abc import Sequence
import pathlib
import sys
from typing import Any

from absl import flags
from tqdm import auto as tqdm

from experiments import common
from experiments import peers
from spec_jax import systems
from spec_jax.evaluation import ahead
from spec_jax.evaluation import clock as clock_lib
from spec_jax.evaluation import equality
from spec_jax.evaluation import prompts as prompts_lib
from spec_jax.evaluation import report
from spec_jax.evaluation import workload as workload_lib

_OURS = (common.BASELINE, "speculative_sampling", "block_verification",
         "prompt_lookup")


def define(values: flags.FlagValues) -> None:
  """The flags of this program."""
  common.define_models(values)
  common.define_systems(values, None, ", ".join(_OURS))
  common.define_decoding(values, ("0",), 96)
  flags.DEFINE_string("out", "out/peer_race", "Folder of the exported models,"
                      " table and card.", flag_values=values)
  flags.DEFINE_integer("num_prompts", 4, "Prompts of the bundle.",
                       lower_bound=1, flag_values=values)
  flags.DEFINE_integer("max_prompt_tokens", 256, "Prompts lose what stands"
                       " before their last tokens.", lower_bound=1,
                       flag_values=values)
  flags.DEFINE_integer("repeats", 3, "Timed passes of each.", lower_bound=1,
                       flag_values=values)
  flags.DEFINE_integer("depth", 5, "Tokens that transformers drafts.",
                       lower_bound=1, flag_values=values)
  flags.DEFINE_integer("torch_threads", 0, "0: one, or one per core, whichever"
                       " decodes faster.", lower_bound=0, flag_values=values)
  flags.DEFINE_string("torch_device", None, "Default: cuda if torch has it,"
                      " else cpu.", flag_values=values)
  flags.DEFINE_enum("torch_dtype", "auto", ("auto", "float32", "bfloat16"),
                    "Of transformers' parameters and computation; auto: as"
                    " --dtype.", flag_values=values)


def run(values: flags.FlagValues) -> int:
  """The program; exit code 1 if a greedy text differs."""
  temperatures = common.temperatures(values)
  with common.clean_errors():
    peers.libraries()
    folder = report.make_folder(values.out)
  bundle = common.load_models(values)
  choices, _ = common.choose(bundle, values.system, values.set, _OURS)
  with common.clean_errors():
    bundle = shared_bundle(bundle, choices)
    if not bundle.prompts:
      raise ValueError(f"{bundle.name} comes without prompts; use a bundle"
                       " with some: --bundle.")
    peer = peers.Transformers(bundle, folder / "models", values.torch_device,
                              values.torch_dtype)
    peer.set_threads(values.torch_threads, bundle.tokenizer.encode(
        bundle.prompts[0])[-values.max_prompt_tokens:])
  rows, is_equal = [], True
  for temperature in temperatures:
    found = race(values, bundle, choices, peer, temperature)
    rows += [dict(row, temperature=temperature) for row in found]
    is_equal &= all(row["equal"] is not False for row in found)
    with common.clean_errors():  # At once: the next temperature takes its time.
      write(folder, values, bundle, peer, rows)
  print(text(rows))
  print(f"table and card: {folder}")
  return 0 if is_equal else 1


def shared_bundle(bundle, choices):
  """With the target that all of the systems decode, for the peer too.

  Raises:
    ValueError: they do not decode the same.
  """
  targets = {choice.baseline: choice for choice in choices}
  if len(targets) > 1:
    raise ValueError(
        f"--system={','.join(choice.name for choice in choices)}: these decode"
        " different targets, and transformers can only run one of them; name"
        " a system that brings its own target alone.")
  (choice,) = targets.values()
  return systems.bundle_of(choice.name, bundle)


def race(values, bundle, choices, peer, temperature) -> list[dict[str, Any]]:
  """One row per way of decoding, at one temperature."""
  tokens = [bundle.tokenizer.encode(prompt)[-values.max_prompt_tokens:]
            for prompt in bundle.prompts[:values.num_prompts]]
  names = [peers.AUTOREGRESSIVE, peers.LOOKUP]
  if "draft" in bundle.models:
    names.insert(1, peers.ASSISTED)
  passes = {name: peer.passer(name, tokens, values.max_new_tokens, temperature,
                              values.depth, values.seed) for name in names}
  passes |= {choice.name: our_passer(values, bundle, choice, tokens,
                                     temperature) for choice in choices}
  first = {}

  def timed(name):
    answer = passes[name]()
    first.setdefault(name, answer)
    return answer.lap

  warm_up(passes, names)
  total = values.repeats * len(passes)
  with tqdm.tqdm(total=total, desc=f"T={temperature:g}", unit="pass") as bar:
    laps = clock_lib.race(
        {name: lambda name=name: timed(name) for name in passes},
        values.repeats, lambda name: bar.update())
  baselines = [name for name in names if name != peers.LOOKUP]
  return [row_of(name, first, laps, baselines, tokens, bundle, temperature)
          for name in passes]


def warm_up(passes, peer_names) -> None:
  """One pass of each; ours compile side by side."""
  for name in tqdm.tqdm(peer_names, desc="warm-up", unit="pass"):
    passes[name]()
  ahead.together(
      [run for name, run in passes.items() if name not in peer_names])


def our_passer(values, bundle, choice, tokens, temperature):
  """A pass of one of our systems, prompt by prompt."""
  # Token ids pass through: both sides decode exactly the same prompts.
  rows = [prompts_lib.Conversation(f"prompt {i}", "", (ids,))
          for i, ids in enumerate(map(tuple, tokens))]
  work = workload_lib.Workload(
      rows, _Ids(), bundle.target.config.max_positions, values.max_new_tokens,
      seed=values.seed)
  clock = clock_lib.Clock(choice.executor)

  def run():
    done = workload_lib.run(
        clock, choice.at(temperature), choice.params, work)
    lap = done.lap
    whole = clock_lib.Lap(
        0.0, lap.prefill + lap.rounds, lap.num_rounds, lap.emitted)
    return peers.Answer(whole, done.rows, lap.num_rounds)
  return run


class _Ids:
  """A tokenizer of texts that are token ids already."""

  def encode(self, text):
    return list(text)


def row_of(name, first, laps, baselines, tokens, bundle, temperature):
  """What a card holds of one way of decoding."""
  answer = first[name]
  speedups = {base: clock_lib.spread([
      lap.tokens_per_second / other.tokens_per_second
      for lap, other in zip(laps[name], laps[base])]) for base in baselines}
  equal, why = None, None
  if temperature == 0:
    join = lambda rows: [list(p) + list(r) for p, r in zip(tokens, rows)]
    found = equality.first_difference(
        join(first[peers.AUTOREGRESSIVE].rows), join(answer.rows),
        bundle.target, bundle.params["target"])
    equal = found is None or found.is_near_tie
    why = None if found is None else found.explain()
  timing = clock_lib.timing(laps[name])
  return {
      "name": name, "equal": equal, "difference": why,
      "emitted": answer.lap.emitted, "target_calls": answer.target_calls,
      "tokens_per_second": timing.as_dict()["tokens_per_second"],
      "speedup_over": {base: vars(s) for base, s in speedups.items()}}


def text(rows: Sequence[dict[str, Any]]) -> str:
  """The table in markdown."""
  lines = []
  for row in rows:
    speed = {f"over {base.removeprefix('transformers ')}":
             report.number(found["median"], 2, "x")
             for base, found in row["speedup_over"].items()}
    mark = {None: "-", True: "yes", False: "NO"}[row["equal"]]
    if row["equal"] and row["difference"]:
      mark = "near-tie"
    lines.append({
        "decoder": row["name"], "temperature": f"{row['temperature']:g}",
        "tokens/call": report.number(row["emitted"] / row["target_calls"]),
        "tokens/s": report.number(row["tokens_per_second"]["median"], 0),
        **speed, "greedy text equal": mark})
  notes = [f"{row['name']}: {row['difference']}" for row in rows
           if row["difference"]]
  return report.markdown(lines) + "".join(f"\n{note}\n" for note in notes)


def write(folder: pathlib.Path, values, bundle, peer, rows) -> None:
  """Card and table; raises ValueError."""
  report.write_json(folder / "peer_race.json", report.card(
      common.flags_of(values), bundle=bundle.name, peer=peer.versions(),
      rows=rows))
  report.write_text(folder / "peer_race.md", text(rows))


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the program; `argv` without its name."""
  return common.launch(__doc__, define, run, argv)


if __name__ == "__main__":
  sys.exit(main())
