"""A pair of random weights with the widths of another and a larger vocabulary.

  python -m experiments.random_pair --vocab_size=32768 --out=out/v32k
  python -m experiments.profile_round --bundle=out/v32k

What a round's stages cost depends on sizes, not on what was learnt: such a pair
shows what a vocabulary costs for which no models are at hand. It writes noise.
"""

from collections.abc import Sequence
import dataclasses
import sys

from absl import flags
import jax

from experiments import common
from spec_jax.evaluation import report
from spec_jax.models import bundle as bundle_lib
from spec_jax.models import contract


def define(values: flags.FlagValues) -> None:
  """The flags of this program."""
  flags.DEFINE_string("models", "tiny-python", "A bundle, by name or folder,"
                      " whose widths, tokenizer and prompts are taken.",
                      flag_values=values)
  flags.DEFINE_integer("vocab_size", 32768, "Tokens of the new models.",
                       lower_bound=2, flag_values=values)
  common.define_seed(values, "Of the weights.")
  flags.DEFINE_string("out", "out/random_pair", "Folder of the bundle.",
                      flag_values=values)


def run(values: flags.FlagValues) -> int:
  """The program; returns the exit code."""
  with common.clean_errors():
    home = bundle_lib.folder_of(values.models)
    bundle = bundle_lib.load_bundle(home)
    if values.vocab_size < bundle.target.vocab_size:
      raise ValueError(
          f"--vocab_size={values.vocab_size}, expected at least the"
          f" {bundle.target.vocab_size} tokens of {bundle.name}'s tokenizer.")
    folder = report.make_folder(values.out)
  configs = {name: dataclasses.replace(
      model.config, vocab_size=values.vocab_size, real_vocab_size=None)
             for name, model in {"target": bundle.target, **bundle.models
                                 }.items()}
  keys = jax.random.split(jax.random.key(values.seed), len(configs))
  params = {name: jax.jit(contract.decoder_model(config).init)(key)
            for (name, config), key in zip(configs.items(), keys)}
  bundle_lib.save(
      folder, f"{bundle.name}-{values.vocab_size}", configs, params,
      home / bundle_lib.TOKENIZER,
      [{"prompt": prompt, "source": bundle.name} for prompt in bundle.prompts],
      bundle.tuned)
  print(f"written: {folder}")
  return 0


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the program; `argv` without its name."""
  return common.launch(__doc__, define, run, argv)


if __name__ == "__main__":
  sys.exit(main())
