"""Writes a state dict as torch saves it, without torch.

A zip of raw storages and a pickle that names torch's functions; that these
exist is feigned while it is written.
"""

import collections
import dataclasses
import io
import pathlib
import pickle
import sys
import types as types_lib
from unittest import mock
import zipfile

import numpy as np

_STORAGES = {"float64": "DoubleStorage", "float32": "FloatStorage",
             "float16": "HalfStorage", "int64": "LongStorage",
             "int32": "IntStorage", "bool": "BoolStorage"}


@dataclasses.dataclass(frozen=True)
class View:
  """A tensor as the pickle describes it, right or wrong."""

  storage: np.ndarray
  offset: int
  size: tuple[int, ...]
  stride: tuple[int, ...]

  def __reduce__(self):
    return _TORCH["torch._utils"]._rebuild_tensor_v2, (
        _Storage(self.storage), self.offset, self.size, self.stride, False,
        collections.OrderedDict())


@dataclasses.dataclass(frozen=True)
class _Storage:
  content: np.ndarray


def _rebuild_tensor_v2():
  """Only its name is written."""


_rebuild_tensor_v2.__module__ = "torch._utils"
_TORCH = {name: types_lib.ModuleType(name)
          for name in ("torch", "torch._utils")}
_TORCH["torch._utils"]._rebuild_tensor_v2 = _rebuild_tensor_v2
for _name in _STORAGES.values():
  setattr(_TORCH["torch"], _name, type(_name, (), {"__module__": "torch"}))


class _Pickler(pickle.Pickler):
  """Keeps the storages aside."""

  def __init__(self, stream):
    super().__init__(stream, protocol=2)
    self.storages = []

  def persistent_id(self, obj):
    if not isinstance(obj, _Storage):
      return None
    self.storages.append(obj.content)
    kind = getattr(_TORCH["torch"], _STORAGES[obj.content.dtype.name])
    return ("storage", kind, str(len(self.storages) - 1), "cpu",
            obj.content.size)


def whole(array: np.ndarray) -> View:
  """All of an array."""
  strides = tuple(step // array.itemsize for step in array.strides)
  return View(np.ravel(array), 0, array.shape, strides)


def save(path: pathlib.Path, tensors: dict[str, np.ndarray | View]) -> None:
  """Writes `tensors` by name."""
  stream = io.BytesIO()
  pickler = _Pickler(stream)
  with mock.patch.dict(sys.modules, _TORCH):
    pickler.dump({
        name: value if isinstance(value, View) else whole(
            np.ascontiguousarray(value)) for name, value in tensors.items()})
  with zipfile.ZipFile(path, "w") as archive:
    archive.writestr(f"{path.stem}/data.pkl", stream.getvalue())
    for key, storage in enumerate(pickler.storages):
      archive.writestr(f"{path.stem}/data/{key}", storage.tobytes())
