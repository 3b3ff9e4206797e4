"""Reads a Hugging Face config.json as a `DecoderConfig`.

Whatever the decoder cannot express is an error: a model that loads is the
model that was published.
"""

import dataclasses
import json
import math
import os
import pathlib
from typing import Any

from spec_jax.models import architectures
from spec_jax.models import config as config_lib

_LLAMA3_KEYS = {
    "factor": "factor",
    "low_freq_factor": "low_freq_factor",
    "high_freq_factor": "high_freq_factor",
    "original_max_positions": "original_max_position_embeddings",
}

_DERIVED = ("num_kv_heads", "head_dim", "d_ff", "attn_softcap", "final_softcap")


def read_config(path: str | os.PathLike, real_vocab_size: int | None = None
                ) -> config_lib.DecoderConfig:
  """The configuration of a checkpoint folder.

  Args:
    path: folder that holds a config.json.
    real_vocab_size: number of tokens, where the embedding has padding rows
      beyond them; None when every row is a token.

  Raises:
    ValueError: no such folder or file, an unknown architecture, or a choice
      that the decoder cannot express.
  """
  raw = read_raw_config(path)
  try:
    return decoder_config(raw, real_vocab_size)
  except ValueError as error:
    raise ValueError(f"{path}/config.json: {error}") from error


def read_raw_config(path: str | os.PathLike) -> dict[str, Any]:
  """config.json as it stands."""
  folder = pathlib.Path(path)
  if not folder.is_dir():
    raise ValueError(
        f"No checkpoint folder {str(folder)!r}; expected a local folder with"
        " config.json and *.safetensors (nothing is downloaded).")
  source = folder / "config.json"
  raw = read_json(source)
  model_type = raw.get("model_type")
  if model_type not in architectures.ARCHITECTURES:
    raise ValueError(
        f"{source}: model_type={model_type!r} (architectures="
        f"{raw.get('architectures')}), expected one of"
        f" {sorted(architectures.ARCHITECTURES)}.")
  return raw


def read_json(source: pathlib.Path) -> dict[str, Any]:
  """A JSON object from a file."""
  if not source.is_file():
    raise ValueError(f"{source}: no such file.")
  try:
    raw = json.loads(source.read_text(encoding="utf-8"))
  except ValueError as error:
    raise ValueError(f"{source}: not valid JSON: {error}") from error
  if not isinstance(raw, dict):
    raise ValueError(f"{source}: expected a JSON object, got {type(raw)}.")
  return raw


def decoder_config(raw: dict[str, Any], real_vocab_size: int | None = None
                   ) -> config_lib.DecoderConfig:
  """The configuration that the contents of a config.json state."""
  arch = architectures.ARCHITECTURES[raw["model_type"]]
  if raw.get("quantization_config"):
    raise ValueError("quantization_config is set, expected plain weights.")
  raw = dict(arch.defaults) | raw
  missing = [key for key in arch.fields.values() if key not in raw]
  if missing:
    raise ValueError(f"keys {missing} are missing.")
  _check_choices(arch, raw)
  values = dict(arch.fixed)
  values |= {field: raw[key] for field, key in arch.fields.items()}
  _check_types(values, arch.fields)
  _fill_derived(values)
  if values["positions"] == "rope":
    values["rope_theta"], values["rope_scaling"] = _rope(raw)
  values["windows"] = _windows(arch.windows, raw, values["num_layers"])
  if arch.scales_embedding:
    values["embed_scale"] = math.sqrt(values["d_model"])
  if "query_pre_attn_scalar" in arch.defaults:
    values["query_scale"] = raw["query_pre_attn_scalar"] ** -0.5
  if real_vocab_size is not None:
    _check_vocabulary(real_vocab_size, values["vocab_size"])
  return config_lib.DecoderConfig(
      mlp=arch.activations[raw[arch.activation]],
      real_vocab_size=real_vocab_size, **values)


def _check_choices(arch, raw):
  """Raises on choices for which the decoder has no field."""
  choices = dict(arch.only)
  choices[arch.activation] = tuple(arch.activations)
  if "word_embed_proj_dim" in raw:
    choices["word_embed_proj_dim"] = (None, raw.get("hidden_size"))
  wrong = [f"{key}={raw[key]!r} (expected one of {allowed})"
           for key, allowed in choices.items() if raw[key] not in allowed]
  if wrong:
    raise ValueError("unsupported " + ", ".join(wrong) + ".")


def _fill_derived(values):
  """Values that follow from others where the file has null."""
  if values.get("num_kv_heads") is None:
    values["num_kv_heads"] = values["num_heads"]
  if values.get("head_dim") is None:
    width, heads = values["d_model"], values["num_heads"]
    if width % heads:
      raise ValueError(f"width {width} is not a multiple of {heads} heads.")
    values["head_dim"] = width // heads
  if values["d_ff"] is None:  # only GPT-2 may leave it out
    values["d_ff"] = 4 * values["d_model"]
  for cap in ("attn_softcap", "final_softcap"):
    if cap in values:
      values[cap] = float(values[cap] or 0.0)


def _check_types(values, keys):
  types = {f.name: f.type for f in dataclasses.fields(config_lib.DecoderConfig)}
  good = {
      int: lambda v: isinstance(v, int) and v is not True and v > 0,
      float: lambda v: isinstance(v, (int, float)) and v >= 0,
      bool: lambda v: isinstance(v, bool),
  }
  wrong = [f"{keys[name]}={values[name]!r} (expected {types[name].__name__})"
           for name in keys if not good[types[name]](values[name])
           and not (values[name] is None and name in _DERIVED)]
  if wrong:
    raise ValueError("bad values: " + ", ".join(wrong) + ".")


def _rope(raw):
  """Base and scaling, in the old spelling or that of transformers 5."""
  rope = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
  if not isinstance(rope, dict):
    raise ValueError(f"rope parameters {rope!r}, expected an object.")
  theta = float(rope.get("rope_theta", raw.get("rope_theta", 10000.0)))
  kind = rope.get("rope_type", rope.get("type", "default"))
  if any(isinstance(value, dict) for value in rope.values()):
    kind = "one per layer type"
  if kind not in ("default", "llama3"):
    raise ValueError(
        f"unsupported rope_type={kind!r}, expected 'default' or 'llama3'.")
  partial = rope.get("partial_rotary_factor",
                     raw.get("partial_rotary_factor", 1.0))
  if partial != 1.0:
    raise ValueError(
        f"unsupported partial_rotary_factor={partial!r}, expected 1.0.")
  if kind == "default":
    return theta, None
  lacking = [key for key in _LLAMA3_KEYS.values() if key not in rope]
  if lacking:
    raise ValueError(f"rope_type='llama3' lacks the keys {lacking}.")
  return theta, config_lib.RopeScaling(
      **{field: rope[key] for field, key in _LLAMA3_KEYS.items()})


def _windows(rule, raw, num_layers):
  """Per-layer windows; empty when every layer sees everything."""
  size = raw.get("sliding_window")
  if rule == "none" or size is None or (
      rule == "late" and not raw["use_sliding_window"]):
    return ()
  kinds = raw.get("layer_types") if rule != "all" else None
  if kinds is None:
    is_sliding = {
        "all": lambda layer: True,
        "late": lambda layer: layer >= raw["max_window_layers"],
        "alternate": lambda layer: layer % 2 == 0,
    }[rule]
    return tuple(size * is_sliding(layer) for layer in range(num_layers))
  sizes = {"sliding_attention": size, "full_attention": 0}
  unknown = sorted(set(kinds) - set(sizes))
  if unknown:
    raise ValueError(
        f"unsupported layer_types {unknown}, expected {sorted(sizes)}.")
  return tuple(sizes[kind] for kind in kinds)


def _check_vocabulary(real, rows):
  if not 0 < real <= rows:
    raise ValueError(
        f"real_vocab_size={real}, expected 1..{rows}: the embedding has"
        f" vocab_size={rows} rows.")
