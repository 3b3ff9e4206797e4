"""Collects the phrases that a model likes to write, for hierarchy_drafting.

  python -m experiments.build_history --prompts=questions.jsonl

The model answers every prompt greedily; the n-grams of its answers are counted
over answers and the frequent ones kept. Do not use the prompts of a benchmark.
"""

from collections.abc import Sequence
import pathlib
import sys

from absl import flags
from tqdm import auto as tqdm

from experiments import common
import spec_jax
from spec_jax.evaluation import prompts as prompts_lib
from spec_jax.evaluation import report
from spec_jax.stores import history as history_lib


def define(values: flags.FlagValues) -> None:
  """The flags of this program."""
  common.define_models(values)
  flags.DEFINE_list("prompts", [], "Prompt files.", flag_values=values)
  flags.DEFINE_integer("max_new_tokens", 128, "Tokens per answer.",
                       lower_bound=1, flag_values=values)
  flags.DEFINE_integer("batch", 8, "Prompts answered at once.", lower_bound=1,
                       flag_values=values)
  flags.DEFINE_integer("level", 5, "Size of the n-grams, the key included.",
                       lower_bound=2, flag_values=values)
  flags.DEFINE_integer("most", 100_000, "N-grams kept.", lower_bound=1,
                       flag_values=values)
  flags.DEFINE_string("out", "out/history.npz", "The file.",
                      flag_values=values)


def run(values: flags.FlagValues) -> int:
  """The program."""
  with common.clean_errors():
    if not values.prompts:
      raise ValueError("--prompts is empty, expected at least one file.")
    texts = [turn for path in values.prompts
             for conversation in prompts_lib.read(path)
             for turn in conversation.turns]
    report.make_folder(pathlib.Path(values.out).parent)
  bundle = common.load_models(values)
  with common.clean_errors():
    found = history_lib.count(
        answers(values, bundle, texts), bundle.target.vocab_size,
        values.level, values.most)
  history_lib.save(values.out, found)
  print(f"{sum(map(len, found.phrases.values()))} phrases behind"
        f" {len(found.phrases)} tokens: {values.out}")
  return 0


def answers(values, bundle, texts: Sequence[str]):
  """Yields the model's greedy answers, in prompt lookup's time."""
  system, params = spec_jax.build("prompt_lookup", bundle)
  limit = prompts_lib.room(
      bundle.target.config.max_positions, values.max_new_tokens)
  rows = [prompts_lib.fit(bundle.tokenizer.encode(text), limit)[0]
          for text in texts]
  for start in tqdm.trange(0, len(rows), values.batch, unit="batch"):
    yield from spec_jax.generate(
        system, params, rows[start:start + values.batch],
        max_new_tokens=values.max_new_tokens).tokens


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the program; `argv` without its name."""
  return common.launch(__doc__, define, run, argv)


if __name__ == "__main__":
  sys.exit(main())
