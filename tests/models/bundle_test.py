"""Bundles: what is written is read back; what is broken is named."""

import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from spec_jax import systems
from spec_jax.models import bundle as bundle_lib
from spec_jax.models import contract
from spec_jax.models import part_file
from spec_jax.training import data
from spec_jax.training import recipes
from spec_jax.trees import sequoia
from tests import toy


@pytest.fixture
def folder(tmp_path):
  tokenizer = data.train_tokenizer(["def f(x):\n  return x\n"], 270)
  file = tmp_path / "source.json"
  tokenizer.save(str(file))
  configs = {name: toy.config(num_layers=layers, vocab_size=270,
                              windows=(4,) * layers)
             for name, layers in (("target", 2), ("draft", 1))}
  params = {name: contract.decoder_model(config).init(jax.random.key(0))
            for name, config in configs.items()}
  bundle_lib.save(tmp_path / "toy", "toy", configs, params, file,
                  [{"prompt": "def é", "source": "a.py:1"}],
                  {"mcsd": {"branching": (2, (1, 0))}})
  return tmp_path / "toy", configs, params


def test_round_trip(folder):
  path, configs, params = folder
  bundle = bundle_lib.load_bundle(path)
  assert bundle.target.config == configs["target"]
  assert bundle.models["draft"].config == configs["draft"]
  rounded = jax.tree.map(
      lambda x: x.astype(jnp.float16).astype(jnp.float32), params)
  chex.assert_trees_all_equal(bundle.params, rounded)
  assert bundle.prompts == ("def é",)
  assert bundle.end_of_text == 0
  assert bundle.tuned == {"mcsd": {"branching": (2, (1, 0))}}
  assert bundle.tokenizer.decode(bundle.tokenizer.encode("def é")) == "def é"


def test_shipped_bundles_hold_what_the_recipes_tuned():
  for name in bundle_lib.shipped_names():
    description = json.loads(
        (bundle_lib.SHIPPED / name / "bundle.json").read_text())
    assert description["tuned"] == json.loads(
        json.dumps(recipes.TUNED.get(name, {})))
    for system, hyper in description["tuned"].items():
      assert set(hyper) <= set(systems.hyper_parameters(system)), system


def test_sequoia_is_built_for_the_acceptance_that_was_measured():
  model = contract.decoder_model(toy.config())
  pair = toy.ToyBundle(model, {"draft": model}, dict.fromkeys(
      ("target", "draft")))
  tuned = recipes.TUNED["tiny-python"]["sequoia"]
  assert tuned["acceptance"] != sequoia.ACCEPTANCE
  for budget in (tuned["budget"], 12):
    hyper = tuned | {"budget": budget, "depth": 9}
    system, _ = systems.build("sequoia", pair, **hyper)
    assert system.drafter.branching == sequoia.best_shape(
        tuned["acceptance"], budget, 9)
  assert system.drafter.branching != sequoia.best_shape(
      sequoia.ACCEPTANCE, 12, 9)


def test_other_dtype(folder):
  bundle = bundle_lib.load_bundle(folder[0], jnp.bfloat16)
  assert bundle.params["target"]["embedding"].dtype == jnp.bfloat16


def test_unknown_bundle_names_the_shipped_ones():
  with pytest.raises(ValueError, match="neither a shipped bundle.*tiny-python"):
    bundle_lib.load_bundle("tiny-pyton")


def test_truncated_weights(folder):
  file = folder[0] / "target.safetensors"
  file.write_bytes(file.read_bytes()[:-100])
  with pytest.raises(ValueError, match="target.safetensors: missing, broken"):
    bundle_lib.load_bundle(folder[0])


def replaced(raw, kind):
  """A file of weights, damaged."""
  if kind == "noise":
    return np.random.default_rng(0).bytes(len(raw))
  if kind == "nan":
    return raw[:-100] + b"\xff" * 100
  if kind == "int":  # Few bits of the header; all sizes still fit.
    return raw.replace(b'"F16"', b'"I16"')
  header = b'{"a":{"dtype":"F8_E4M3","shape":[8],"data_offsets":[0,8]}}'
  return len(header).to_bytes(8, "little") + header + bytes(8)


@pytest.mark.parametrize("kind,message", [
    ("noise", "missing, broken or truncated"),
    ("nan", r"(?s:.*)\n  not finite \w+"),
    ("int", r"(?s:.*)\n  not a float embedding: found int16"),
    ("float8", "missing, broken or truncated: .*float8")])
def test_garbage(folder, kind, message):
  file = folder[0] / "target.safetensors"
  file.write_bytes(replaced(file.read_bytes(), kind))
  with pytest.raises(ValueError, match=f"target.safetensors.*{message}"):
    bundle_lib.load_bundle(folder[0])


def test_all_wrong_tensors_are_named_at_once(folder):
  file = folder[0] / "draft.safetensors"
  flat = safetensors.numpy.load_file(file)
  flat["surplus"] = np.zeros(3, np.float16)
  flat["embedding"] = flat["embedding"][:, :-1].copy()
  del flat["final_norm/scale"]
  safetensors.numpy.save_file(flat, file)
  with pytest.raises(ValueError) as error:
    bundle_lib.load_bundle(folder[0])
  for part in ("missing final_norm/scale (16,)", "extra surplus (3,)",
               "misshapen embedding: expected (270, 16), found (270, 15)"):
    assert part in str(error.value)


@pytest.mark.parametrize("text", ["{", "[]", '{"name": "x"}'])
def test_broken_description(folder, text):
  (folder[0] / "bundle.json").write_text(text)
  with pytest.raises(ValueError, match="expected JSON with 'name'"):
    bundle_lib.load_bundle(folder[0])


def test_wrong_config_field(folder):
  file = folder[0] / "bundle.json"
  description = json.loads(file.read_text())
  description["models"]["target"]["num_layer"] = 3
  file.write_text(json.dumps(description))
  with pytest.raises(ValueError, match="'target'.*num_layer"):
    bundle_lib.load_bundle(folder[0])


def test_shipped_pair_is_within_its_budget():
  files = list((bundle_lib.SHIPPED / "tiny-python").rglob("*"))
  assert sum(file.stat().st_size for file in files) <= 40e6
  bundle = bundle_lib.load_bundle("tiny-python")
  assert 8e6 <= bundle.target.config.num_params <= 16e6
  # In time it costs less than in weights, which fit into a cache.
  assert bundle.models["draft"].config.num_params <= (
      0.2 * bundle.target.config.num_params)
  assert len(bundle.prompts) >= 16


def test_trained_parts_travel_with_a_bundle(folder):
  path, _, _ = folder
  assert bundle_lib.load_bundle(path).heads == {}
  params = {"out": {"kernel": np.full((2, 3), .5, np.float32)},
            "table": np.arange(4000, dtype=np.int32)}
  file = part_file.write(path, "judge", {"widths": [8]}, params,
                         bundle_lib.fingerprint(path))
  bundle = bundle_lib.load_bundle(path)
  assert bundle.heads == {"judge": {"widths": [8]}}
  chex.assert_trees_all_equal(
      bundle.params["judge"], jax.tree.map(jnp.asarray, params))
  for bad in (b"torn", safetensors.numpy.save({"a": np.zeros(1)})):
    file.write_bytes(bad)
    with pytest.raises(ValueError, match="judge.safetensors: expected a safet"):
      bundle_lib.load_bundle(path)


def test_part_of_another_target_is_refused(folder):
  path, configs, _ = folder
  part_file.write(path, "judge", {}, {"a": np.zeros(2, np.float32)},
                  bundle_lib.fingerprint(path))
  other = contract.decoder_model(configs["target"]).init(jax.random.key(7))
  safetensors.numpy.save_file(
      part_file.flat_16_bits(other), path / "target.safetensors")
  with pytest.raises(ValueError, match="trained for a target with fingerprint"
                     ".*--system=judge"):
    bundle_lib.load_bundle(path)
