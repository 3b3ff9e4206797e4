"""The tensors of a folder, in one file or in shards with an index.

Files are safetensors or what torch saved, told apart by their names.
"""

from collections.abc import Sequence
import copy
import os
import pathlib

import numpy as np
import safetensors

from spec_jax.models import hf_config
from spec_jax.models import torch_files

_SINGLE = "model.safetensors"
_SUFFIXES = (".pt", ".bin", ".safetensors")
_FLOATING = ("F64", "F32", "F16", "BF16")


class TensorFiles:
  """Names, shapes and dtypes at once; contents on demand.

  Attributes:
    shapes: tensor -> shape.
    dtypes: tensor -> dtype as safetensors calls it.
    problems: one line for each contradiction between index and shards.
  """

  def __init__(self, path: str | os.PathLike, single: str = _SINGLE):
    """Reads the headers of the files.

    Args:
      path: the folder.
      single: the file that may hold all of them; the index of shards is called
        like it, see `index_of`.

    Raises:
      ValueError: no weights, a missing shard, or a broken file.
    """
    folder = pathlib.Path(path)
    self._folder, self.shapes, self.dtypes = folder, {}, {}
    self._names = {}  # Tensor -> what the files call it, if that is different.
    self._found = {}  # Tensor -> the files that hold it, by name.
    self._index_name = index_of(single)
    index = self._read_index(folder, single)
    names = sorted(set(index.values())) if index else [single]
    absent = [name for name in names if not (folder / name).is_file()]
    if absent:
      raise ValueError(
          f"{folder}: weight files {absent} are missing"
          + (f", listed in {self._index_name}." if index else f"; it holds"
             f" {_listing(folder)}. Expected {single} or"
             f" {self._index_name}."))
    for name in names:
      self._take_in(name, _open(folder / name))
    self.problems = self._contradictions(index)

  def is_floating(self, name: str) -> bool:
    return self.dtypes[name] in _FLOATING

  def read(self, name: str) -> np.ndarray:
    """The contents of one tensor; raises ValueError if any is not finite."""
    inside = self._names.get(name, name)
    called, file = next(iter(self._found[inside].items()))
    array = file.read(inside)
    if self.is_floating(name) and not np.isfinite(array).all():
      raise ValueError(f"{self._folder / called}: {inside} holds values that"
                       " are not finite, a broken file.")
    return array

  def without_prefix(self, prefix: str) -> "TensorFiles":
    """The same, with `prefix` left out of names as often as it begins them.

    Two tensors that come to be called the same are among the `problems`.
    """
    new = copy.copy(self)
    new._names, new.shapes, new.dtypes = {}, {}, {}
    new.problems = list(self.problems)
    for name, shape in self.shapes.items():
      short = name
      while short.startswith(prefix):
        short = short.removeprefix(prefix)
      if short in new._names:
        new.problems.append(f"twice {short}: {new._names[short]} and {name}")
      new._names[short] = self._names.get(name, name)
      new.shapes[short], new.dtypes[short] = shape, self.dtypes[name]
    return new

  def _read_index(self, folder, single):
    """Tensor -> shard; empty when all tensors are in one file."""
    source = folder / self._index_name
    if (folder / single).is_file() or not source.is_file():
      return {}
    index = hf_config.read_json(source).get("weight_map")
    if not isinstance(index, dict) or not index:
      raise ValueError(f"{source}: expected a 'weight_map'.")
    return index

  def _take_in(self, name, file):
    self.shapes |= file.shapes
    self.dtypes |= file.dtypes
    for tensor in file.shapes:
      self._found.setdefault(tensor, {})[name] = file

  def _contradictions(self, index):
    lines = [f"twice {tensor}: in {list(files)}"
             for tensor, files in self._found.items() if len(files) > 1]
    return lines + [
        f"not in its shard {tensor}: {self._index_name} says {shard}"
        for tensor, shard in index.items()
        if shard not in self._found.get(tensor, ())]


class _SafetensorsFile:
  """One file, as `torch_files.TorchFile` is one."""

  def __init__(self, path):
    self._path = path
    self.shapes, self.dtypes = {}, {}
    with self._tensors() as tensors:
      for name in tensors.keys():
        info = tensors.get_slice(name)
        self.shapes[name] = tuple(info.get_shape())
        self.dtypes[name] = info.get_dtype()

  def read(self, name):
    with self._tensors() as tensors:
      return tensors.get_tensor(name)

  def _tensors(self):
    try:
      return safetensors.safe_open(self._path, framework="numpy")
    except (safetensors.SafetensorError, OSError) as error:
      raise ValueError(f"{self._path}: broken or truncated safetensors file:"
                       f" {error}") from error


def index_of(single: str) -> str:
  """What the index is called where the tensors of a file lie in shards."""
  return f"{single}.index.json"


def open_folder(path: str | os.PathLike, stems: Sequence[str]) -> TensorFiles:
  """The tensors of a folder whose files may have several names.

  Args:
    path: the folder.
    stems: names without an ending; the first one that is there counts.

  Raises:
    ValueError: none of them is there, or see `TensorFiles`.
  """
  folder = pathlib.Path(path)
  for single in [stem + suffix for stem in stems for suffix in _SUFFIXES]:
    if (folder / single).is_file() or (folder / index_of(single)).is_file():
      return TensorFiles(folder, single)
  raise ValueError(
      f"{folder} holds {_listing(folder)}, expected one of {tuple(stems)} as"
      f" {', '.join(_SUFFIXES)}.")


def _open(file):
  """What is not called safetensors was saved by torch."""
  if file.suffix == ".safetensors":
    return _SafetensorsFile(file)
  return torch_files.TorchFile(file)


def _listing(folder):
  return sorted(file.name for file in folder.iterdir())
