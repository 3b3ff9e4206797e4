"""Builds a datastore for retrieval from a folder of texts.

  python -m experiments.build_datastore --out=out/datastore
  python -m experiments.generate --system=rest --set datastore=out/datastore

The corpus is this interpreter's standard library, or any folder. Files held out
for evaluation are left out (--noheldout takes them too). An interrupted build,
started again with the same flags, goes on where it stopped.
"""

from collections.abc import Iterator
from collections.abc import Sequence
import hashlib
import json
import sys

from absl import flags
from tqdm import auto as tqdm

from experiments import common
from spec_jax.stores import datastore as datastore_lib
from spec_jax.stores import datastore_build
from spec_jax.training import data as data_lib


def define(values: flags.FlagValues) -> None:
  """The flags of this program."""
  common.define_models(values)
  flags.DEFINE_string("corpus", None, "Folder of texts; default: the standard"
                      " library.", flag_values=values)
  flags.DEFINE_string("suffix", ".py", "Which files of it.",
                      flag_values=values)
  flags.DEFINE_bool("heldout", True, "Whether to leave out the files that"
                    " evaluations use.", flag_values=values)
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
    files = corpus_files(values)
    store = build(values, bundle, files)
  header = store.header
  print(f"{header['documents']} documents, {header['num_tokens']} tokens,"
        f" {header['num_tokens'] * (store.tokens.itemsize + 4) / 1e6:.1f} MB:"
        f" {values.out}")
  return 0


def corpus_files(values) -> list[str]:
  """The files that go in; raises ValueError if there are none."""
  files = [name for name in data_lib.corpus_files(values.corpus, values.suffix)
           if not (values.heldout and data_lib.is_heldout(name))]
  if not files:
    raise ValueError(f"no *{values.suffix} file below"
                     f" {data_lib.corpus_root(values.corpus)} (--corpus).")
  return files


def build(values, bundle, files: Sequence[str]) -> datastore_lib.Datastore:
  """Builds or finishes the store, with progress; raises ValueError."""
  root, tokenizer = data_lib.corpus_root(values.corpus), bundle.tokenizer
  vocab_size = bundle.target.vocab_size
  end = bundle.end_of_text
  plan = datastore_build.Plan(
      vocab_size, vocab_size if end is None else end, values.sort_depth,
      values.chunk_tokens, values.max_tokens, source={
          "corpus": str(root), "files": len(files),
          "files_sha256": _digest(files), "bundle": bundle.name})

  def documents(first: int) -> Iterator[list[int]]:
    for name in files[first:]:
      text = data_lib.read_text(root / name)
      yield tokenizer.encode(text, add_special_tokens=False) if text else []

  with tqdm.tqdm(total=len(files), desc="reading", unit="file") as bar:
    return datastore_build.build(
        values.out, plan, documents,
        on_document=lambda done: bar.update(done - bar.n),
        on_chunk=lambda done, total: bar.set_description(
            f"sorting {done}/{total}"))


def _digest(files):
  return hashlib.sha256(json.dumps(list(files)).encode()).hexdigest()[:16]


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the program; `argv` without its name."""
  return common.launch(__doc__, define, run, argv)


if __name__ == "__main__":
  sys.exit(main())
