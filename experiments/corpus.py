"""The texts that stores are built from: flags, files, token ids."""

from collections.abc import Iterator
import dataclasses
import hashlib
import json
from typing import Any

from absl import flags
import numpy as np

from spec_jax.training import data as data_lib


def define(values: flags.FlagValues) -> None:
  """--corpus, --suffix and --heldout."""
  flags.DEFINE_string("corpus", None, "Folder of texts; default: the standard"
                      " library.", flag_values=values)
  flags.DEFINE_string("suffix", ".py", "Which files of it.",
                      flag_values=values)
  flags.DEFINE_bool("heldout", True, "Whether to leave out the files that"
                    " evaluations use.", flag_values=values)


@dataclasses.dataclass(frozen=True)
class Texts:
  """Files below a folder, in the order in which they are read.

  Attributes:
    root: the folder; None for the standard library.
    names: of the files, below the root.
  """

  root: str | None
  names: tuple[str, ...]

  def source(self, bundle) -> dict[str, Any]:
    """Tells these texts, read with a bundle's tokenizer, from others."""
    digest = hashlib.sha256(json.dumps(list(self.names)).encode()).hexdigest()
    return {"corpus": str(data_lib.corpus_root(self.root)),
            "files": len(self.names), "files_sha256": digest[:16],
            "bundle": bundle.name}

  def documents(self, bundle, first: int = 0) -> Iterator[list[int]]:
    """Token ids of the files from a number on; none of unreadable files."""
    root = data_lib.corpus_root(self.root)
    for name in self.names[first:]:
      text = data_lib.read_text(root / name)
      yield (bundle.tokenizer.encode(text, add_special_tokens=False)
             if text else [])


def texts(root: str | None = None, suffix: str = ".py", heldout: bool = True,
          shuffled: bool = False) -> Texts:
  """The files of a corpus.

  Args:
    root: a folder; None for the standard library.
    suffix: which files of it.
    heldout: whether to leave out the files that evaluations use.
    shuffled: neighbours in a folder are alike; takes them from all over.

  Raises:
    ValueError: there are none.
  """
  names = [name for name in data_lib.corpus_files(root, suffix)
           if not (heldout and data_lib.is_heldout(name))]
  if not names:
    raise ValueError(f"no *{suffix} file below {data_lib.corpus_root(root)}"
                     " (--corpus).")
  if shuffled:
    np.random.default_rng(0).shuffle(names)
  return Texts(root, tuple(names))


def of_flags(values: flags.FlagValues, shuffled: bool = False) -> Texts:
  """The files that `define`'s flags ask for; raises ValueError."""
  return texts(values.corpus, values.suffix, values.heldout, shuffled)


def end_of(bundle) -> int:
  """The id behind each document: one that no draft contains."""
  end = bundle.end_of_text
  return bundle.target.vocab_size if end is None else end
