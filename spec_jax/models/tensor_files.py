"""The tensors of a folder of safetensors, one file or shards with an index."""

import collections
import os
import pathlib

import numpy as np
import safetensors

from spec_jax.models import hf_config

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
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
      single: the file that may hold all of them.

    Raises:
      ValueError: no weights, a missing shard, or a broken file.
    """
    folder = pathlib.Path(path)
    self.shapes, self.dtypes = {}, {}
    self._found = collections.defaultdict(list)
    index = _read_index(folder, single)
    names = sorted(set(index.values())) if index else [single]
    absent = [name for name in names if not (folder / name).is_file()]
    if absent:
      raise ValueError(
          f"{folder}: weight files {absent} are missing"
          + (f", listed in {_INDEX}." if index else f"; it holds"
             f" {sorted(file.name for file in folder.iterdir())}. Expected"
             f" {single} or {_INDEX}."))
    for name in names:
      self._read_header(folder / name)
    self.problems = self._contradictions(index)

  def is_floating(self, name: str) -> bool:
    return self.dtypes[name] in _FLOATING

  def read(self, name: str) -> np.ndarray:
    """The contents of one tensor; raises ValueError if any is not finite."""
    file = self._found[name][0]
    with _open(file) as tensors:
      array = tensors.get_tensor(name)
    if self.is_floating(name) and not np.isfinite(array).all():
      raise ValueError(f"{file}: {name} holds values that are not finite, a"
                       " broken file.")
    return array

  def _read_header(self, file):
    with _open(file) as tensors:
      for name in tensors.keys():
        info = tensors.get_slice(name)
        self.shapes[name] = tuple(info.get_shape())
        self.dtypes[name] = info.get_dtype()
        self._found[name].append(file)

  def _contradictions(self, index):
    lines = []
    for name, files in self._found.items():
      if len(files) > 1:
        lines.append(f"twice {name}: in {[file.name for file in files]}")
    for name, shard in index.items():
      if shard not in [file.name for file in self._found.get(name, ())]:
        lines.append(f"not in its shard {name}: {_INDEX} says {shard}")
    return lines


def _read_index(folder, single):
  """Tensor -> shard; empty when all tensors are in one file."""
  if (folder / single).is_file() or not (folder / _INDEX).is_file():
    return {}
  index = hf_config.read_json(folder / _INDEX).get("weight_map")
  if not isinstance(index, dict) or not index:
    raise ValueError(f"{folder / _INDEX}: expected a 'weight_map'.")
  return index


def _open(file):
  try:
    return safetensors.safe_open(file, framework="numpy")
  except (safetensors.SafetensorError, OSError) as error:
    raise ValueError(
        f"{file}: broken or truncated safetensors file: {error}") from error
