"""Checkpoints: the logits of transformers, or one clear error.

The folders come from tests/data/make_hf_fixtures.py.
"""

import dataclasses
import json
import pathlib
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import numpy as st

from spec_jax.caches import dense
from spec_jax.models import checkpoint
from spec_jax.models import contract

_DATA = pathlib.Path(__file__).parent.parent / "data" / "hf"
_NAMES = ("llama2", "llama3", "mistral", "qwen2", "qwen3", "gemma", "gemma2",
          "gpt2", "opt")
_TOLERANCE = 1e-4


def _expected(name):
  with np.load(_DATA / name / "expected.npz") as data:
    return data["tokens"], data["logits"]


@pytest.fixture(scope="module", params=_NAMES)
def loaded(request):
  """Name, model (every row a token), parameters."""
  config = checkpoint.read_config(_DATA / request.param)
  params = checkpoint.load_params(_DATA / request.param, config)
  return request.param, contract.decoder_model(config), params


@pytest.fixture
def folder(tmp_path):
  """Copies a checkpoint so that a test may break it."""
  def copy(name):
    target = tmp_path / name
    shutil.copytree(_DATA / name, target)
    return target
  return copy


def _edit_config(path, remove=(), **changes):
  raw = json.loads((path / "config.json").read_text())
  raw = {k: v for k, v in raw.items() if k not in remove} | changes
  (path / "config.json").write_text(json.dumps(raw))


def _edit_tensors(path, edit):
  tensors = st.load_file(path / "model.safetensors")
  st.save_file(edit(tensors), path / "model.safetensors")


def _load(path):
  return checkpoint.load_params(path, checkpoint.read_config(path))


def test_params_have_the_structure_of_init(loaded):
  _, model, params = loaded
  chex.assert_trees_all_equal_shapes_and_dtypes(
      params, jax.eval_shape(model.init, jax.random.key(0)))


def test_logits_equal_transformers(loaded):
  name, model, params = loaded
  tokens, logits = _expected(name)
  out = jax.jit(model.score)(params, jnp.asarray(tokens))
  np.testing.assert_allclose(out.logits, logits, atol=_TOLERANCE, rtol=0)


def test_logits_behind_a_ragged_cache_equal_transformers(loaded):
  name, model, params = loaded
  tokens, logits = _expected(name)
  count, rest = np.array([15, 11]), 9

  @jax.jit
  def two_forwards(params, tokens):
    prompt = tokens[:, :15]
    path = jnp.broadcast_to(jnp.arange(15), prompt.shape)
    out = model.score(params, prompt)
    cache = dense.empty(model, 2, 32).commit(
        out.fresh, path, jnp.asarray(count))
    positions = cache.length[:, None] + jnp.arange(rest)[None]
    mask = jnp.broadcast_to(jnp.tril(jnp.ones((rest, rest), bool)),
                            (2, rest, rest))
    fresh = jnp.take_along_axis(tokens, positions, axis=1)
    return model.forward(params, fresh, positions, mask, cache).logits

  found = two_forwards(params, jnp.asarray(tokens))
  wanted = np.stack([logits[b, c:c + rest] for b, c in enumerate(count)])
  np.testing.assert_allclose(found, wanted, atol=_TOLERANCE, rtol=0)


@pytest.mark.parametrize("name,change", [
    ("llama3", {"rope_scaling": None}), ("llama3", {"rope_theta": 10000.0}),
    ("mistral", {"windows": (8, 8)}), ("mistral", {"norm_eps": 1e-1}),
    ("qwen2", {"windows": ()}), ("qwen2", {"windows": (5, 5)}),
    ("gemma", {"embed_scale": 1.0}), ("gemma", {"mlp": "swiglu"}),
    ("gemma2", {"windows": (0, 6)}), ("gemma2", {"attn_softcap": 0.0}),
    ("gemma2", {"final_softcap": 0.0}), ("gemma2", {"query_scale": None}),
    ("gpt2", {"mlp": "relu"}), ("opt", {"mlp": "gelu"}),
])
def test_checkpoints_show_a_wrong_config(name, change):
  config = checkpoint.read_config(_DATA / name)
  model = contract.decoder_model(dataclasses.replace(config, **change))
  tokens, logits = _expected(name)
  out = jax.jit(model.score)(_load(_DATA / name), jnp.asarray(tokens))
  assert np.abs(out.logits - logits).max() > 20 * _TOLERANCE


@pytest.mark.parametrize("name", ["llama3", "gemma2", "opt"])
def test_bfloat16(name):
  model, params, _ = checkpoint.load_hf(_DATA / name, jnp.bfloat16)
  tokens, logits = _expected(name)
  assert params["embedding"].dtype == jnp.bfloat16
  assert params["final_norm"]["scale"].dtype == jnp.float32
  found = jax.jit(model.score)(params, jnp.asarray(tokens)).logits
  assert found.dtype == jnp.float32
  assert np.abs(found - logits).mean() < 0.05 * np.abs(logits).mean()


def test_bfloat16_files_load(folder):
  path = folder("gpt2")
  _edit_tensors(path, lambda tensors: {
      name: x.astype(jnp.bfloat16) for name, x in tensors.items()})
  wanted = jax.tree.map(
      lambda x: x.astype(jnp.bfloat16).astype(jnp.float32),
      _load(_DATA / "gpt2"))
  chex.assert_trees_all_equal(_load(path), wanted)


def test_padding_rows_have_no_probability():
  model, params, tokenizer = checkpoint.load_hf(_DATA / "qwen3")
  tokens, logits = _expected("qwen3")
  assert model.config.real_vocab_size == tokenizer.vocab_size == 64
  found = jax.jit(model.score)(params, jnp.asarray(tokens)).logits
  assert np.all(np.isneginf(found[..., 64:]))
  np.testing.assert_allclose(found[..., :64], logits[..., :64],
                             atol=_TOLERANCE, rtol=0)


def test_real_vocab_size_is_explicit_without_a_tokenizer():
  model, _, tokenizer = checkpoint.load_hf(_DATA / "opt", real_vocab_size=90)
  assert tokenizer is None and model.config.real_vocab_size == 90
  with pytest.raises(ValueError, match="real_vocab_size=97, expected 1..96"):
    checkpoint.load_hf(_DATA / "opt", real_vocab_size=97)


def test_tokenizer_larger_than_the_embedding_is_an_error(folder):
  path = folder("gpt2")
  shutil.copy(_DATA / "qwen3" / "tokenizer.json", path)
  _edit_config(path, vocab_size=40)
  with pytest.raises(ValueError, match="64 tokens.*vocab_size=40"):
    checkpoint.load_hf(path)


def test_every_mismatch_is_named_at_once(folder):
  path = folder("qwen2")
  def edit(tensors):
    tensors["score.weight"] = np.zeros((2, 32), np.float32)
    tensors["model.norm.bias"] = np.zeros((32,), np.float32)
    tensors["model.layers.1.mlp.up_proj.weight"] = np.zeros((32, 48), "f4")
    tensors["model.norm.weight"] = np.zeros((32,), np.int8)
    del tensors["model.layers.0.self_attn.k_proj.bias"]
    return tensors
  _edit_tensors(path, edit)
  with pytest.raises(ValueError) as error:
    _load(path)
  for line in (
      "missing model.layers.0.self_attn.k_proj.bias: expected shape (16,)",
      "misshapen model.layers.1.mlp.up_proj.weight: expected shape (48, 32),"
      " found (32, 48)",
      "not a float model.norm.weight: found dtype I8",
      "extra model.norm.bias: found shape (32,)",
      "extra score.weight: found shape (2, 32)"):
    assert line in str(error.value)
  assert str(error.value).count("\n") == 5


def test_tensors_of_others_are_left_to_them(folder):
  path = folder("llama2")
  whole = _load(path)
  _edit_tensors(path, lambda tensors: tensors | {
      "medusa_head.0.1.weight": np.zeros((2, 32), np.float32)})
  with pytest.raises(ValueError, match="extra medusa_head.0.1.weight"):
    checkpoint.load_hf(path)
  _, params, _ = checkpoint.load_hf(path, others="medusa_head.*")
  chex.assert_trees_all_equal(params, whole)


def test_tied_head_must_equal_the_embedding(folder):
  path = folder("llama2")
  _edit_tensors(path, lambda tensors: tensors | {
      "lm_head.weight": tensors["model.embed_tokens.weight"]})
  chex.assert_trees_all_equal(_load(path), _load(_DATA / "llama2"))
  _edit_tensors(path, lambda tensors: tensors | {
      "lm_head.weight": tensors["lm_head.weight"] + 1})
  with pytest.raises(ValueError, match="lm_head.weight: differs"):
    _load(path)


def test_old_spellings_of_gpt2_and_opt_load(folder):
  gpt2, opt = folder("gpt2"), folder("opt")
  def bare(tensors):
    tensors = {k.removeprefix("transformer."): v for k, v in tensors.items()}
    for layer in (0, 1):
      tensors[f"h.{layer}.attn.bias"] = np.ones((1, 1, 64, 64), np.uint8)
      tensors[f"h.{layer}.attn.masked_bias"] = np.float32([-1e4])
    return tensors
  _edit_tensors(gpt2, bare)
  _edit_tensors(opt, lambda tensors: {
      k.removeprefix("model."): v for k, v in tensors.items()})
  chex.assert_trees_all_equal(_load(gpt2), _load(_DATA / "gpt2"))
  chex.assert_trees_all_equal(_load(opt), _load(_DATA / "opt"))


def test_rotary_buffers_are_ignored(folder):
  path = folder("llama2")
  name = "model.layers.0.self_attn.rotary_emb.inv_freq"
  _edit_tensors(path, lambda t: t | {name: np.ones((4,), np.float32)})
  chex.assert_trees_all_equal(_load(path), _load(_DATA / "llama2"))


def test_wrong_sizes_in_config_are_named_by_tensor(folder):
  path = folder("llama2")
  _edit_config(path, num_hidden_layers=1, vocab_size=100)
  with pytest.raises(ValueError) as error:
    _load(path)
  assert "extra model.layers.1.mlp.down_proj.weight" in str(error.value)
  assert ("misshapen model.embed_tokens.weight: expected shape (100, 32),"
          " found (96, 32)") in str(error.value)


def test_integer_dtype_is_an_error():
  config = checkpoint.read_config(_DATA / "opt")
  with pytest.raises(ValueError, match="int8.*floating"):
    checkpoint.load_params(_DATA / "opt", config, jnp.int8)


@pytest.mark.parametrize("name", ["opt", "llama3"])
def test_garbage_is_named_by_its_file(folder, name):
  path = folder(name)
  file = max(path.glob("*.safetensors"))
  whole = file.read_bytes()
  file.write_bytes(np.random.default_rng(0).bytes(len(whole)))
  with pytest.raises(ValueError, match=f"{file.name}: broken"):
    checkpoint.load_hf(path)
  file.write_bytes(whole[:-100] + b"\xff" * 100)
  with pytest.raises(ValueError, match=f"{file.name}: .* not finite"):
    checkpoint.load_hf(path)


def test_errors_of_files_and_folders_come_through(folder):
  with pytest.raises(ValueError, match="No checkpoint folder 'no/such'"):
    checkpoint.load_hf("no/such")
  file = folder("opt") / "model.safetensors"
  file.write_bytes(file.read_bytes()[:1000])
  with pytest.raises(ValueError, match="opt/model.safetensors: .*truncated"):
    checkpoint.load_hf(file.parent)
