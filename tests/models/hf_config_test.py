"""Configs: every choice is understood or refused by name."""

import json
import pathlib
import shutil

import pytest

from spec_jax.models import hf_config

_DATA = pathlib.Path(__file__).parent.parent / "data" / "hf"


@pytest.fixture
def folder(tmp_path):
  """A folder with nothing but the config.json of a checkpoint."""
  def copy(name):
    shutil.copy(_DATA / name / "config.json", tmp_path)
    return tmp_path
  return copy


def _edit_config(path, remove=(), **changes):
  raw = json.loads((path / "config.json").read_text())
  raw = {k: v for k, v in raw.items() if k not in remove} | changes
  (path / "config.json").write_text(json.dumps(raw))


def test_both_spellings_of_rope_agree(folder):
  path = folder("llama3")
  raw = json.loads((path / "config.json").read_text())
  scaling = dict(raw["rope_parameters"])
  theta = scaling.pop("rope_theta")
  _edit_config(path, remove=("rope_parameters",), rope_theta=theta,
               rope_scaling=scaling)
  assert hf_config.read_config(path) == hf_config.read_config(
      _DATA / "llama3")


@pytest.mark.parametrize("name,keys", [
    ("mistral", ("head_dim",)), ("gemma2", ("layer_types",)),
    ("qwen2", ("layer_types",)), ("gpt2", ("tie_word_embeddings", "n_inner")),
    ("opt", ("enable_bias", "word_embed_proj_dim", "tie_word_embeddings")),
    ("gemma", ("tie_word_embeddings", "attention_bias", "hidden_act"))])
def test_defaults_of_configs_that_say_less(folder, name, keys):
  path = folder(name)
  _edit_config(path, remove=keys)
  assert hf_config.read_config(path) == hf_config.read_config(_DATA / name)


@pytest.mark.parametrize("name,changes,message", [
    ("llama2", {"model_type": "mamba"}, "'mamba'.*'gemma', 'gemma2', 'gpt2'"),
    ("llama2", {"hidden_act": "relu"}, "hidden_act='relu'.*silu"),
    ("llama2", {"hidden_size": "32"}, "hidden_size='32' .expected int"),
    ("llama2", {"quantization_config": {"bits": 4}}, "quantization_config"),
    ("llama2", {"rope_parameters": {"rope_type": "yarn"}}, "'yarn'.*'llama3'"),
    ("llama3", {"rope_parameters": {"rope_type": "llama3"}}, "low_freq_factor"),
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "inverse_layer_idx"),
    ("opt", {"word_embed_proj_dim": 16}, "word_embed_proj_dim=16"),
    ("opt", {"do_layer_norm_before": False}, "do_layer_norm_before=False"),
    ("gemma2", {"layer_types": ["chunked_attention"] * 2}, "chunked_attention"),
])
def test_unsupported_choices_are_errors(folder, name, changes, message):
  path = folder(name)
  _edit_config(path, **changes)
  with pytest.raises(ValueError, match=message) as error:
    hf_config.read_config(path)
  assert "config.json" in str(error.value)


def test_config_without_sizes_names_them(folder):
  path = folder("opt")
  _edit_config(path, remove=("ffn_dim", "hidden_size"))
  with pytest.raises(ValueError, match="'hidden_size', 'ffn_dim'.*missing"):
    hf_config.read_config(path)


def test_broken_config_is_named(folder):
  path = folder("opt")
  (path / "config.json").write_text("{")
  with pytest.raises(ValueError, match="config.json: not valid JSON"):
    hf_config.read_config(path)
