"""Rows of a trimmed head stand for the tokens that its file says."""

import pathlib

import numpy as np
import pytest
from safetensors import numpy as st

from spec_jax.models import draft_vocabulary
from spec_jax.models import tensor_files

_DATA = pathlib.Path(__file__).parent.parent / "data" / "eagle" / "eagle_3"
_VOCAB, _IDS = 10, np.asarray([1, 2, 5, 8])


def files_of(folder, **tensors):
  st.save_file(tensors, folder / "model.safetensors")
  return tensor_files.TensorFiles(folder)


def read(folder, **tensors):
  return draft_vocabulary.read(
      folder, files_of(folder, **tensors), len(_IDS), _VOCAB)


def test_rows_stand_for_the_tokens_that_are_marked():
  files = tensor_files.TensorFiles(_DATA)
  ids = draft_vocabulary.read(_DATA, files, 12, 40)
  np.testing.assert_array_equal(ids, np.flatnonzero(files.read("t2d")))


def test_what_is_written_is_what_was_read():
  files = tensor_files.TensorFiles(_DATA)
  ids = draft_vocabulary.read(_DATA, files, 12, 40)
  written = draft_vocabulary.tensors(ids, 40)
  assert written.keys() == set(draft_vocabulary.NAMES)
  for name, array in written.items():
    np.testing.assert_array_equal(array, files.read(name))
    assert array.dtype == files.read(name).dtype


def test_a_map_needs_no_marks_and_a_whole_head_no_map(tmp_path):
  offsets = draft_vocabulary.tensors(_IDS, _VOCAB)["d2t"]
  np.testing.assert_array_equal(read(tmp_path, d2t=offsets), _IDS)
  whole = draft_vocabulary.read(
      tmp_path, files_of(tmp_path, other=offsets), _VOCAB, _VOCAB)
  np.testing.assert_array_equal(whole, np.arange(_VOCAB))


@pytest.mark.parametrize("tensors, message", [
    ({"d2t": _IDS}, r"gives \[1, 3, 7, 11\] ... 11.*d2t holds offsets"),
    ({"d2t": np.asarray([0, 1, 2, 4])}, "rises at every row, as token ids do"),
    ({"d2t": np.asarray([1, 1, 0, 5])}, "expected rising token ids"),
    ({"d2t": np.asarray([-1, 1, 2, 2])}, "expected rising token ids"),
    ({"d2t": np.asarray([0, 1, 2, 4]),
      "t2d": np.isin(np.arange(_VOCAB), [0, 1, 2, 4])},
     "d2t holds the token ids that t2d marks"),
    ({"d2t": np.asarray([1, 1, 3, 5]), "t2d": np.arange(_VOCAB) < 4},
     r"t2d marks 4 tokens, expected the 4 that d2t leads to, \[1, 2, 5, 8\]"),
    ({"t2d": np.isin(np.arange(_VOCAB), _IDS)}, "no tensor d2t"),
])
def test_maps_that_lead_elsewhere_are_refused(tmp_path, tensors, message):
  with pytest.raises(ValueError, match=message):
    read(tmp_path, **tensors)


@pytest.mark.parametrize("tensors, message", [
    ({"d2t": np.zeros(4, np.float32)}, "d2t: expected integers, found F32"),
    ({"t2d": np.ones(10, np.int64)}, "t2d: expected booleans, found I64"),
    ({"d2t": np.zeros(3, np.int64)}, "d2t: expected shape (4,), found (3,)"),
    ({"t2d": np.ones(4, bool)}, "t2d: expected shape (10,), found (4,)"),
])
def test_what_is_no_map_is_named(tmp_path, tensors, message):
  files = files_of(tmp_path, **tensors)
  assert draft_vocabulary.problems(files, len(_IDS), _VOCAB) == [message]
