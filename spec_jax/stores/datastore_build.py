"""Builds a datastore document by document; an interrupted build goes on.

Memory is bounded by one chunk: tokens are appended to a file as they come, then
each chunk is sorted by itself. What is done is noted in `progress.json`, which
goes when the header comes.
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
import dataclasses
import json
import os
import pathlib
from typing import Any

import numpy as np

from spec_jax.stores import datastore as datastore_lib
from spec_jax.stores import notes

_TOKENS, _SUFFIXES = "tokens.bin", "suffixes.bin"
_HEADER = "header.json"


@dataclasses.dataclass(frozen=True)
class Plan:
  """What is built; a build goes on only if all of it is the same.

  Attributes:
    vocab_size: of the tokenizer.
    end_of_document: id put behind each document; may be one that the tokenizer
      does not have.
    sort_depth: longest pattern that can be looked up.
    chunk_tokens: sorted at once; each takes about 50 bytes meanwhile.
    max_tokens: where to stop, 0 = at the end of the corpus.
    source: where the documents come from, as JSON knows it.
  """

  vocab_size: int
  end_of_document: int
  sort_depth: int = 32
  chunk_tokens: int = 1 << 24
  max_tokens: int = 0
  source: dict[str, Any] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    for name in ("vocab_size", "sort_depth", "chunk_tokens"):
      if getattr(self, name) < 1:
        raise ValueError(f"{name}={getattr(self, name)}, expected >= 1.")
    if self.max_tokens < 0:
      raise ValueError(f"max_tokens={self.max_tokens}, expected >= 0 (0: all).")

  @property
  def token_dtype(self) -> np.dtype:
    most = max(self.vocab_size - 1, self.end_of_document)
    return np.dtype(np.uint16 if most < 1 << 16 else np.uint32)

  def as_dict(self) -> dict[str, Any]:
    return json.loads(json.dumps(dataclasses.asdict(self)))


def build(folder: str | os.PathLike, plan: Plan,
          documents_fn: Callable[[int], Iterator[Sequence[int]]],
          on_document: Callable[[int], None] = lambda number: None,
          on_chunk: Callable[[int, int], None] = lambda done, total: None,
          save_every: int = 1 << 20) -> datastore_lib.Datastore:
  """Builds a store, or finishes one.

  Args:
    folder: made if it does not exist.
    plan: what is built.
    documents_fn: yields the token ids of the documents from a number on, always
      in the same order.
    on_document: called with the number of documents done, for progress.
    on_chunk: called with the chunks sorted and their number.
    save_every: tokens between two notes of what is done.

  Raises:
    ValueError: the folder holds another store, or half of another one; or the
      documents have no tokens.
  """
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  if (folder / _HEADER).exists():
    found = datastore_lib.open_store(folder)
    notes.check_same(
        folder, plan.as_dict(), found.header.get("plan"), "a datastore")
    notes.finish(folder)
    return found
  progress = notes.read(
      folder, plan.as_dict(), {"documents": 0, "tokens": 0, "read": False},
      "a datastore")
  if not progress["read"]:
    _append_documents(
        folder, plan, documents_fn, progress, on_document, save_every)
  if not progress["tokens"]:
    raise ValueError(f"{folder}: the documents have no tokens, expected some"
                     f" text in {plan.source}.")
  _sort_chunks(folder, plan, progress, on_chunk)
  datastore_lib.write_header(
      folder, plan.token_dtype.name, progress["tokens"], {
          "sort_depth": plan.sort_depth, "chunk_tokens": plan.chunk_tokens,
          "vocab_size": plan.vocab_size,
          "end_of_document": plan.end_of_document,
          "documents": progress["documents"], "plan": plan.as_dict()})
  notes.finish(folder)
  return datastore_lib.open_store(folder)


def _append_documents(folder, plan, documents_fn, progress, on_document,
                      save_every):
  path = folder / _TOKENS
  notes.save(folder, progress)
  size = progress["tokens"] * plan.token_dtype.itemsize
  notes.check_length(path, size)
  with path.open("ab") as file:
    file.truncate(size)  # What came after the last note is read again.
    file.seek(0, os.SEEK_END)
    saved = progress["tokens"]
    for ids in documents_fn(progress["documents"]):
      if not len(ids):
        progress["documents"] += 1
        continue
      if not 0 <= min(ids) <= max(ids) < plan.vocab_size:
        raise ValueError(f"document {progress['documents']} has tokens from"
                         f" {min(ids)} to {max(ids)}, expected ids from 0 to"
                         f" {plan.vocab_size - 1}.")
      tokens = np.asarray([*ids, plan.end_of_document])
      left = (plan.max_tokens or progress["tokens"] + len(tokens)
              ) - progress["tokens"]
      tokens[:left].astype(plan.token_dtype).tofile(file)
      progress["tokens"] += min(left, len(tokens))
      progress["documents"] += 1
      on_document(progress["documents"])
      if progress["tokens"] - saved >= save_every:
        file.flush()
        os.fsync(file.fileno())
        notes.save(folder, progress)
        saved = progress["tokens"]
      if progress["tokens"] == plan.max_tokens:
        break
  progress["read"] = True
  notes.save(folder, progress)


def _sort_chunks(folder, plan, progress, on_chunk):
  path, size = folder / _SUFFIXES, progress["tokens"]
  notes.check_length(folder / _TOKENS, size * plan.token_dtype.itemsize)
  chunk = plan.chunk_tokens
  tokens = np.memmap(folder / _TOKENS, plan.token_dtype, "r", shape=(size,))
  total = -(-size // chunk)
  with path.open("ab") as file:
    # Only whole chunks count; they are as long as their tokens.
    done = path.stat().st_size // 4
    done = size if done >= size else done // chunk * chunk
    file.truncate(4 * done)
    for start in range(done, size, chunk):
      order = datastore_lib.sort_suffixes(
          np.asarray(tokens[start:start + chunk]), plan.sort_depth)
      (order + np.uint32(start)).tofile(file)
      file.flush()
      on_chunk(start // chunk + 1, total)
