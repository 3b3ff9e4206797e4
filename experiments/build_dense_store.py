"""Builds the store of dresd: hidden states of a corpus, and what follows them.

  python -m experiments.build_dense_store --max_tokens=200000

and then --system=dresd --set dense_store=out/dense_store in other programs. The
target reads the corpus once; the first --fit_keys hidden states decide the
projection. Files grow as it reads, 208 bytes a token, and memory does not. An
interrupted build, started again with the same flags, goes on where it stopped.
"""

from collections.abc import Sequence
import os
import sys

from absl import flags
from tqdm import auto as tqdm

from experiments import cells
from experiments import common
from experiments import corpus
from spec_jax.stores import dense_build
from spec_jax.stores import dense_store
from spec_jax.training import hidden as hidden_lib


def define(values: flags.FlagValues) -> None:
  """The flags of this program."""
  common.define_models(values)
  corpus.define(values)
  flags.DEFINE_integer("max_tokens", 1_000_000, "Where to stop.",
                       lower_bound=2, flag_values=values)
  flags.DEFINE_integer("fit_keys", 100_000, "Hidden states that decide the"
                       " projection.", lower_bound=2, flag_values=values)
  flags.DEFINE_integer("dims", 64, "Dimensions of a key.", lower_bound=1,
                       flag_values=values)
  flags.DEFINE_integer("following", 20, "Tokens of a continuation.",
                       lower_bound=2, flag_values=values)
  flags.DEFINE_integer("length", 256, "Tokens seen at once.", lower_bound=2,
                       flag_values=values)
  flags.DEFINE_string("out", "out/dense_store", "Folder of the store.",
                      flag_values=values)


def run(values: flags.FlagValues) -> int:
  """The program."""
  bundle = common.load_models(values)
  with common.clean_errors():
    store = build(
        values.out, bundle, corpus.of_flags(values, shuffled=True),
        values.max_tokens, values.fit_keys, values.dims, values.following,
        values.length)
  print(f"{len(store.keys)} keys of {values.dims} dimensions, which keep"
        f" {100 * store.projection.explained:.1f}% of the variance:"
        f" {values.out}")
  return 0


def build(folder: str | os.PathLike, bundle, texts: corpus.Texts,
          max_tokens: int = 1_000_000, fit_keys: int = 100_000,
          dims: int = 64, following: int = 20, length: int = 256
          ) -> dense_store.DenseStore:
  """Builds or finishes a store, with progress; raises ValueError."""
  config, end = bundle.target.config, corpus.end_of(bundle)
  length = min(length, config.max_positions)
  plan = dense_build.Plan(
      bundle.target.vocab_size, config.d_model, end, following, dims,
      fit_keys, max_tokens, source=texts.source(bundle) | {
          # Hidden states are those of these weights.
          "length": length, "models": cells.fingerprint(
              bundle, bundle.params["target"])})
  parts = lambda first: hidden_lib.states(
      bundle.target, bundle.params["target"], texts.documents(bundle), end,
      length, following, first=first)
  with tqdm.tqdm(total=max_tokens or None, desc="reading", unit="token") as bar:
    return dense_build.build(
        folder, plan, parts, on_rows=lambda done: bar.update(done - bar.n),
        on_cells=lambda stage, done: bar.set_description(f"{stage} {done}"))


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the program; `argv` without its name."""
  return common.launch(__doc__, define, run, argv)


if __name__ == "__main__":
  sys.exit(main())
