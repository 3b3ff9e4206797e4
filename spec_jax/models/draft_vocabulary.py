"""Which tokens the rows of a trimmed output head stand for, in drafts' files.

EAGLE-3's hold offsets, not token ids: row i is token `i + d2t[i]`, and `t2d`
marks the tokens that have a row. vLLM's EAGLE-1 lists token ids, `token_map`.
"""

import os

import numpy as np

from spec_jax.models import tensor_files

_OFFSETS, _MARKS = "d2t", "t2d"
NAMES = (_OFFSETS, _MARKS)
LIST = "token_map"
_INTEGERS = "integers", lambda dtype: dtype[0] in "IU"
_BOOLEANS = "booleans", lambda dtype: dtype == "BOOL"


def problems(files: tensor_files.TensorFiles, num_rows: int, vocab_size: int
             ) -> list[str]:
  """One line for each of the two tensors that is there and not as it should be.

  Args:
    files: of the draft.
    num_rows: of its output head.
    vocab_size: of its target.
  """
  expected = {_OFFSETS: (num_rows, _INTEGERS), _MARKS: (vocab_size, _BOOLEANS)}
  return [line for name, (size, kind) in expected.items()
          if name in files.shapes for line in _faults(files, name, size, kind)]


def list_problems(files: tensor_files.TensorFiles, num_rows: int) -> list[str]:
  """As `problems`, of the list of token ids, which has to be there."""
  return _faults(files, LIST, num_rows, _INTEGERS)


def _faults(files, name, size, kind):
  """What is wrong with a tensor of one axis."""
  if name not in files.shapes:
    return [f"{name}: expected shape {(size,)}, found nothing"]
  lines, (called, is_kind) = [], kind
  if files.shapes[name] != (size,):
    lines.append(
        f"{name}: expected shape {(size,)}, found {files.shapes[name]}")
  if not is_kind(files.dtypes[name]):
    lines.append(f"{name}: expected {called}, found {files.dtypes[name]}")
  return lines


def read_list(path: str | os.PathLike, files: tensor_files.TensorFiles,
              vocab_size: int) -> np.ndarray:
  """The tokens that are listed, `i32[Z]`, in the order of the file.

  Args:
    path: for errors.
    files: of the draft, without `list_problems`.
    vocab_size: of its target.

  Raises:
    ValueError: a token is listed twice, or there is no such token.
  """
  ids = files.read(LIST).astype(np.int64)
  is_list = len(np.unique(ids)) == len(ids) and (
      0 <= ids.min() and ids.max() < vocab_size)
  if not is_list:
    raise ValueError(
        f"{path}: {LIST} lists {len(np.unique(ids))} tokens from {ids.min()} to"
        f" {ids.max()} in {len(ids)} rows, expected one of its own for each,"
        f" from 0 to {vocab_size - 1}.")
  return ids.astype(np.int32)


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
