"""Continues a text with any system and shows it as it arrives.

  python -m experiments.generate --prompt="def area(radius):" --temperature=0.7
  python -m experiments.generate --system=specinfer --prompt_file=FILE
  git diff | python -m experiments.generate --hf=FOLDER --hf_draft=FOLDER

The prompt comes from --prompt, --prompt_file or standard input. A prompt file
with several prompts is continued one after the other; later turns of a
conversation are left out. Ends with exit code 1 if the target's logits were
NaN.
"""

from collections.abc import Sequence
import sys

from absl import flags

from experiments import common
from experiments import streaming
import spec_jax
from spec_jax.core import types
from spec_jax.evaluation import prompts as prompts_lib
from spec_jax.evaluation import report
from spec_jax.evaluation import workload as workload_lib

_SAMPLING = ("top_k", "top_p", "min_p", "repetition_penalty")


def define(values: flags.FlagValues) -> None:
  """The flags of this program."""
  common.define_models(values)
  common.define_systems(values, ["speculative_sampling"])
  common.define_decoding(values, ("0",))
  flags.DEFINE_string("prompt", None, "The text to continue.",
                      flag_values=values)
  flags.DEFINE_string("prompt_file", None, "A file with it: text, or jsonl"
                      " with 'prompt' or 'turns'.", flag_values=values)
  flags.DEFINE_bool("truncate", False, "Whether a prompt that is too long"
                    " loses its first tokens; else it is an error.",
                    flag_values=values)
  flags.DEFINE_integer("top_k", 0, "Keep the k likeliest tokens; 0: all.",
                       flag_values=values)
  flags.DEFINE_float("top_p", 1.0, "Keep the likeliest tokens up to this mass.",
                     flag_values=values)
  flags.DEFINE_float("min_p", 0.0, "Drop tokens less likely than this fraction"
                     " of the likeliest.", flag_values=values)
  flags.DEFINE_float("repetition_penalty", 1.0, "Makes tokens that occurred"
                     " less likely; 1: not.", flag_values=values)
  flags.DEFINE_string("out", None, "Folder for a result card; default: none.",
                      flag_values=values)


def run(values: flags.FlagValues) -> int:
  """The program; returns the exit code."""
  temperature = single("temperature", common.temperatures(values))
  name = single("system", values.system)
  with common.clean_errors():
    sampling = spec_jax.Sampling(
        temperature, **{key: values[key].value for key in _SAMPLING})
    folder = None if values.out is None else report.make_folder(values.out)
    rows = read_prompts(values)
  bundle = common.load_models(values)
  (choice,), _ = common.choose(bundle, [name], values.set)
  with common.clean_errors():
    work = workload_lib.Workload(
        rows, bundle.tokenizer, bundle.target.config.max_positions,
        values.max_new_tokens, seed=values.seed, truncate=values.truncate)
    prompts = [work.fit(work.encode(row, 0), row.name) for row in rows]
  results = [continue_one(choice, sampling, row, *prompt, work)
             for row, prompt in zip(rows, prompts)]
  if folder:
    with common.clean_errors():
      report.write_json(folder / "card.json", report.card(
          common.flags_of(values), bundle=bundle.name,
          system=choice.name, hyper_parameters=choice.hyper,
          prompts_sha256=prompts_lib.digest(rows), results=results))
  for result in results:
    streaming.check(result["prompt"], result["counts"]["emitted"],
                    types.Status[result["status"]])
  return 0


def single(flag: str, found: Sequence) -> object:
  """The one value of a list flag; raises UsageError."""
  if len(found) != 1:
    raise common.UsageError(
        f"--{flag}={','.join(map(str, found))}: expected exactly one here.")
  return found[0]


def read_prompts(values) -> tuple[prompts_lib.Conversation, ...]:
  """The prompt from wherever the flags say; raises ValueError."""
  if values.prompt is not None and values.prompt_file is not None:
    raise ValueError("--prompt and --prompt_file were both given, expected at"
                     " most one.")
  if values.prompt_file is not None:
    return prompts_lib.read(values.prompt_file)
  if values.prompt is not None:
    return prompts_lib.from_texts([values.prompt], "--prompt")
  if sys.stdin.isatty():
    print("reading the prompt from standard input, end it with Ctrl-D",
          file=sys.stderr)
  return prompts_lib.from_texts([sys.stdin.read()], "standard input")


def continue_one(choice, sampling, row, tokens, dropped, work) -> dict:
  """Streams one continuation; text to stdout, everything else to stderr."""
  if dropped:
    print(f"{row.name}: the first {dropped} tokens were left out (--truncate)",
          file=sys.stderr)
  print(streaming.Colours(sys.stdout).dim(row.turns[0]), end="", flush=True)
  stats, status = streaming.show(
      choice, sampling, tokens, work.max_new_tokens, work.seed, work.limit)
  print(f"[{choice.name}: {stats.emitted} tokens in {stats.target_calls} target"
        f" calls, {stats.block_efficiency:.2f} per call;"
        f" {stats.accepted} of {stats.drafted} drafted tokens were kept;"
        f" stopped by: {streaming.reason(status)}]",
        file=sys.stderr)
  return {"prompt": row.name, "prompt_tokens": len(tokens),
          "truncated_tokens": dropped, "status": status.name,
          "counts": stats.as_dict()}


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the program; `argv` without its name."""
  return common.launch(__doc__, define, run, argv)


if __name__ == "__main__":
  sys.exit(main())
