"""Files of tensors: whole and consistent, or named."""

import json
import pathlib
import shutil

import numpy as np
import pytest
from safetensors import numpy as st

from spec_jax.models import tensor_files

_DATA = pathlib.Path(__file__).parent.parent / "data" / "hf"


@pytest.fixture
def folder(tmp_path):
  """Copies a checkpoint so that a test may break it."""
  def copy(name):
    target = tmp_path / name
    shutil.copytree(_DATA / name, target)
    return target
  return copy


def test_shards_hold_what_one_file_holds(folder):
  path = folder("llama3")
  files = tensor_files.TensorFiles(path)
  arrays = {name: files.read(name) for name in files.shapes}
  for file in path.glob("*.safetensors*"):
    file.unlink()
  st.save_file(arrays, path / "model.safetensors")
  single = tensor_files.TensorFiles(path)
  assert single.shapes == files.shapes and len(files.shapes) == 21
  assert not files.problems and set(files.dtypes.values()) == {"F32"}
  for name, array in arrays.items():
    np.testing.assert_array_equal(single.read(name), array)


@pytest.mark.parametrize("kept", [4, 200, -10])
def test_truncated_file_is_named(folder, kept):
  path = folder("opt")
  file = path / "model.safetensors"
  file.write_bytes(file.read_bytes()[:kept])
  with pytest.raises(ValueError, match="opt/model.safetensors: .*truncated"):
    tensor_files.TensorFiles(path)


def test_missing_files_are_named(folder):
  path = folder("llama3")
  shard = "model-00002-of-00002.safetensors"
  (path / shard).unlink()
  with pytest.raises(ValueError, match=f"{shard}.*missing"):
    tensor_files.TensorFiles(path)
  for file in path.glob("*.safetensors*"):
    file.unlink()
  with pytest.raises(ValueError, match="Expected model.safetensors or"):
    tensor_files.TensorFiles(path)


def test_an_index_is_called_like_the_file_it_stands_for(folder):
  path = folder("llama3")
  index = path / "model.safetensors.index.json"
  shapes = tensor_files.TensorFiles(path).shapes
  index.rename(path / "heads.safetensors.index.json")
  assert tensor_files.open_folder(path, ("model", "heads")).shapes == shapes
  with pytest.raises(ValueError, match="expected one of .'model',. as .pt"):
    tensor_files.open_folder(path, ("model",))


def test_index_and_shards_must_agree(folder):
  path = folder("llama3")
  index = path / "model.safetensors.index.json"
  raw = json.loads(index.read_text())
  first, second = sorted(set(raw["weight_map"].values()))
  tensors = st.load_file(path / first)
  st.save_file(st.load_file(path / second) | dict([tensors.popitem()]),
               path / second)
  raw["weight_map"]["ghost"] = first
  index.write_text(json.dumps(raw))
  twice, ghost = tensor_files.TensorFiles(path).problems
  assert twice.startswith("twice ")
  assert ghost.startswith("not in its shard ghost")
