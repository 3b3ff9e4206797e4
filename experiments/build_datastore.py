"""Builds a datastore for retrieval from a folder of texts.

  python -m experiments.build_datastore --out=out/datastore
  python -m experiments.generate --system=rest --set datastore=out/datastore

The corpus is this interpreter's standard library, or any folder. Files held out
for evaluation are left out (--noheldout takes them too). An interrupted build,
started again with the same flags, goes on where it stopped.
"""

from collections.abc import Sequence
import os
import sys

from absl import flags
from tqdm import auto as tqdm

from experiments import common
from experiments import corpus
from spec_jax.stores import datastore as datastore_lib
from spec_jax.stores import datastore_build


def define(values: flags.FlagValues) -> None:
  """The flags of this program."""
  common.define_models(values)
  corpus.define(values)
  flags.DEFINE_string("out", "out/datastore", "Folder of the datastore.",
                      flag_values=values)
  flags.DEFINE_integer("max_tokens", 0, "Where to stop; 0: at the end.",
                       lower_bound=0, flag_values=values)
  flags.DEFINE_integer("sort_depth", 32, "Longest pattern that can be looked"
                       " up.", lower_bound=1, flag_values=values)
  flags.DEFINE_integer("chunk_tokens", 1 << 24, "Tokens sorted at once, about"
                       " 50 bytes of memory each.", lower_bound=1,
                       flag_values=values)


def run(values: flags.FlagValues) -> int:
  """The program."""
  bundle = common.load_models(values)
  with common.clean_errors():
    store = build(
        values.out, bundle, corpus.of_flags(values), values.max_tokens,
        values.sort_depth, values.chunk_tokens)
  header = store.header
  print(f"{header['documents']} documents, {header['num_tokens']} tokens,"
        f" {header['num_tokens'] * (store.tokens.itemsize + 4) / 1e6:.1f} MB:"
        f" {values.out}")
  return 0


def build(folder: str | os.PathLike, bundle, texts: corpus.Texts,
          max_tokens: int = 0, sort_depth: int = 32,
          chunk_tokens: int = 1 << 24) -> datastore_lib.Datastore:
  """Builds or finishes a store, with progress; raises ValueError."""
  plan = datastore_build.Plan(
      bundle.target.vocab_size, corpus.end_of(bundle), sort_depth,
      chunk_tokens, max_tokens, source=texts.source(bundle))
  with tqdm.tqdm(total=len(texts.names), desc="reading", unit="file") as bar:
    return datastore_build.build(
        folder, plan, lambda first: texts.documents(bundle, first),
        on_document=lambda done: bar.update(done - bar.n),
        on_chunk=lambda done, total: bar.set_description(
            f"sorting {done}/{total}"))


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the program; `argv` without its name."""
  return common.launch(__doc__, define, run, argv)


if __name__ == "__main__":
  sys.exit(main())
