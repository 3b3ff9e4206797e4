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
KINDS = (
    "eagle_1", "eagle_1_qkv_bias", "eagle_1_deep", "eagle_1_own_table",
    "eagle_3", "eagle_3_narrow", "eagle_3_wide", "eagle_3_fc_norm",
    "speculators", "speculators_normed", "vllm")
AUX = "eagle_aux_hidden_state_layer_ids"
GEMMA_2 = {"attn_softcap": 1.0, "query_scale": 0.01, "post_norms": True}


@functools.cache
def target_of(folder, **config):
  """A target that lends embedding and head; its layers do not matter."""
  expected = np.load(folder / "expected.npz")
  config = {"embed_scale": 1.0, **config}
  model = contract.decoder_model(toy.config(
      7, vocab_size=40, d_model=expected["embedding"].shape[1], d_ff=8,
      **config))
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


def check_numbers(folder, **config):
  """That a folder gives what its `expected.npz` says; returns the net."""
  model, params = load(folder, **config)
  expected = np.load(folder / "expected.npz")
  out = run(model, params, expected)
  np.testing.assert_allclose(
      out.taps["hidden"][0], expected["hidden"], atol=2e-4, rtol=1e-4)
  np.testing.assert_allclose(
      out.logits[0], expected["logits"], atol=5e-4, rtol=1e-4)
  return model, params


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_are_those_of_the_published_network(kind):
  model, params = check_numbers(DATA / kind)
  # All that the net asks for was in the files, and nothing else.
  kept = {name: value for name, value in params["part"].items() if name not in (
      feature_model.EMBEDDING, feature_model.TOKEN_IDS)}
  jax.tree.map(
      lambda new, loaded: np.testing.assert_equal(new.shape, loaded.shape),
      jax.eval_shape(model.init, jax.random.key(0)), kept)


@pytest.mark.parametrize("kind", ["eagle_1_own_table", "eagle_3_narrow"])
def test_a_table_of_its_own_is_kept(kind):
  model, params = load(DATA / kind)
  assert model.embeds == "own" and params["part"]["embedding"].shape == (40, 16)


@pytest.mark.parametrize("kind", ["eagle_1", "eagle_1_deep", "vllm"])
def test_the_targets_table_is_not_kept_again(kind):
  model, params = load(DATA / kind)
  assert model.embeds == "scaled" and "embedding" not in params["part"]


def test_a_rounded_table_is_the_targets(tmp_path):
  table = safetensors.numpy.load_file(
      DATA / "eagle_1" / "model.safetensors")["embed_tokens.weight"]
  near, other = table.astype(np.float16), table.copy()
  other[3, 5] *= 1.02
  folder = broken(tmp_path / "near", "eagle_1", {"embed_tokens.weight": near})
  assert load(folder)[0].embeds == "scaled"
  folder = broken(tmp_path / "other", "eagle_1", {"embed_tokens.weight": other})
  assert load(folder)[0].embeds == "own"


@pytest.mark.parametrize("kind", ["eagle_1", "eagle_1_deep", "eagle_3"])
def test_rows_are_not_scaled_beside_a_target_that_scales_its_own(kind):
  model, _ = check_numbers(DATA / kind, embed_scale=7.0)
  assert model.embeds == "rows"


def test_biases_by_the_kind_of_layers_too(tmp_path):
  folder = broken(tmp_path, "eagle_1_qkv_bias", model_type="qwen2",
                  qkv_bias=None)
  assert same(load(folder), load(DATA / "eagle_1_qkv_bias"))
  without = broken(tmp_path, "eagle_1", model_type="qwen2", qkv_bias=False)
  assert same(load(without), load(DATA / "eagle_1"))


def test_what_vllm_calls_as_it_likes(tmp_path):
  held = safetensors.numpy.load_file(DATA / "vllm" / "model.safetensors")
  ids = held["token_map"]
  # Names with one prefix more or less, and a head of the listed tokens alone.
  tensors = dict.fromkeys(held) | {
      name.removeprefix("model.") if "mlp" in name or "fc" in name else
      f"model.{name}" if name != "token_map" else name: value
      for name, value in held.items()}
  tensors["model.lm_head.weight"] = held["lm_head.weight"][ids]
  tensors["token_map"] = ids
  folder = broken(tmp_path, "vllm", tensors)
  assert same(load(folder), load(DATA / "vllm"))
  np.testing.assert_array_equal(load(folder)[1]["part"]["token_ids"], ids)


def test_a_vllm_draft_of_all_tokens_is_an_eagle_1(tmp_path):
  held = safetensors.numpy.load_file(DATA / "eagle_1" / "model.safetensors")
  wrapper = {"model_type": "eagle", "model": json.loads(
      (DATA / "eagle_1" / "config.json").read_text()) | {"eagle_fc_bias": True}}
  folder = broken(tmp_path, "eagle_1", {"lm_head.weight": np.load(
      DATA / "eagle_1" / "expected.npz")["head"]})
  (folder / "config.json").write_text(json.dumps(wrapper))
  assert same(load(folder), load(DATA / "eagle_1"))
  safetensors.numpy.save_file(held, folder / "model.safetensors")
  assert same(load(folder), load(DATA / "eagle_1"))


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


@pytest.mark.parametrize("kind, part", [
    ("eagle_1_own_table", "eagle_2"), ("vllm", "eagle_2"),
    ("eagle_3", "eagle_3"), ("eagle_3_narrow", "eagle_3"),
    ("speculators_normed", "eagle_3")])
def test_a_loaded_draft_decodes(kind, part):
  target, params = target_of(DATA / kind)
  params = jax.jit(target.init)(jax.random.key(0)) | params
  bundle = bundle_lib.Bundle(
      "tested", target, {}, {"target": params}, None).with_head(
          part, *feature_checkpoint.load_eagle(DATA / kind, target, params))
  texts = []
  for name, hyper in (("autoregressive", {}),
                      (part, dict(budget=5, depth=2, top_k=2))):
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
    ("eagle_1", {"embed_tokens.weight": np.ones((39, 16), np.float32)}, {},
     r"embed_tokens\.weight: expected shape \(40, 16\), found \(39, 16\)"),
    ("eagle_1", {}, {"qkv_bias": True}, r"q_proj\.bias: expected .* nothing"),
    ("eagle_1", {}, {"qkv_bias": 1}, "qkv_bias=1, expected true or false"),
    ("eagle_1", {}, {"model_type": "mixtral"},
     r"eagle_1/config\.json: model_type='mixtral', expected .*'llama'.*eagle"),
    ("eagle_1", {}, {"norm_output": True}, "norm_output=True .expected none"),
    ("eagle_1", {}, {"target_hidden_size": 8}, "target_hidden_size=8"),
    ("eagle_1_deep", {"layers.1.input_layernorm.weight": None}, {},
     r"layers\.1\.input_layernorm\.weight: expected shape \(16,\), found noth"),
    ("eagle_3_narrow", {"embed_tokens.weight": None}, {},
     r"embed_tokens\.weight: expected shape \(40, 16\), found nothing"),
    ("eagle_3_narrow", {}, {"target_hidden_size": None},
     r"d_model=16 \(the target has 24\)"),
    ("eagle_3", {}, {"num_hidden_layers": 2}, "num_hidden_layers=2"),
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
    ("eagle_3", {}, {"fc_norm": True}, r"fc_norm\.0\.weight: expected shape"),
    ("eagle_3", {}, {"eagle_config": {"norm_before_fc": True}},
     r"input_norm\.weight: expected shape \(48,\), found nothing"),
    ("eagle_3", {}, {"fc_norm": True, "norm_before_fc": True}, "one of them"),
    ("eagle_3", {}, {"input_norm": True}, "input_norm=True .expected none"),
    ("speculators", {}, {"transformer_layer_config": {"model_type": "gpt2"}},
     r"transformer_layer_config\.model_type='gpt2', expected the layers of"),
    ("speculators", {}, {"transformer_layer_config": [1]}, "expected an obj"),
    ("vllm", {"token_map": None}, {}, "token_map: expected .* found nothing"),
    ("vllm", {"token_map": np.zeros(12, np.float32)}, {}, "expected integers"),
    ("vllm", {"token_map": np.arange(29, 41)}, {}, r"from 29 to 40 in 12 rows"),
    ("vllm", {"token_map": np.zeros(12, int)}, {}, "lists 1 tokens from 0"),
    ("vllm", {"lm_head.weight": np.ones((40, 16), np.float32)}, {},
     r"lm_head\.weight: expected that of the target, found another"),
    ("vllm", {"fc.bias": None}, {}, r"fc\.bias: expected shape"),
    ("vllm", {"model.fc.bias": np.ones(16, np.float32)}, {},
     r"twice fc\.bias: (model\.)?fc\.bias and (model\.)?fc\.bias"),
    ("vllm", {}, {"eagle_fc_bias": False}, r"extra fc\.bias"),
    ("vllm", {}, {"truncated_vocab_size": 41}, "=41, expected 1 to 40 or none"),
    ("vllm", {}, {"truncated_vocab_size": None}, "extra token_map"),
    ("vllm", {}, {"add_para_norm": True}, r"add_para_norm=True \(expected Fal"),
    ("vllm", {}, {"skip_prenorm": False}, r"skip_prenorm=False \(expected Tr"),
    ("vllm", {}, {"draft_vocab_size": 12}, "draft_vocab_size=12"),
    ("vllm", {}, {"model": {"model_type": "phi"}}, r"model\.model_type='phi'"),
    ("eagle_3", {}, {"target_hidden_size": 8}, "target_hidden_size=8"),
    ("speculators", {}, {"speculators_model_type": "peagle"}, "'peagle'"),
    ("speculators", {"mask_hidden": np.ones((1, 1, 48), np.float32)}, {},
     "extra mask_hidden"),
])
def test_every_fault_is_named(tmp_path, kind, tensors, config, message):
  with pytest.raises(ValueError, match=message):
    load(broken(tmp_path, kind, tensors, **config))


@pytest.mark.parametrize("hyper, message", [
    ({"embeds": "mine"}, "embeds='mine', expected one of"),
    ({"tap_norm": "all", "head_size": 8, "taps": [0, 1, 2]},
     "tap_norm='all', expected one of"),
    ({"tap_norm": "each"}, r"head_size=0, taps=\('final',\): expected a head"),
])
def test_hyper_parameters_that_no_net_has(hyper, message):
  target, _ = target_of(DATA / "eagle_1")
  with pytest.raises(ValueError, match=message):
    feature_model.from_hyper(target, "part", hyper).init(jax.random.key(0))
