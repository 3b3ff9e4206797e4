"""Published EAGLE drafts: the right numbers, or an error that names it all."""

import functools
import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from spec_jax import api
from spec_jax import systems
from spec_jax.models import bundle as bundle_lib
from spec_jax.models import contract
from spec_jax.models import feature_checkpoint
from spec_jax.models import feature_model
from tests import torch_writer
from tests import toy

DATA = pathlib.Path(__file__).parents[1] / "data" / "eagle"
KINDS = ("eagle_1", "eagle_3", "speculators")
AUX = "eagle_aux_hidden_state_layer_ids"
GEMMA_2 = {"attn_softcap": 1.0, "query_scale": 0.01, "post_norms": True}


@functools.cache
def target_of(folder, **config):
  """A target that lends embedding and head; its layers do not matter."""
  expected = np.load(folder / "expected.npz")
  model = contract.decoder_model(toy.config(
      7, vocab_size=40, d_model=16, embed_scale=1.0, d_ff=8, **config))
  return model, {"embedding": jnp.asarray(expected["embedding"]),
                 "head": jnp.asarray(expected["head"])}


def load(folder, **config):
  target, target_params = target_of(folder, **config)
  hyper, own = feature_checkpoint.load_eagle(folder, target, target_params)
  model = feature_model.from_hyper(
      target, "part", json.loads(json.dumps(hyper)),
      "part" if "token_ids" in own else None)
  return model, {"target": target_params, "part": own}


def run(model, params, expected):
  tokens = jnp.asarray(expected["tokens"], jnp.int32)[None]
  size = tokens.shape[1]
  width = len(expected["aux"][0]) // 3
  taps = {"final": expected["features"]} if len(model.taps) == 1 else {
      tap: expected["aux"][:, i * width:(i + 1) * width]
      for i, tap in enumerate(model.taps)}
  features = model.enter(
      params, {tap: jnp.asarray(value)[None] for tap, value in taps.items()})
  return model.forward(
      params, tokens, features, jnp.arange(size, dtype=jnp.int32)[None],
      jnp.tril(jnp.ones((1, size, size), bool)))


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_are_those_of_the_published_network(kind):
  model, params = load(DATA / kind)
  expected = np.load(DATA / kind / "expected.npz")
  out = run(model, params, expected)
  np.testing.assert_allclose(
      out.taps["hidden"][0], expected["hidden"], atol=2e-4, rtol=1e-4)
  np.testing.assert_allclose(
      out.logits[0], expected["logits"], atol=5e-4, rtol=1e-4)


def test_taps_and_rows_of_the_head():
  model, params = load(DATA / "eagle_3")
  assert model.taps == (2, 3, 4)  # Of a target of 7 layers.
  assert load(DATA / "speculators")[0].taps == (1, 2, 3)
  assert load(DATA / "eagle_1")[0].taps == ("final",)
  tensors = safetensors.numpy.load_file(DATA / "eagle_3" / "model.safetensors")
  ids = np.asarray(params["part"]["token_ids"])
  assert (np.diff(ids) > 0).all() and tensors["t2d"][ids].all()
  np.testing.assert_array_equal(ids - np.arange(len(ids)), tensors["d2t"])


def same(left, right):
  """Whether two nets and all their parameters are the same."""
  jax.tree.map(np.testing.assert_array_equal, left[1], right[1])
  return left[0] == right[0]


@pytest.mark.parametrize("names", [
    ("pytorch_model.bin",), ("pytorch_model-1.bin", "pytorch_model-2.bin")])
def test_what_torch_saved_is_the_same_net(names, tmp_path):
  folder = tmp_path / "eagle_3"
  shutil.copytree(DATA / "eagle_3", folder)
  tensors = safetensors.numpy.load_file(folder / "model.safetensors")
  (folder / "model.safetensors").unlink()
  shards = {name: sorted(tensors)[i::len(names)]
            for i, name in enumerate(names)}
  for name, held in shards.items():
    torch_writer.save(folder / name, {key: tensors[key] for key in held})
  if len(names) > 1:
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({
        "weight_map": {key: name for name in names for key in shards[name]}}))
  assert same(load(folder), load(DATA / "eagle_3"))


@pytest.mark.parametrize("kind, config, taps", [
    ("speculators", {AUX: [2, 4, 6]}, (2, 4, 6)),
    ("eagle_3", {AUX: [2, 4, 7]}, (2, 4, 7)),
    ("eagle_3", {"eagle_config": {AUX: [1, 3, 5]}}, (2, 4, 6)),
    ("eagle_3", {"eagle_config": {AUX: [-1, 3, 6]}}, (0, 4, 7)),
    ("eagle_3", {AUX: [2, 4, 6], "eagle_config": {AUX: [1, 3, 5]}}, (2, 4, 6)),
    ("eagle_3", {"eagle_config": {AUX: None}}, (2, 3, 4)),
    ("eagle_3", {AUX: None, "eagle_config": None}, (2, 3, 4)),
])
def test_taps_are_what_enters_a_layer(tmp_path, kind, config, taps):
  assert load(broken(tmp_path, kind, **config))[0].taps == taps


@pytest.mark.parametrize("kind", ["eagle_1", "eagle_3"])
def test_a_draft_has_nothing_of_its_targets_attention(kind):
  """A draft in Llama's layout is a Llama's layer beside a Gemma 2 too."""
  beside, plain = load(DATA / kind, **GEMMA_2), load(DATA / kind)
  assert beside[0].target != plain[0].target
  assert beside[0].net.config.query_scale is None
  assert beside[0].net.config.attn_softcap == 0
  expected = np.load(DATA / kind / "expected.npz")
  np.testing.assert_allclose(
      run(*beside, expected).taps["hidden"][0], expected["hidden"], atol=2e-4,
      rtol=1e-4)


def test_a_loaded_draft_decodes():
  target, params = target_of(DATA / "eagle_3")
  params = jax.jit(target.init)(jax.random.key(0)) | params
  part = feature_checkpoint.load_eagle(DATA / "eagle_3", target, params)
  bundle = bundle_lib.Bundle(
      "tested", target, {}, {"target": params}, None).with_head(
          "eagle_3", *part)
  texts = []
  for name, hyper in (("autoregressive", {}),
                      ("eagle_3", dict(budget=5, depth=2, top_k=2))):
    system, held = systems.build(name, bundle, **hyper)
    texts.append(api.generate(
        system, held, [[3, 5, 7], [1]], max_new_tokens=6).tokens)
  assert texts[0] == texts[1]


def broken(tmp_path, kind, tensors=None, **config):
  """A copy of a fixture with changes; a tensor of None is left out."""
  folder = tmp_path / kind
  shutil.copytree(DATA / kind, folder)
  if config:
    raw = json.loads((folder / "config.json").read_text()) | config
    (folder / "config.json").write_text(json.dumps(raw))
  if tensors:
    held = safetensors.numpy.load_file(folder / "model.safetensors") | tensors
    safetensors.numpy.save_file(
        {name: value for name, value in held.items() if value is not None},
        folder / "model.safetensors")
  return folder


@pytest.mark.parametrize("kind,tensors,config,message", [
    ("eagle_1", {"fc.bias": None}, {}, r"fc\.bias: expected shape \(16,\)"),
    ("eagle_1", {}, {"bias": False}, r"extra fc\.bias"),
    ("eagle_1", {"layers.0.input_layernorm.weight": np.ones(16, np.float32)},
     {}, r"extra layers\.0\.input_layernorm"),
    ("eagle_1", {"embed_tokens.weight": np.ones((40, 16), np.float32)}, {},
     "expected the target's, differs"),
    ("eagle_1", {}, {"vocab_size": 41}, r"vocab_size=41 \(the target has 40"),
    ("eagle_3", {"d2t": None}, {}, "no tensor d2t"),
    ("eagle_3", {"d2t": np.zeros(12, np.float32)}, {}, "d2t: expected integ"),
    ("eagle_3", {"t2d": np.zeros(40, np.uint8)}, {}, "t2d: expected booleans"),
    ("eagle_3", {}, {AUX: [1, 2]}, r"=\[1, 2\], expected three rising"),
    ("eagle_3", {}, {AUX: [4, 3, 5]}, "three rising whole numbers from 0 to 7"),
    ("eagle_3", {}, {AUX: [2, 4, 8]}, "three rising whole numbers from 0 to 7"),
    ("eagle_3", {}, {"eagle_config": {AUX: [2, 4, 7]}},
     r"eagle_config\.eagle_aux.*\[2, 4, 7\], expected .* from -1 to 6"),
    ("eagle_3", {}, {"eagle_config": [1, 2, 3]}, "expected an object"),
    ("eagle_3", {}, {"fc_norm": True}, "fc_norm=True"),
    ("eagle_3", {}, {"target_hidden_size": 8}, "target_hidden_size=8"),
    ("speculators", {}, {"speculators_model_type": "peagle"}, "'peagle'"),
    ("speculators", {"mask_hidden": np.ones((1, 1, 48), np.float32)}, {},
     "extra mask_hidden"),
])
def test_every_fault_is_named(tmp_path, kind, tensors, config, message):
  with pytest.raises(ValueError, match=message):
    load(broken(tmp_path, kind, tensors, **config))
