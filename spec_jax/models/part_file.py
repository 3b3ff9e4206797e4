"""A trained part of a system on disk: one safetensors file beside a bundle.

Its metadata hold the hyper-parameters and which target it was trained for: a
part works with that one only. A part may be written with 8 bits a weight: what
it drafts is verified anyhow, so that costs a little acceptance at most. The
target that a part may bring is the one in its file, rounded as that is.
"""

import hashlib
import json
import os
import pathlib
from typing import Any

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

FOLDER = "heads"
_HYPER, _MADE_FOR = "hyper_parameters", "made_for"
_SCALE = ":scale"  # Follows the name of a tensor of 8 bits.
_LEAST_PACKED = 4096  # Smaller tensors stay as they are.


def fingerprint(target_file: str | os.PathLike) -> str:
  """Of a target's weights, as they lie on the disk."""
  return hashlib.sha256(pathlib.Path(target_file).read_bytes()).hexdigest()


def write(folder: str | os.PathLike, name: str, hyper: dict[str, Any],
          params: Any, made_for: str, bits: int = 16) -> pathlib.Path:
  """Adds a part to the bundle in `folder`; returns its file.

  Args:
    folder: of the bundle; a part of that name is replaced.
    name: what systems ask for.
    hyper: hyper-parameters, JSON values.
    params: a pytree of dictionaries.
    made_for: the target's `fingerprint`.
    bits: 16, or 8 for matrices, each column with a scale of its own.
  """
  path = pathlib.Path(folder) / FOLDER / f"{name}.safetensors"
  path.parent.mkdir(parents=True, exist_ok=True)
  flat = flat_16_bits(params)
  if bits == 8:
    flat = packed(flat)
  safetensors.numpy.save_file(
      flat, path, {_HYPER: json.dumps(hyper), _MADE_FOR: made_for})
  path.chmod(0o644)  # safetensors makes files that only their owner reads.
  return path


def read(path: pathlib.Path, made_for: str) -> tuple[dict[str, Any], Any]:
  """Hyper-parameters and parameters, in 32 bits, of a trained part.

  Args:
    path: of the file.
    made_for: fingerprint of the target at hand.

  Raises:
    ValueError: the file is broken, lacks its metadata, or holds a part that was
      trained for another target.
  """
  try:
    with safetensors.safe_open(path, "np") as file:
      metadata = file.metadata() or {}
      hyper, expected = json.loads(metadata[_HYPER]), metadata[_MADE_FOR]
      flat = unpacked({key: file.get_tensor(key) for key in file.keys()})
  except (OSError, safetensors.SafetensorError, KeyError,
          json.JSONDecodeError) as error:
    raise ValueError(
        f"{path}: expected a safetensors file whose metadata holds {_HYPER!r}"
        f" and {_MADE_FOR!r}: {error}") from error
  if expected != made_for:
    raise ValueError(
        f"{path}: trained for a target with fingerprint {expected[:12]}, but"
        f" that of this bundle is {made_for[:12]}. Train it again: python -m"
        f" experiments.train --system={path.stem} --install.")
  return hyper, traverse_util.unflatten_dict(
      {key: jnp.asarray(value) for key, value in flat.items()}, sep="/")


def flat_16_bits(tree: Any) -> dict[str, np.ndarray]:
  """Arrays by path; floats become float16, integers stay."""
  flat = traverse_util.flatten_dict(jax.device_get(tree), sep="/")
  narrow = lambda a: a if np.issubdtype(a.dtype, np.integer) else (
      a.astype(np.float16))
  return {key: narrow(np.asarray(value)) for key, value in flat.items()}


def packed(flat: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Matrices as int8, and a scale for each place along their last axis."""
  found = {}
  for key, array in flat.items():
    if (np.issubdtype(array.dtype, np.integer) or array.ndim < 2
        or array.size < _LEAST_PACKED):
      found[key] = array
      continue
    wide = array.astype(np.float32)
    most = np.abs(wide).max(axis=tuple(range(array.ndim - 1)))
    # Rounded first, so that reading divides by what writing multiplied with.
    scale = np.maximum(most / 127, 1e-7).astype(np.float16)
    levels = np.rint(wide / scale.astype(np.float32))
    found[key] = np.clip(levels, -127, 127).astype(np.int8)
    found[key + _SCALE] = scale
  return found


def unpacked(flat: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """The inverse of `packed`, in float32 and int32.

  Integers with a scale may be of any width: 16 bits hold a sum of rows of 8
  bits as it is.
  """
  found = {}
  for key, array in flat.items():
    if key.endswith(_SCALE):
      continue
    is_whole = np.issubdtype(array.dtype, np.integer)
    scale = flat.get(key + _SCALE)
    found[key] = array.astype(
        np.int32 if is_whole and scale is None else np.float32)
    if scale is not None:
      found[key] *= scale.astype(np.float32)
  return found
