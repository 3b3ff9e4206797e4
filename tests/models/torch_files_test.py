"""What torch saved: read without torch, and nothing in it is run."""

import json
import pathlib
import pickle
import shutil
import zipfile

import numpy as np
import pytest

from spec_jax.models import tensor_files
from spec_jax.models import torch_files
from tests import torch_writer

_DATA = pathlib.Path(__file__).parent.parent / "data" / "heads"
_TENSORS = {
    "matrix": np.arange(6, dtype=np.float16).reshape(2, 3),
    "ids": np.arange(4), "marks": np.asarray([True, False]),
    "turned": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    "none": np.zeros((0, 3), np.float32), "scalar": np.float64(2.5)}


def test_every_kind_of_tensor_is_read(tmp_path):
  path = tmp_path / "a.bin"
  torch_writer.save(path, _TENSORS)
  files = torch_files.TorchFile(path)
  assert files.shapes.keys() == _TENSORS.keys()
  for name, array in _TENSORS.items():
    np.testing.assert_array_equal(files.read(name), array)
    assert files.read(name).dtype == array.dtype
  assert files.dtypes["ids"] == "I64" and files.dtypes["marks"] == "BOOL"


def view_of_six(folder, *how):
  """A file with a view of a storage of six numbers."""
  path = folder / "a.bin"
  storage = np.arange(6, dtype=np.float32)
  torch_writer.save(path, {"view": torch_writer.View(storage, *how)})
  return path


@pytest.mark.parametrize("offset, size, stride, expected", [
    (0, (2, 3), (1, 2), [[0, 2, 4], [1, 3, 5]]), (4, (2,), (1,), [4, 5]),
    (5, (3,), (0,), [5, 5, 5])])
def test_views_are_read_through_their_strides(
    tmp_path, offset, size, stride, expected):
  path = view_of_six(tmp_path, offset, size, stride)
  np.testing.assert_array_equal(
      torch_files.TorchFile(path).read("view"), expected)


@pytest.mark.parametrize("offset, size, stride, message", [
    (-2, (2,), (1,), "no negative number"), (0, (-1,), (1,), "no negative"),
    (5, (6,), (-1,), "no negative number"), (0, (2, 2), (-1, 1), "no negative"),
    (5, (2,), (1,), "reaches beyond its storage of 6 numbers"),
    (0, (3, 3), (2, 1), "reaches beyond"), (0, (2, 2), (1,), "mismatch")])
def test_views_that_leave_their_storage_are_refused(
    tmp_path, offset, size, stride, message):
  path = view_of_six(tmp_path, offset, size, stride)
  with pytest.raises(ValueError, match=message):
    torch_files.TorchFile(path)


def test_shards_hold_what_one_file_holds(tmp_path):
  torch_writer.save(tmp_path / "pytorch_model-1.bin",
                    {key: _TENSORS[key] for key in ("matrix", "ids")})
  torch_writer.save(tmp_path / "pytorch_model-2.bin",
                    {"marks": _TENSORS["marks"]})
  index = {"matrix": "pytorch_model-1.bin", "ids": "pytorch_model-1.bin",
           "marks": "pytorch_model-2.bin"}
  (tmp_path / "pytorch_model.bin.index.json").write_text(
      json.dumps({"weight_map": index}))
  files = tensor_files.open_folder(tmp_path, ("model", "pytorch_model"))
  assert files.shapes.keys() == index.keys() and not files.problems
  for name in index:
    np.testing.assert_array_equal(files.read(name), _TENSORS[name])


class Evil:
  """Runs a function where a pickle is read carelessly."""

  def __reduce__(self):
    return print, ("run",)


def test_a_state_dict_runs_nothing(tmp_path, capsys):
  path = tmp_path / "medusa_lm_head.pt"
  with zipfile.ZipFile(path, "w") as archive:
    archive.writestr("archive/data.pkl", pickle.dumps({"0": Evil()}))
  with pytest.raises(ValueError, match="asks for builtins.print"):
    torch_files.TorchFile(path)
  assert "run" not in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"no zip", pickle.dumps({})])
def test_files_of_another_kind_are_named(tmp_path, content):
  path = tmp_path / "pytorch_model.bin"
  path.write_bytes(content)
  with pytest.raises(ValueError, match="expected a state dict saved by torch"):
    torch_files.TorchFile(path)


def test_torn_state_dicts_are_named(tmp_path):
  path = tmp_path / "hydra_lm_head.pt"
  shutil.copy(_DATA / "hydra" / "hydra_lm_head.pt", path)
  with zipfile.ZipFile(path) as archive:
    parts = {name: archive.read(name) for name in archive.namelist()}
  torn = path.parent / "torn.pt"
  with zipfile.ZipFile(torn, "w") as archive:
    for name, content in parts.items():
      archive.writestr(name, content[:8] if name.endswith("/0") else content)
  with pytest.raises(ValueError, match="reaches beyond its storage"):
    torch_files.TorchFile(torn)
  no_dict = path.parent / "list.pt"
  with zipfile.ZipFile(no_dict, "w") as archive:
    archive.writestr("a/data.pkl", pickle.dumps([1]))
  with pytest.raises(ValueError, match="a dictionary of tensors"):
    torch_files.TorchFile(no_dict)


def test_all_ranks_of_tensors_are_read():
  files = torch_files.TorchFile(_DATA / "hydra_pp" / "hydra_lm_head.pt")
  assert {len(shape) for shape in files.shapes.values()} == {1, 2}
  assert set(files.dtypes.values()) == {"F32"}
