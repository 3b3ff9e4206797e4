"""A token corpus with a suffix array, on disk, read through memory maps.

A folder with `header.json`, `tokens.bin` and `suffixes.bin`. The suffixes are
sorted by their first `sort_depth` tokens only: nobody asks for longer patterns,
and it makes the sort cheap. They are sorted in chunks, so that the sort fits
into memory; a pattern across the border of two chunks is not found. Documents
end with a token of their own, so that no draft runs from one into the next.
"""

from collections.abc import Sequence
import dataclasses
import json
import os
import pathlib
from typing import Any

import numpy as np

from spec_jax.stores import notes

FORMAT, VERSION = "spec_jax datastore", 1
_HEADER, _TOKENS, _SUFFIXES = "header.json", "tokens.bin", "suffixes.bin"
_REQUIRED = {"format": str, "version": int, "num_tokens": int,
             "token_dtype": str, "sort_depth": int, "chunk_tokens": int,
             "vocab_size": int, "end_of_document": int, "checksum": int}
_HOW = "; build one with python -m experiments.build_datastore"


def sort_suffixes(tokens: np.ndarray, depth: int) -> np.ndarray:
  """Suffixes in the order of their first `depth` tokens, `u32[n]`.

  Prefix doubling (Manber and Myers 1993): the rank of the first 2k tokens is
  the pair of two ranks of k. Ties keep the order of the text.
  """
  size, depth = len(tokens), min(depth, len(tokens))
  rank = tokens.astype(np.int64) + 1  # 0 stands behind the end of the text.
  order, reach = np.argsort(rank, kind="stable"), 1
  while reach < depth:
    step = min(reach, depth - reach)
    behind = np.zeros(size, np.int64)
    behind[:size - step] = rank[step:]
    order = np.lexsort((behind, rank))
    pairs = rank[order], behind[order]
    is_new = np.ones(size, bool)
    is_new[1:] = (pairs[0][1:] != pairs[0][:-1]) | (
        pairs[1][1:] != pairs[1][:-1])
    rank = np.empty(size, np.int64)
    rank[order] = np.cumsum(is_new)
    reach += step
  return order.astype(np.uint32)


@dataclasses.dataclass(frozen=True, eq=False)
class Datastore:
  """An opened store.

  Attributes:
    tokens: `u16[n]` or `u32[n]`.
    suffixes: `u32[n]`, see `sort_suffixes`.
    header: what `build` wrote.
  """

  tokens: np.ndarray
  suffixes: np.ndarray
  header: dict[str, Any]

  @property
  def max_pattern(self) -> int:
    """Longest pattern that can be looked up."""
    return self.header["sort_depth"]

  def find(self, pattern: Sequence[int]) -> list[tuple[int, int]]:
    """The suffixes that begin with a pattern.

    Returns:
      Intervals `[low, high)` of `suffixes`, none of them empty; one per chunk.

    Raises:
      ValueError: the pattern is empty or longer than the sort is deep.
    """
    pattern = [int(token) for token in pattern]
    if not 1 <= len(pattern) <= self.max_pattern:
      raise ValueError(f"a pattern of {len(pattern)} tokens, expected 1 to"
                       f" {self.max_pattern}, the store's sort depth.")
    found, chunk = [], self.header["chunk_tokens"]
    for start in range(0, len(self.tokens), chunk):
      stop = min(start + chunk, len(self.tokens))
      low = self._bound(pattern, False, start, stop, stop)
      high = self._bound(pattern, True, low, stop, stop)
      if high > low:
        found.append((low, high))
    return found

  def _bound(self, pattern, with_equal, low, high, end):
    """Binary search among the suffixes of the chunk that ends at `end`."""
    size = len(pattern)
    while low < high:
      middle = (low + high) // 2
      start = int(self.suffixes[middle])
      found = self.tokens[start:min(start + size, end)].tolist()
      if found < pattern or with_equal and found == pattern:
        low = middle + 1
      else:
        high = middle
    return low

  def longest_suffix(self, context: Sequence[int], longest: int,
                     shortest: int = 1
                     ) -> tuple[int, list[tuple[int, int]]]:
    """The longest suffix of a text that occurs, and where.

    Args:
      context: the text.
      longest: tokens to try at most.
      shortest: tokens to try at least.

    Returns:
      Its length, 0 if there is none, and intervals as of `find`.
    """
    longest = min(longest, self.max_pattern, len(context))
    found = 0, []
    # What ends a suffix that occurs occurs itself, so halving the range works.
    while shortest <= longest:
      size = (shortest + longest + 1) // 2
      places = self.find(context[len(context) - size:])
      if places:
        found, shortest = (size, places), size + 1
      else:
        longest = size - 1
    return found

  def continuations(self, places: Sequence[tuple[int, int]], skip: int,
                    size: int, max_hits: int
                    ) -> tuple[np.ndarray, np.ndarray]:
    """What follows the occurrences of a pattern.

    Args:
      places: from `find`.
      skip: length of the pattern.
      size: tokens to return of each.
      max_hits: of more occurrences that many are taken, evenly spread.

    Returns:
      `i64[R, size]` and `i64[R]`, how many tokens count: a document's end, and
      what comes after it, do not.
    """
    total = sum(high - low for low, high in places)
    hits = min(total, max_hits)
    picked = np.arange(hits, dtype=np.int64) * total // max(hits, 1)
    sizes = np.asarray([high - low for low, high in places])
    chunk = np.searchsorted(np.cumsum(sizes), picked, side="right")
    lows = np.asarray([low for low, _ in places]) - (np.cumsum(sizes) - sizes)
    picked += lows[chunk]
    starts = self.suffixes[picked].astype(np.int64) + skip
    where = starts[:, None] + np.arange(size)
    rows = self.tokens[np.minimum(where, len(self.tokens) - 1)].astype(np.int64)
    is_over = (rows == self.header["end_of_document"]) | (
        where >= len(self.tokens))
    lengths = np.where(is_over.any(1), is_over.argmax(1), size)
    return rows, lengths


def write(folder: str | os.PathLike, tokens: np.ndarray, vocab_size: int,
          end_of_document: int, sort_depth: int = 32,
          chunk_tokens: int = 1 << 24) -> None:
  """Sorts and saves a corpus that fits into memory.

  Args:
    folder: made if it does not exist.
    tokens: `u16[n]` or `u32[n]`, each document followed by `end_of_document`.
    vocab_size: of the tokenizer.
    end_of_document: no draft contains it.
    sort_depth: longest pattern that can be looked up.
    chunk_tokens: sorted at once.
  """
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  (folder / _HEADER).unlink(missing_ok=True)
  tokens = np.ascontiguousarray(tokens)
  tokens.tofile(folder / _TOKENS)
  with (folder / _SUFFIXES).open("wb") as file:
    for start in range(0, len(tokens), chunk_tokens):
      chunk = tokens[start:start + chunk_tokens]
      (sort_suffixes(chunk, sort_depth) + np.uint32(start)).tofile(file)
  write_header(folder, tokens.dtype.name, len(tokens), {
      "sort_depth": sort_depth, "chunk_tokens": chunk_tokens,
      "vocab_size": vocab_size, "end_of_document": end_of_document})


def write_header(folder: pathlib.Path, token_dtype: str, num_tokens: int,
                 fields: dict[str, Any]) -> None:
  """Goes last, in one piece: half a store is none."""
  tokens = _map(folder / _TOKENS, token_dtype, num_tokens)
  suffixes = _map(folder / _SUFFIXES, "uint32", num_tokens)
  header = {"format": FORMAT, "version": VERSION, "num_tokens": num_tokens,
            "token_dtype": token_dtype,
            "checksum": checksum(tokens, suffixes)} | fields
  notes.write(folder / _HEADER, header)


def checksum(tokens: np.ndarray, suffixes: np.ndarray) -> int:
  """A sum over 4,096 places of both files: cheap, and sees a foreign file."""
  places = np.linspace(0, len(tokens) - 1, 4096).astype(np.int64)
  mixed = (tokens[places].astype(np.uint64) * np.uint64(2654435761)
           + suffixes[places].astype(np.uint64))
  weights = np.arange(1, len(places) + 1, dtype=np.uint64)
  return int((mixed * weights).sum() % np.uint64(2 ** 53))


def open_store(folder: str | os.PathLike, vocab_size: int | None = None
               ) -> Datastore:
  """Maps a store into memory.

  Args:
    folder: of `write`.
    vocab_size: that it must have, or None.

  Raises:
    ValueError: there is no store, it is broken, or of another vocabulary.
  """
  folder = pathlib.Path(folder)
  header = _read_header(folder)
  if vocab_size is not None and header["vocab_size"] != vocab_size:
    raise ValueError(
        f"{folder}: the datastore has a vocabulary of {header['vocab_size']}"
        f" tokens, the target one of {vocab_size}" + _HOW + ".")
  tokens = _map(folder / _TOKENS, header["token_dtype"], header["num_tokens"])
  suffixes = _map(folder / _SUFFIXES, "uint32", header["num_tokens"])
  if checksum(tokens, suffixes) != header["checksum"]:
    raise ValueError(f"{folder}: {_TOKENS} or {_SUFFIXES} is not what"
                     f" {_HEADER} describes (wrong checksum)" + _HOW + ".")
  return Datastore(tokens, suffixes, header)


def _read_header(folder):
  path = folder / _HEADER
  try:
    header = json.loads(path.read_text(encoding="utf-8"))
  except OSError as error:
    raise ValueError(f"{folder}: no datastore there, expected a folder with"
                     f" {_HEADER} ({error.strerror})" + _HOW + ".") from error
  except ValueError as error:
    raise ValueError(f"{path}: not JSON ({error})" + _HOW + ".") from error
  if not isinstance(header, dict) or header.get("format") != FORMAT:
    raise ValueError(f"{path}: not the header of a datastore, expected"
                     f" \"format\": \"{FORMAT}\"" + _HOW + ".")
  if header.get("version") != VERSION:
    raise ValueError(f"{path}: version {header.get('version')!r}, expected"
                     f" {VERSION}" + _HOW + ".")
  for key, kind in _REQUIRED.items():
    if not isinstance(header.get(key), kind):
      raise ValueError(f"{path}: {key}={header.get(key)!r}, expected"
                       f" {kind.__name__}" + _HOW + ".")
  if header["token_dtype"] not in ("uint16", "uint32"):
    raise ValueError(f"{path}: token_dtype={header['token_dtype']!r}, expected"
                     " uint16 or uint32" + _HOW + ".")
  return header


def _map(path, dtype, count):
  size = np.dtype(dtype).itemsize * count
  found = path.stat().st_size if path.is_file() else None
  if found != size or not count:
    raise ValueError(
        f"{path}: {'missing' if found is None else f'{found} bytes'}, expected"
        f" {size} bytes" + _HOW + ".")
  # A plain view: slices of `np.memmap` itself cost several times as much.
  return np.memmap(path, dtype, "r").view(np.ndarray)
