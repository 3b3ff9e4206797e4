"""Writes a model as a Hugging Face folder of the Llama architecture.

The inverse of `checkpoint`: config.json, model.safetensors, tokenizer.json,
which `transformers` and `spec_jax.load_hf` both read. What Llama cannot say is
an error, except for a scale of the embeddings, which goes into their weights.
"""

import json
import os
import pathlib
from typing import Any

import jax
import numpy as np
import safetensors.numpy

from spec_jax.models import config as config_lib
from spec_jax.models import contract
from spec_jax.models import tokenizer as tokenizer_lib

# Fields of a configuration, and what they are in every Llama.
_LLAMA = {
    "norm": "rms", "mlp": "swiglu", "positions": "rope", "rope_scaling": None,
    "windows": (), "qkv_bias": False, "out_bias": False, "mlp_bias": False,
    "qk_norm": False, "post_norms": False, "attn_softcap": 0.0,
    "final_softcap": 0.0, "query_scale": None, "real_vocab_size": None,
}


def save_hf(folder: str | os.PathLike, model: contract.LinenModel, params: Any,
            tokenizer: tokenizer_lib.TextTokenizer | None = None) -> None:
  """Writes the folder, in the dtype of the parameters.

  Args:
    folder: made if it does not exist.
    model: of a configuration that is a Llama's.
    params: of the model.
    tokenizer: also written, if there is one.

  Raises:
    ValueError: naming every field that Llama has no word for.
  """
  c = model.config
  check_llama(c)
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  tensors = _tensors(c, jax.tree.map(np.asarray, jax.device_get(params)))
  write_tensors(folder, tensors)
  end = None if tokenizer is None else tokenizer.end_of_text
  config = config_fields(c, end) | {
      "dtype": str(tensors["model.embed_tokens.weight"].dtype)}
  (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
  if tokenizer is not None:
    tokenizer.tokenizer.save(str(folder / "tokenizer.json"))
    special = {} if end is None else {
        "eos_token": tokenizer.tokenizer.id_to_token(end)}
    (folder / "tokenizer_config.json").write_text(json.dumps(
        {"tokenizer_class": "PreTrainedTokenizerFast"} | special) + "\n")


def write_tensors(folder: pathlib.Path, tensors: dict[str, np.ndarray]) -> None:
  """Writes model.safetensors, for `transformers` and who reads as it does."""
  path = folder / "model.safetensors"
  # transformers wants to know which library made the file.
  safetensors.numpy.save_file(
      {name: np.ascontiguousarray(value) for name, value in tensors.items()},
      path, {"format": "pt"})
  path.chmod(0o644)  # safetensors makes files that only their owner reads.


def check_llama(config: config_lib.DecoderConfig) -> None:
  """Raises ValueError, naming every field that Llama has no word for."""
  foreign = [f"{field}={getattr(config, field)!r} (a Llama has {value!r})"
             for field, value in _LLAMA.items()
             if getattr(config, field) != value]
  if foreign:
    raise ValueError("this model is no Llama: " + ", ".join(foreign) + ".")


def _is_tied(config):
  return config.tie_embeddings and config.embed_scale == 1.0


def config_fields(config: config_lib.DecoderConfig, end_of_text: int | None
                  ) -> dict[str, Any]:
  """What config.json says of a Llama."""
  return {
      "architectures": ["LlamaForCausalLM"],
      "model_type": "llama",
      "vocab_size": config.vocab_size,
      "hidden_size": config.d_model,
      "intermediate_size": config.d_ff,
      "num_hidden_layers": config.num_layers,
      "num_attention_heads": config.num_heads,
      "num_key_value_heads": config.num_kv_heads,
      "head_dim": config.head_dim,
      "hidden_act": "silu",
      "max_position_embeddings": config.max_positions,
      "rms_norm_eps": config.norm_eps,
      # Versions 4 and 5 look for it in different places.
      "rope_theta": config.rope_theta,
      "rope_parameters": {"rope_type": "default",
                          "rope_theta": config.rope_theta},
      "attention_bias": False,
      "mlp_bias": False,
      "tie_word_embeddings": _is_tied(config),
      "bos_token_id": None,
      "eos_token_id": end_of_text,
      "pad_token_id": None,
  }


def _tensors(config: config_lib.DecoderConfig, params: Any
             ) -> dict[str, np.ndarray]:
  """By the names of Llama; matrices are `[out, in]` there."""
  embedding = params["embedding"]
  scaled = (embedding * np.float32(config.embed_scale)).astype(embedding.dtype)
  tensors = {"model.embed_tokens.weight": scaled,
             "model.norm.weight": params["final_norm"]["scale"]}
  if not _is_tied(config):
    tensors["lm_head.weight"] = (
        embedding if config.tie_embeddings else params["head"])
  for layer in range(config.num_layers):
    prefix = f"model.layers.{layer}."
    tensors |= {prefix + name: value for name, value in layer_tensors(
        config, params[f"layers_{layer}"]).items()}
  return tensors


def layer_tensors(config, block):
  """A block by the names of Llama, without their prefix."""
  width, groups = config.d_model, config.num_groups
  rows = lambda x: np.moveaxis(x, 0, -1).reshape(-1, x.shape[0])
  qkv = block["attn"]["qkv"]["kernel"]  # [E, K, G + 2, C]
  up = block["mlp"]["up"]["kernel"]  # [E, 2, F]
  return {
      "input_layernorm.weight": block["attn_norm"]["scale"],
      "self_attn.q_proj.weight": rows(qkv[:, :, :groups]),
      "self_attn.k_proj.weight": rows(qkv[:, :, groups]),
      "self_attn.v_proj.weight": rows(qkv[:, :, groups + 1]),
      "self_attn.o_proj.weight":
          block["attn"]["out"]["kernel"].reshape(-1, width).T,
      "post_attention_layernorm.weight": block["mlp_norm"]["scale"],
      "mlp.gate_proj.weight": up[:, 0].T,
      "mlp.up_proj.weight": up[:, 1].T,
      "mlp.down_proj.weight": block["mlp"]["down"]["kernel"].T,
  }
