"""Text to token batches: corpus split by file, tokenizer, fixed epochs.

A batch is a pure function of `(seed, step)`, so that a resumed run sees what
the interrupted one would have seen.
"""

from collections.abc import Callable
import dataclasses
import hashlib
import pathlib
import sysconfig
from typing import Any

import numpy as np
import tokenizers
from tokenizers import decoders
from tokenizers import models as tokenizer_models
from tokenizers import pre_tokenizers
from tokenizers import trainers

END_OF_TEXT = "<|endoftext|>"
# Installed packages are not the standard library; the last two hold generated
# tables, not code that anybody wrote.
_SKIPPED_FOLDERS = frozenset(
    ("site-packages", "dist-packages", "__pycache__", "encodings",
     "pydoc_data"))


@dataclasses.dataclass(frozen=True)
class Corpus:
  """Documents by split; a whole file is in one split only.

  Attributes:
    train: texts.
    heldout: `(relative path, text)` of the files never trained on.
  """

  train: tuple[str, ...]
  heldout: tuple[tuple[str, str], ...]


def is_heldout(relative_path: str, percent: int = 3) -> bool:
  """Whether a file belongs to the held-out split; depends on its path only."""
  digest = hashlib.sha256(relative_path.encode()).digest()
  return int.from_bytes(digest[:4], "big") % 100 < percent


def corpus_root(folder: str | None = None) -> pathlib.Path:
  """The folder itself; None means this interpreter's standard library."""
  return pathlib.Path(folder or sysconfig.get_paths()["stdlib"])


def corpus_files(folder: str | None = None, suffix: str = ".py") -> list[str]:
  """The files of a corpus by their path below its root, sorted."""
  root = corpus_root(folder)
  paths = [path.relative_to(root) for path in sorted(root.rglob(f"*{suffix}"))
           if path.is_file()]
  return [path.as_posix() for path in paths
          if not _SKIPPED_FOLDERS.intersection(path.parts)]


def read_text(path: pathlib.Path) -> str:
  """The text of a file; "" if it is blank or cannot be read as UTF-8.

  The standard library ships files that are broken on purpose.
  """
  try:
    text = path.read_text(encoding="utf-8")
  except (UnicodeDecodeError, OSError):
    return ""
  return text if text.strip() else ""


def read_corpus(folder: str | None = None, suffix: str = ".py") -> Corpus:
  """Reads every text file below `folder` (default: the standard library).

  Args:
    folder: where to look; None means this interpreter's standard library.
    suffix: which files to take.

  Raises:
    ValueError: if no file was found.
  """
  root = corpus_root(folder)
  train, heldout = [], []
  for relative in corpus_files(folder, suffix):
    text = read_text(root / relative)
    if not text:
      continue
    if is_heldout(relative):
      heldout.append((relative, text))
    else:
      train.append(text)
  if not train:
    raise ValueError(
        f"no readable *{suffix} file to train on below {root} (--corpus).")
  return Corpus(tuple(train), tuple(heldout))


def train_tokenizer(texts, vocab_size: int) -> tokenizers.Tokenizer:
  """Byte-level BPE; id 0 is the end of text."""
  tokenizer = tokenizers.Tokenizer(tokenizer_models.BPE())
  tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  tokenizer.decoder = decoders.ByteLevel()
  trainer = trainers.BpeTrainer(
      vocab_size=vocab_size, special_tokens=[END_OF_TEXT], show_progress=False,
      initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
  tokenizer.train_from_iterator(texts, trainer)
  return tokenizer


def pack(tokenizer: tokenizers.Tokenizer, texts) -> np.ndarray:
  """Documents as one stream `u16[n]`, each followed by the end of text."""
  if tokenizer.get_vocab_size() > 1 << 16:
    raise ValueError(
        f"packing stores 16-bit ids, the tokenizer has"
        f" {tokenizer.get_vocab_size()} tokens.")
  end = tokenizer.token_to_id(END_OF_TEXT)
  encoded = tokenizer.encode_batch(list(texts))
  return np.concatenate(
      [np.asarray(e.ids + [end], np.uint16) for e in encoded])


@dataclasses.dataclass(frozen=True, eq=False)
class Windows:
  """Shuffled windows of a packed stream.

  Attributes:
    stream: `u16[n]` tokens.
    batch: windows per batch.
    length: tokens per window.
    seed: of the shuffle.
  """

  stream: np.ndarray
  batch: int
  length: int
  seed: int = 0

  def __post_init__(self):
    if len(self.stream) < self.length * (self.batch + 1):
      raise ValueError(
          f"the corpus has {len(self.stream)} tokens, a batch of"
          f" {self.batch} windows of {self.length} tokens needs at least"
          f" {self.length * (self.batch + 1)}.")

  @property
  def steps_per_epoch(self) -> int:
    # One window is given up to the random offset of the grid.
    return (len(self.stream) // self.length - 1) // self.batch

  def __call__(self, step: int) -> np.ndarray:
    """The batch of a step, `i32[batch, length]`."""
    epoch, index = divmod(step, self.steps_per_epoch)
    rng = np.random.default_rng((self.seed, epoch))
    offset = rng.integers(self.length)
    order = rng.permutation(len(self.stream) // self.length - 1)
    rows = order[index * self.batch:(index + 1) * self.batch]
    starts = offset + rows[:, None] * self.length
    return self.stream[starts + np.arange(self.length)].astype(np.int32)


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
  """Batches of given rows.

  Attributes:
    rows: `u16[n, length]`, shuffled anew each epoch.
    batch: rows per batch, at most n.
    seed: of the shuffle.
  """

  rows: np.ndarray
  batch: int
  seed: int = 0

  def __post_init__(self):
    if len(self.rows) < self.batch:
      raise ValueError(
          f"{len(self.rows)} rows, expected at least a batch of {self.batch}.")

  def __call__(self, step: int) -> np.ndarray:
    """The batch of a step, `i32[batch, length]`."""
    epoch, index = divmod(step, len(self.rows) // self.batch)
    order = np.random.default_rng((self.seed, epoch)).permutation(
        len(self.rows))
    chosen = order[index * self.batch:(index + 1) * self.batch]
    return self.rows[chosen].astype(np.int32)


@dataclasses.dataclass(frozen=True, eq=False)
class Mixed:
  """Batches that are half corpus, half given rows.

  Attributes:
    corpus: gives the first half of each batch.
    rows: see `Rows`.
    seed: of the shuffle.
  """

  corpus: Windows
  rows: np.ndarray
  seed: int = 0

  def __call__(self, step: int) -> np.ndarray:
    """The batch of a step, `i32[batch, length]`."""
    half = self.corpus.batch // 2
    own = Rows(self.rows, half, self.seed)(step)
    return np.concatenate([self.corpus(step)[half:], own])


@dataclasses.dataclass(frozen=True, eq=False)
class Stages:
  """Batches of one kind and, from some step on, of another.

  Attributes:
    first: step -> batch, a pure function of the step.
    second: the same; its steps count from the switch on. Its batches may be of
      another shape.
    switch: the first step of the second stage.
  """

  first: Callable[[int], Any]
  second: Callable[[int], Any]
  switch: int

  def __call__(self, step: int) -> Any:
    """The batch of a step."""
    if step < self.switch:
      return self.first(step)
    return self.second(step - self.switch)


def heldout_prompts(corpus: Corpus, tokenizer: tokenizers.Tokenizer,
                    count: int, num_tokens: int = 96
                    ) -> list[dict[str, str]]:
  """Beginnings of held-out code, cut at a line end, at most one a file.

  Args:
    corpus: its held-out files are used, the longest first: a short file has
      no text left to continue.
    tokenizer: measures the length.
    count: prompts at most.
    num_tokens: at most, of each prompt.

  Returns:
    Rows with "prompt" and "source" (file and first line).
  """
  rows = []
  for name, text in sorted(corpus.heldout, key=lambda item: -len(item[1])):
    lines = text.splitlines(keepends=True)
    starts = [i for i, line in enumerate(lines)
              if line.lstrip().startswith(("def ", "class "))]
    if not starts:
      continue
    first = starts[len(starts) // 2]
    prompt = ""
    for line in lines[first:]:
      if len(tokenizer.encode(prompt + line).ids) > num_tokens:
        break
      prompt += line
    if len(tokenizer.encode(prompt).ids) >= num_tokens // 2:
      rows.append({"prompt": prompt, "source": f"{name}:{first + 1}"})
    if len(rows) == count:
      break
  return rows
