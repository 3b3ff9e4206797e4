"""Which tokens the rows of a trimmed output head stand for, in EAGLE-3's files.

Row i is token `i + d2t[i]`: the file holds offsets, not token ids. `t2d` marks
the tokens that have a row.
"""

import os

import numpy as np

from spec_jax.models import tensor_files

_OFFSETS, _MARKS = "d2t", "t2d"
NAMES = (_OFFSETS, _MARKS)


def problems(files: tensor_files.TensorFiles, num_rows: int, vocab_size: int
             ) -> list[str]:
  """One line for each of the two tensors that is there and not as it should be.

  Args:
    files: of the draft.
    num_rows: of its output head.
    vocab_size: of its target.
  """
  lines = []
  for name, size, kind, is_kind in (
      (_OFFSETS, num_rows, "integers", lambda dtype: dtype[0] in "IU"),
      (_MARKS, vocab_size, "booleans", lambda dtype: dtype == "BOOL")):
    if name not in files.shapes:
      continue
    if files.shapes[name] != (size,):
      lines.append(
          f"{name}: expected shape {(size,)}, found {files.shapes[name]}")
    if not is_kind(files.dtypes[name]):
      lines.append(f"{name}: expected {kind}, found {files.dtypes[name]}")
  return lines


def read(path: str | os.PathLike, files: tensor_files.TensorFiles,
         num_rows: int, vocab_size: int) -> np.ndarray:
  """The tokens of the rows, `i32[Z]`.

  Args:
    path: for errors.
    files: of the draft, without `problems`.
    num_rows: Z.
    vocab_size: of its target.

  Raises:
    ValueError: no map where one is needed, one that leads to no rising token
      ids, to others than those that are marked, or that may hold token ids.
  """
  if _OFFSETS in files.shapes:
    offsets = files.read(_OFFSETS).astype(np.int64)
  elif num_rows == vocab_size:
    offsets = np.zeros(num_rows, np.int64)
  else:
    raise ValueError(
        f"{path}: no tensor {_OFFSETS}, expected one: the head has {num_rows}"
        f" rows, the vocabulary {vocab_size} tokens.")
  ids = np.arange(num_rows) + offsets
  if not is_map(ids, vocab_size):
    raise ValueError(
        f"{path}: row + {_OFFSETS} gives {ids[:4].tolist()} ... {ids[-1]},"
        f" expected rising token ids below {vocab_size}: {_OFFSETS} holds"
        " offsets.")
  if _MARKS in files.shapes:
    _check_marks(path, files, ids, offsets)
  elif num_rows > 1 and (np.diff(offsets) > 0).all():
    # Token ids do so always, offsets only if no two of the tokens are
    # neighbours, of which a vocabulary of any size has some.
    raise ValueError(
        f"{path}: {_OFFSETS} rises at every row, as token ids do: expected"
        f" offsets, or the tensor {_MARKS}, which would tell the two apart.")
  return ids.astype(np.int32)


def is_map(ids: np.ndarray, vocab_size: int) -> bool:
  """Whether these `i32[Z]` are rising tokens of a vocabulary of that size."""
  return bool(ids.size and (np.diff(ids) > 0).all()
              and 0 <= ids[0] and ids[-1] < vocab_size)


def _check_marks(path, files, ids, offsets):
  known = np.flatnonzero(files.read(_MARKS))
  if np.array_equal(known, ids):
    return
  if np.array_equal(known, offsets):
    raise ValueError(f"{path}: {_OFFSETS} holds the token ids that {_MARKS}"
                     " marks, expected offsets: token id minus row.")
  raise ValueError(
      f"{path}: {_MARKS} marks {known.size} tokens, expected the {ids.size}"
      f" that {_OFFSETS} leads to, {ids[:4].tolist()} ... {ids[-1]}.")


def tensors(ids: np.ndarray, vocab_size: int) -> dict[str, np.ndarray]:
  """Both tensors, for the tokens `i32[Z]` of the rows."""
  marks = np.zeros(vocab_size, bool)
  marks[ids] = True
  return {_OFFSETS: ids.astype(np.int64) - np.arange(len(ids)), _MARKS: marks}
