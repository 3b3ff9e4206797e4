"""Builds the store of dresd: hidden states of a corpus, and what follows them.

  python -m experiments.build_dense_store --max_tokens=200000

and then --system=dresd --set dense_store=out/dense_store in other programs. The
target reads the corpus once; the first --fit_keys hidden states decide the
projection. Keys and continuations are held in memory: 208 bytes a token.
"""

from collections.abc import Sequence
import itertools
import sys

from absl import flags
import numpy as np
from tqdm import auto as tqdm

from experiments import common
from spec_jax.stores import dense_index
from spec_jax.stores import dense_store
from spec_jax.training import data as data_lib
from spec_jax.training import hidden as hidden_lib


def define(values: flags.FlagValues) -> None:
  """The flags of this program."""
  common.define_models(values)
  flags.DEFINE_string("corpus", None, "Folder of texts; default: the standard"
                      " library.", flag_values=values)
  flags.DEFINE_string("suffix", ".py", "Which files of it.",
                      flag_values=values)
  flags.DEFINE_bool("heldout", True, "Whether to leave out the files that"
                    " evaluations use.", flag_values=values)
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
    parts = progress(values, states(values, bundle))
    first, size = [], 0
    for part in parts:
      first.append(part)
      size += len(part[0])
      if size >= values.fit_keys:
        break
    if not first:
      raise ValueError(f"no *{values.suffix} file with text below"
                       f" {data_lib.corpus_root(values.corpus)} (--corpus).")
    projection = dense_index.fit(
        np.concatenate([hidden for hidden, _ in first])[:values.fit_keys],
        values.dims)
    dense_store.write(
        values.out, projection, itertools.chain(first, parts),
        bundle.target.vocab_size, end_of(bundle))
    store = dense_store.open_store(values.out)
  print(f"{len(store.keys)} keys of {values.dims} dimensions, which keep"
        f" {100 * projection.explained:.1f}% of the variance: {values.out}")
  return 0


def end_of(bundle) -> int:
  end = bundle.end_of_text
  return bundle.target.vocab_size if end is None else end


def states(values, bundle):
  """Hidden states of the corpus, batch by batch."""
  root = data_lib.corpus_root(values.corpus)
  names = [name for name in data_lib.corpus_files(values.corpus, values.suffix)
           if not (values.heldout and data_lib.is_heldout(name))]
  # Neighbours in the folder are alike: take them from all over.
  np.random.default_rng(0).shuffle(names)
  documents = (
      bundle.tokenizer.encode(text, add_special_tokens=False)
      for text in (data_lib.read_text(root / name) for name in names) if text)
  return hidden_lib.states(
      bundle.target, bundle.params["target"], documents, end_of(bundle),
      min(values.length, bundle.target.config.max_positions), values.following)


def progress(values, parts):
  """Passes parts on until there are enough tokens."""
  done = 0
  with tqdm.tqdm(total=values.max_tokens, desc="reading", unit="token") as bar:
    for part in parts:
      yield part
      done += len(part[0])
      bar.update(len(part[0]))
      if done >= values.max_tokens:
        return


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the program; `argv` without its name."""
  return common.launch(__doc__, define, run, argv)


if __name__ == "__main__":
  sys.exit(main())
