"""What a build has done, noted in its folder, so that it can be interrupted.

A build's files grow; `progress.json` says how much of them counts and what is
built, and goes when the store's header comes. A note is written whole or not at
all: a process may be killed at any moment.
"""

import json
import os
import pathlib
from typing import Any

import numpy as np

NOTE = "progress.json"


def write(path: pathlib.Path, value: Any) -> None:
  """JSON in one piece."""
  partial = _partial(path)
  with partial.open("w", encoding="utf-8") as file:
    json.dump(value, file, indent=1)
    file.flush()
    os.fsync(file.fileno())
  partial.replace(path)


def save(folder: pathlib.Path, progress: dict[str, Any]) -> None:
  """Notes what is done; files that it counts on are flushed before."""
  write(folder / NOTE, progress)


def read(folder: pathlib.Path, plan: dict[str, Any], fresh: dict[str, Any],
         what: str) -> dict[str, Any]:
  """The note of an interrupted build, or that of a new one.

  Args:
    folder: exists.
    plan: what is to be built.
    fresh: the progress of a build that begins; a note has the same keys, with
      values of the same types.
    what: is built, such as "a datastore".

  Raises:
    ValueError: the folder is somebody else's, the note is broken, or half of
      another plan is there.
  """
  path = folder / NOTE
  if not path.exists():
    _partial(path).unlink(missing_ok=True)  # Killed in its very first note.
    strangers = sorted(file.name for file in folder.iterdir())
    if strangers:
      raise ValueError(f"{folder} is not empty (it has {strangers[0]}), and not"
                       f" {what}; expected an empty or new folder.")
    return {"plan": plan} | fresh
  try:
    progress = json.loads(path.read_text(encoding="utf-8"))
    found = progress["plan"]
    for key, value in fresh.items():
      entry = progress[key]
      is_count = type(value) is int
      if type(entry) is not type(value) or is_count and entry < 0:
        raise TypeError(f"{key}={entry!r}, expected"
                        f" {'a count' if is_count else type(value).__name__}")
  except (OSError, KeyError, TypeError, ValueError) as error:
    raise broken(folder, f"{type(error).__name__}: {error}") from error
  check_same(folder, plan, found, f"half of {what}")
  return progress


def broken(folder: pathlib.Path, reason: str) -> ValueError:
  """A build that cannot go on."""
  return ValueError(f"{folder / NOTE} is broken ({reason}); remove {folder} and"
                    " build again.")


def check_length(path: pathlib.Path, size: int) -> None:
  """Raises ValueError if a file has fewer bytes than the note counts on."""
  found = path.stat().st_size if path.is_file() else 0
  if found < size:
    raise ValueError(f"{path} is shorter than {NOTE} says ({found} bytes,"
                     f" expected {size}); remove {path.parent} and build"
                     " again.")


def check_same(folder: pathlib.Path, plan: dict[str, Any], found: Any,
               what: str) -> None:
  """Raises ValueError if a folder holds something of another plan."""
  if found != plan:
    found = found if isinstance(found, dict) else {}
    differs = [key for key, value in plan.items() if found.get(key) != value]
    raise ValueError(
        f"{folder} holds {what} of another plan (other: {', '.join(differs)});"
        " choose another folder, or remove it.")


def finish(folder: pathlib.Path) -> None:
  """Takes the note away; the header stands already."""
  (folder / NOTE).unlink(missing_ok=True)
  _partial(folder / NOTE).unlink(missing_ok=True)


def _partial(path):
  return path.with_name(path.name + ".part")


class Rows:
  """A `.npy` file that grows by rows, and is cut where the note ends.

  NumPy leaves room in the file's head for a larger number of rows, so that the
  head, which counts none at first, can be replaced when all are there.
  """

  def __init__(self, path: pathlib.Path, dtype: Any, shape: tuple[int, ...],
               count: int):
    """Opens the file.

    Args:
      path: made if `count` is 0.
      dtype: of the elements.
      shape: of a row.
      count: rows that are kept; what stands behind them goes.

    Raises:
      ValueError: fewer rows are there.
    """
    self._dtype, self._shape = np.dtype(dtype), tuple(shape)
    self.count = count
    row_bytes = self._dtype.itemsize * int(np.prod(shape))
    if count:
      check_length(path, count * row_bytes)
      self._file = path.open("r+b")
      size = self._read_head(path) + count * row_bytes
      check_length(path, size)
      self._file.truncate(size)
    else:
      self._file = path.open("w+b")
      self._write_head(0)
    self._file.seek(0, os.SEEK_END)

  def append(self, rows: np.ndarray) -> None:
    """`[m, ...]`, cast to the file's type."""
    rows = np.ascontiguousarray(rows, self._dtype)
    if rows.shape[1:] != self._shape:
      raise ValueError(f"rows of shape {rows.shape[1:]}, expected"
                       f" {self._shape}.")
    rows.tofile(self._file)
    self.count += len(rows)

  def sync(self) -> None:
    """All rows are on the disk afterwards."""
    self._file.flush()
    os.fsync(self._file.fileno())

  def close(self) -> None:
    """Writes the number of rows into the head."""
    self._file.seek(0)
    self._write_head(self.count)
    self.sync()
    self._file.close()

  def _write_head(self, count):
    np.lib.format.write_array_header_1_0(self._file, {
        "descr": np.lib.format.dtype_to_descr(self._dtype),
        "fortran_order": False, "shape": (count, *self._shape)})
    self._file.flush()

  def _read_head(self, path):
    """Its bytes; raises ValueError if it is not that of such rows."""
    try:
      np.lib.format.read_magic(self._file)
      shape, _, dtype = np.lib.format.read_array_header_1_0(self._file)
    except (ValueError, EOFError) as error:
      raise broken(path.parent, f"{path.name}: {error}") from error
    if shape[1:] != self._shape or dtype != self._dtype:
      raise broken(path.parent, f"{path.name} has rows {dtype}{shape[1:]},"
                   f" expected {self._dtype}{self._shape}")
    return self._file.tell()
