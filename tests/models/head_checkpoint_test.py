"""Published draft heads: whole and as published, or refused by name."""

import json
import pathlib
import shutil
import types as types_lib

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
BUNDLE = bundle_lib.Bundle("toy", TARGET, {}, {"target": {}}, None)


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


def tied_tensors(path):
  """All tensors of the tied speculator, and those that are not repeated."""
  files = torch_files.TorchFile(path / "pytorch_model.bin")
  return ({name: files.read(name) for name in files.shapes},
          {name: files.read(name) for name in files.shapes
           if name.split(".")[1] == "0" or name.startswith("proj.1")})


def test_tied_tensors_may_stand_there_once(folder):
  path = folder("speculator_tied")
  every, once = tied_tensors(path)
  assert len(every) > len(once) == 6
  whole = head_checkpoint.load(path, TARGET)
  st.save_file(once, path / "model.safetensors")  # Comes before the other.
  again = head_checkpoint.load(path, TARGET)
  assert again.hyper == whole.hyper
  np.testing.assert_array_equal(again.params["heads"]["emb_0"]["embedding"],
                                whole.params["heads"]["emb_0"]["embedding"])


@pytest.mark.parametrize("name, source", [
    ("emb.2.weight", "emb.0.weight"), ("ln.1.bias", "ln.0.bias"),
    ("proj.2.weight", "proj.1.weight")])
def test_tied_tensors_are_one_or_refused(folder, name, source):
  path = folder("speculator_tied")
  tensors, _ = tied_tensors(path)
  tensors[name] = tensors[name] + np.float32(1e-3)
  st.save_file(tensors, path / "model.safetensors")
  with pytest.raises(ValueError, match=f"extra {name}: differs from {source}"):
    head_checkpoint.load(path, TARGET)


@pytest.mark.parametrize("num", [2, 4])
def test_speculators_of_other_lengths_bring_their_tree(folder, num):
  path = folder("speculator_tied")
  st.save_file(tied_tensors(path)[1], path / "model.safetensors")
  change(path, n_predict=num)
  name, plain = "token_embedding_speculator", head_checkpoint.add(BUNDLE, path)
  assert name not in plain.tuned
  system, _ = systems.build(name, plain)  # The paper's tree has 3 levels.
  assert system.drafter.plan.children == (5, 4, 3)[:num]
  change(path, n_candidates=3, top_k_tokens_per_head=[4, 3, 2, 2][:num])
  grown = head_checkpoint.add(BUNDLE, path)
  system, _ = systems.build(name, grown, **grown.tuned[name])
  assert system.drafter.plan.children == (4, 3, 2, 2)[:num]
  assert system.drafter.plan.widths[-1] == 3


@pytest.mark.parametrize("name, changes, message", [
    ("medusa_a", {"medusa_num_layers": 2}, "missing 0.1.linear.weight"),
    ("medusa_a", {"medusa_num_heads": 4},
     "medusa_num_heads=4, the file holds 3 heads"),
    ("medusa_c", {"medusa_num_heads": 3}, "has no medusa_head.2.0.linear"),
    ("medusa_b", {"medusa_num_heads": "2"}, "'2', expected a whole number"),
    ("speculator", {"top_k_tokens_per_head": [5, 4]}, "expected n_predict=3"),
    ("speculator_tied", {"n_predict": 2}, "extra emb.2.weight"),
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
