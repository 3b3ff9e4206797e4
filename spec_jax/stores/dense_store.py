"""A store of continuations keyed by hidden states, on disk.

A folder with `header.json` and arrays that are read through memory maps. The
header goes last, so that half a store is none.
"""

from collections.abc import Iterable
import dataclasses
import json
import os
import pathlib
from typing import Any

import numpy as np

from spec_jax.stores import dense_index
from spec_jax.stores import notes

FORMAT, VERSION = "spec_jax dense store", 1
HEADER = "header.json"
_ARRAYS = ("keys", "values", "mean", "std", "components", "centres", "starts",
           "members")
_HOW = "; build one with python -m experiments.build_dense_store"


@dataclasses.dataclass(frozen=True, eq=False)
class DenseStore:
  """An opened store.

  Attributes:
    projection: from hidden states to keys.
    keys: `f16[n, C]`, unit vectors.
    values: `u32[n, T]`, the tokens that followed; the end of a document is
      repeated behind it.
    cells: of the keys.
    header: what `write` was told.
  """

  projection: dense_index.Projection
  keys: np.ndarray
  values: np.ndarray
  cells: dense_index.Cells
  header: dict[str, Any]

  def search(self, hidden: np.ndarray, count: int, num_cells: int
             ) -> tuple[np.ndarray, np.ndarray]:
    """Continuations `u32[k, T]` and cosines of the nearest hidden states."""
    found, cosines = dense_index.search(
        self.keys, self.cells, self.projection(hidden), count, num_cells)
    return self.values[found], cosines


def write(folder: str | os.PathLike, projection: dense_index.Projection,
          parts: Iterable[tuple[np.ndarray, np.ndarray]], vocab_size: int,
          end_of_document: int, num_cells: int | None = None) -> None:
  """Projects, indexes and saves.

  Args:
    folder: new, or one whose store is replaced.
    projection: see `dense_index.fit`.
    parts: hidden states `f[m, E]` with what followed them, `i[m, T]`.
    vocab_size: of the tokenizer.
    end_of_document: no draft contains it.
    num_cells: see `dense_index.make_cells`.

  Raises:
    ValueError: there are no hidden states.
  """
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  (folder / HEADER).unlink(missing_ok=True)
  keys, values = [], []
  for hidden, following in parts:
    keys.append(projection(hidden).astype(np.float16))
    values.append(np.asarray(following, np.uint32))
  if not keys:
    raise ValueError(f"{folder}: no hidden states to store.")
  keys, values = np.concatenate(keys), np.concatenate(values)
  cells = dense_index.make_cells(keys, num_cells)
  save_arrays(folder, dict(
      keys=keys, values=values, mean=projection.mean, std=projection.std,
      components=projection.components, centres=cells.centres,
      starts=cells.starts, members=cells.members))
  write_header(folder, vocab_size, end_of_document, projection.explained)


def save_arrays(folder: pathlib.Path, arrays: dict[str, np.ndarray]) -> None:
  """Each in a file of its own, whole or not at all."""
  for name, array in arrays.items():
    partial = folder / f"{name}.part"
    with partial.open("wb") as file:
      np.save(file, array)
      file.flush()
      os.fsync(file.fileno())
    partial.replace(folder / f"{name}.npy")


def write_header(folder: pathlib.Path, vocab_size: int, end_of_document: int,
                 explained: float, **fields: Any) -> None:
  """Goes last, in one piece: half a store is none."""
  arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r")
            for name in _ARRAYS}
  notes.write(folder / HEADER, {
      "format": FORMAT, "version": VERSION, "size": len(arrays["keys"]),
      "hidden_size": len(arrays["mean"]), "vocab_size": vocab_size,
      "end_of_document": end_of_document, "explained": explained,
      "bytes": {name: arrays[name].nbytes for name in _ARRAYS}} | fields)


def open_store(folder: str | os.PathLike, vocab_size: int | None = None,
               hidden_size: int | None = None) -> DenseStore:
  """Maps a store into memory.

  Args:
    folder: of `write`.
    vocab_size: that it must have, or None.
    hidden_size: that it must have, or None.

  Raises:
    ValueError: there is no store, it is broken, or of another target.
  """
  folder = pathlib.Path(folder)
  header = _read_header(folder)
  for name, wanted in (("vocab_size", vocab_size),
                       ("hidden_size", hidden_size)):
    if wanted is not None and header[name] != wanted:
      raise ValueError(f"{folder}: the dense store has {name}={header[name]},"
                       f" the target {wanted}" + _HOW + ".")
  arrays = {}
  for name in _ARRAYS:
    path = folder / f"{name}.npy"
    try:
      arrays[name] = np.load(path, mmap_mode="r").view(np.ndarray)
      is_whole = arrays[name].nbytes == header["bytes"][name]
    except (OSError, ValueError, EOFError) as error:
      raise ValueError(f"{path}: missing or broken ({error})" + _HOW + "."
                       ) from error
    if not is_whole:
      raise ValueError(f"{path}: {arrays[name].nbytes} bytes of data, expected"
                       f" {header['bytes'][name]}" + _HOW + ".")
  projection = dense_index.Projection(
      arrays["mean"], arrays["std"], arrays["components"], header["explained"])
  cells = dense_index.Cells(
      arrays["centres"], arrays["starts"], arrays["members"])
  return DenseStore(projection, arrays["keys"], arrays["values"], cells, header)


def _read_header(folder):
  path = folder / HEADER
  try:
    header = json.loads(path.read_text(encoding="utf-8"))
  except OSError as error:
    raise ValueError(f"{folder}: no dense store there, expected a folder with"
                     f" {HEADER} ({error.strerror})" + _HOW + ".") from error
  except ValueError as error:
    raise ValueError(f"{path}: not JSON ({error})" + _HOW + ".") from error
  known = isinstance(header, dict) and header.get("format") == FORMAT
  if not known or header.get("version") != VERSION:
    raise ValueError(f"{path}: not the header of a dense store of version"
                     f" {VERSION}" + _HOW + ".")
  missing = [name for name in ("vocab_size", "hidden_size", "end_of_document",
                               "explained", "bytes") if name not in header]
  if missing or set(header["bytes"]) != set(_ARRAYS):
    raise ValueError(f"{path}: {missing or 'bytes'} missing" + _HOW + ".")
  return header
