"""Published draft heads: whole and as published, or refused by name."""

import json
import pathlib
import pickle
import shutil
import types as types_lib
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import numpy as st

from spec_jax import systems
from spec_jax.models import bundle as bundle_lib
from spec_jax.models import checkpoint
from spec_jax.models import contract
from spec_jax.models import head_checkpoint
from spec_jax.models import recurrent_heads
from spec_jax.models import token_heads
from spec_jax.models import torch_files
from tests import toy

_DATA = pathlib.Path(__file__).parent.parent / "data" / "heads"
KINDS = {"medusa_1": token_heads.MedusaHeads,
         "medusa_2": token_heads.MedusaHeads, "hydra": token_heads.HydraHeads,
         "hydra_pp": token_heads.HydraHeads,
         "recurrent_drafter": recurrent_heads.RecurrentHead,
         "token_embedding_speculator": recurrent_heads.MlpSpeculator}
NAMES = sorted(path.name for path in _DATA.iterdir())
# Of the fixtures' sizes.
TARGET = contract.decoder_model(toy.config(embed_scale=1.0))


@pytest.fixture
def folder(tmp_path):
  """Copies a folder so that a test may break it."""
  def copy(name):
    target = tmp_path / name
    shutil.copytree(_DATA / name, target)
    return target
  return copy


def change(path, **values):
  """Changes config.json; None takes a key out."""
  file = path / "config.json"
  config = json.loads(file.read_text()) | values
  file.write_text(json.dumps(
      {key: value for key, value in config.items() if value is not None}))


def test_every_format_has_a_fixture():
  assert len(NAMES) == 9
  found = {head_checkpoint.load(_DATA / name, TARGET).system for name in NAMES}
  assert found == set(KINDS)


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_those_of_the_published_modules(name):
  heads = head_checkpoint.load(_DATA / name, TARGET)
  expected = dict(np.load(_DATA / name / "expected.npz"))
  world = types_lib.SimpleNamespace(
      embed=lambda tokens: jnp.asarray(expected["embedding"])[tokens],
      unembed=lambda x: x @ jnp.asarray(expected["head"]).T)
  features = jnp.asarray(expected["features"])[None]
  if "encoder" in heads.params:
    features = token_heads.encoder_of(TARGET, 1).score(
        heads.params["encoder"], jnp.zeros(features.shape[:2], jnp.int32),
        embeds=features, taps=("final",)).taps["final"]
  network = KINDS[heads.system].for_target(TARGET, **heads.hyper)
  found = network.apply(
      {"params": heads.params["heads"]}, features[0, -1],
      jnp.asarray(expected["path"]), world)
  np.testing.assert_allclose(
      found[:len(expected["logits"])], expected["logits"], atol=2e-4)


@pytest.mark.parametrize("name", NAMES)
def test_a_system_drafts_with_them(name):
  bundle = bundle_lib.Bundle(
      "toy", TARGET, {}, {"target": TARGET.init(jax.random.key(1))}, None)
  heads = head_checkpoint.load(_DATA / name, bundle.target)
  grown = head_checkpoint.add(bundle, _DATA / name)
  assert grown.heads == {heads.system: heads.hyper} and not bundle.heads
  depth = {"recurrent_drafter": {"depth": 2, "width": 2}}
  system, params = systems.build(
      heads.system, grown, **depth.get(heads.system, {"branching": (2, 2)}))
  assert system.drafter.depth == 2
  assert set(params.drafter) <= {"heads", "encoder"}


def test_configs_may_state_too_few_heads():
  heads = head_checkpoint.load(_DATA / "medusa_a", TARGET)
  config = json.loads((_DATA / "medusa_a" / "config.json").read_text())
  assert config["medusa_num_heads"] == 2 and heads.hyper["num_heads"] == 3


def test_tied_tensors_may_stand_there_once(folder):
  path = folder("speculator_tied")
  files = torch_files.TorchFile(path / "pytorch_model.bin")
  once = {name: files.read(name) for name in files.shapes
          if name.split(".")[1] == "0" or name.startswith("proj.1")}
  assert len(files.shapes) > len(once) == 6
  whole = head_checkpoint.load(path, TARGET)
  (path / "pytorch_model.bin").unlink()
  st.save_file(once, path / "model.safetensors")
  again = head_checkpoint.load(path, TARGET)
  assert again.hyper == whole.hyper
  np.testing.assert_array_equal(again.params["heads"]["emb_0"]["embedding"],
                                whole.params["heads"]["emb_0"]["embedding"])


@pytest.mark.parametrize("name, changes, message", [
    ("medusa_a", {"medusa_num_layers": 2}, "missing 0.1.linear.weight"),
    ("medusa_c", {"model_type": None}, "model_type=None of the base"),
    ("medusa_c", {"rms_norm_eps": 1e-6, "head_dim": 4},
     r"head_dim=4 \(the target has 8\), norm_eps=1e-06"),
    ("medusa_c", {"medusa_num_layers": 1}, "extra medusa_head.0.2.weight"),
    ("medusa_d", {"num_heads": 3}, "missing medusa_heads.blocks.2.layers.0"),
    ("medusa_d", {"num_heads": 1}, "extra medusa_heads.blocks.1.layers.0"),
    ("medusa_d", {"truncated_vocab_size": 6}, "truncated_vocab_size=6"),
    ("medusa_d", {"num_hidden_layers": None}, "lacks 'num_hidden_layers'"),
    ("hydra", {"hydra_head_arch": "eagle-attn"}, "arch='eagle-attn'"),
    ("hydra", {"hidden_state_offset": 1}, "hidden_state_offset=1"),
    ("hydra_pp", {"hydra_num_layers": 2}, "extra hydra_mlp.0.5.linear.bias"),
    ("redrafter", {"exit_dim": 16}, "exit_dim=16"),
    ("redrafter", {"rnn": False}, "extra rnn_u.bias"),
    ("speculator", {"emb_dim": 8}, "emb_dim=8"),
    ("speculator", {"inner_dim": 4}, "misshapen speculator.emb.0.weight"),
    ("speculator", {"model_type": "mlp"}, "of no draft heads known here"),
])
def test_what_does_not_fit_is_named(folder, name, changes, message):
  path = folder(name)
  change(path, **changes)
  with pytest.raises(ValueError, match=message):
    head_checkpoint.load(path, TARGET)


def test_other_folders_are_named(folder, tmp_path):
  with pytest.raises(ValueError, match="a folder with config.json"):
    head_checkpoint.load(tmp_path / "nowhere", TARGET)
  path = folder("medusa_b")
  (path / "medusa_lm_head.safetensors").rename(path / "other.safetensors")
  with pytest.raises(ValueError, match="other.safetensors.*expected one of"):
    head_checkpoint.load(path, TARGET)


def test_heads_beside_a_base_bring_the_base():
  expected = dict(np.load(_DATA / "medusa_c" / "expected.npz"))
  bundle = bundle_lib.Bundle(
      "toy", TARGET, {}, {"target": TARGET.init(jax.random.key(1))}, None)
  grown = head_checkpoint.add(bundle, _DATA / "medusa_c")
  assert grown.heads == {"medusa_2": {
      "num_heads": 2, "num_layers": 2, "is_shared": False}}
  _, params = systems.build("medusa_2", grown, branching=(2, 2))
  logits = lambda own: TARGET.score(
      own, jnp.asarray(expected["tokens"], jnp.int32)[None]).logits[0]
  np.testing.assert_allclose(
      logits(params.target), expected["base_logits"], atol=2e-4)
  assert np.abs(logits(grown.params["target"])
                - expected["base_logits"]).max() > .1
  # Its own loader reads the same base, and leaves the heads alone.
  _, alone, _ = checkpoint.load_hf(_DATA / "medusa_c", others="medusa_head.*")
  jax.tree.map(np.testing.assert_array_equal, alone, params.target)


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


def test_torn_state_dicts_are_named(folder):
  path = folder("hydra") / "hydra_lm_head.pt"
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
