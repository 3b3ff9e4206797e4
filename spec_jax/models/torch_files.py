"""The tensors of a file that torch saved, read without torch.

A zip of raw storages and one pickle, of which only what describes tensors is
carried out: a file that asks for anything else is refused.
"""

import collections
import os
import pathlib
import pickle
import zipfile

import ml_dtypes
import numpy as np

# Storage class -> dtype, and the name that safetensors has for it.
_STORAGES = {
    "DoubleStorage": (np.float64, "F64"), "FloatStorage": (np.float32, "F32"),
    "HalfStorage": (np.float16, "F16"),
    "BFloat16Storage": (ml_dtypes.bfloat16, "BF16"),
    "LongStorage": (np.int64, "I64"), "IntStorage": (np.int32, "I32"),
    "BoolStorage": (np.bool_, "BOOL"),
}
_NAMES = {np.dtype(dtype): name for dtype, name in _STORAGES.values()}


class TorchFile:
  """As `tensor_files.TensorFiles`, of one `.pt` or `.bin` file.

  Attributes:
    shapes: tensor -> shape.
    dtypes: tensor -> dtype as safetensors calls it.
  """

  def __init__(self, path: str | os.PathLike):
    """Reads the file.

    Args:
      path: of a state dict.

    Raises:
      ValueError: if it is anything else.
    """
    try:
      with zipfile.ZipFile(path) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith("data.pkl")]
        with archive.open(name) as stream:
          state = _Unpickler(
              stream, archive, name.removesuffix("data.pkl")).load()
    except (zipfile.BadZipFile, pickle.UnpicklingError, OSError, KeyError,
            EOFError, ValueError, TypeError) as error:
      raise ValueError(
          f"{path}: expected a state dict saved by torch: {error}") from error
    if not isinstance(state, dict) or not all(
        isinstance(value, np.ndarray) for value in state.values()):
      raise ValueError(
          f"{pathlib.Path(path)}: expected a dictionary of tensors.")
    self._tensors = dict(state)
    self.shapes = {key: a.shape for key, a in state.items()}
    self.dtypes = {key: _NAMES[a.dtype] for key, a in state.items()}

  def read(self, name: str) -> np.ndarray:
    """The contents of one tensor."""
    return self._tensors[name]


class _Unpickler(pickle.Unpickler):
  """Builds dictionaries of arrays, and nothing else."""

  def __init__(self, stream, archive, folder):
    super().__init__(stream)
    self._archive, self._folder = archive, folder

  def find_class(self, module, name):
    allowed = {("collections", "OrderedDict"): collections.OrderedDict,
               ("torch._utils", "_rebuild_tensor_v2"): _tensor,
               ("torch._utils", "_rebuild_parameter"): lambda data, *_: data}
    if module == "torch" and name in _STORAGES:
      return _STORAGES[name][0]
    if (module, name) not in allowed:
      raise pickle.UnpicklingError(
          f"it asks for {module}.{name}, which no tensor needs")
    return allowed[module, name]

  def persistent_load(self, pid):
    _, dtype, key, *_ = pid
    raw = self._archive.read(f"{self._folder}data/{key}")
    return np.frombuffer(raw, dtype)


def _tensor(storage, offset, size, stride, *_):
  """A copy; a view that left its storage would read foreign memory."""
  size, stride = tuple(size), tuple(stride)
  if min((offset, *size, *stride)) < 0:
    raise ValueError(
        f"a tensor of shape {size} begins at {offset} and has strides {stride},"
        " expected no negative number")
  if not all(size):
    return np.zeros(size, storage.dtype)
  last = offset + sum((n - 1) * s for n, s in zip(size, stride))
  if last >= len(storage):
    raise ValueError(f"a tensor of shape {size} reaches beyond its storage of"
                     f" {len(storage)} numbers")
  return np.lib.stride_tricks.as_strided(
      storage[offset:], size, [step * storage.itemsize for step in stride],
      writeable=False).copy()
