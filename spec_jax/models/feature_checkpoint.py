"""Loads published EAGLE drafts for a target, strictly.

Three layouts are told apart by what the folder says: EAGLE-1 and 2 (one set of
files), EAGLE-3 as its authors publish it, and EAGLE-3 in the layout of
`speculators` (vllm-project); `feature_export` writes the last two. As in
`checkpoint`, every tensor is used once or the load fails with one error.
"""

import dataclasses
import os
import pathlib
from typing import Any

from flax import traverse_util
import jax.numpy as jnp
import numpy as np

from spec_jax.models import architectures
from spec_jax.models import config as config_lib
from spec_jax.models import contract
from spec_jax.models import draft_vocabulary
from spec_jax.models import feature_model
from spec_jax.models import hf_config
from spec_jax.models import tensor_files
from spec_jax.models import tensor_layout

AUX_LAYERS = "eagle_aux_hidden_state_layer_ids"
_FILES = ("model", "pytorch_model")
_EMBEDDING = "embed_tokens.weight"
# What the layers of a net may have otherwise than those of its target.
_LAYER_FIELDS = (
    "num_layers", "num_heads", "num_kv_heads", "head_dim", "d_ff",
    "max_positions", "norm", "norm_eps", "mlp", "rope_theta", "rope_scaling",
    "qkv_bias", "out_bias", "mlp_bias", "qk_norm", "attn_softcap",
    "query_scale")
# Variants of EAGLE-3 that the net has no word for; each must be absent or off.
_FOREIGN = ("norm_before_fc", "fc_norm", "norm_output", "input_norm")


@dataclasses.dataclass(frozen=True)
class _Layout:
  """What a folder says of its net.

  Attributes:
    config: of the layers.
    hyper: of the net, see `feature_model.from_hyper`.
    layer: name of the first layer; `{}` is the number of a layer.
    head_size: rows of the net's own head, 0 without one.
  """

  config: config_lib.DecoderConfig
  hyper: dict[str, Any]
  layer: str
  head_size: int


def load_eagle(path: str | os.PathLike, target: contract.LinenModel,
               target_params: Any, dtype: jnp.dtype = jnp.float32
               ) -> tuple[dict[str, Any], Any]:
  """A trained part of a folder, to be put among those of a bundle.

  Args:
    path: folder with config.json and the tensors, as safetensors or as torch
      saved them, which is read without torch.
    target: the model that the draft was trained for.
    target_params: its parameters; an embedding in the folder must be theirs.
    dtype: of the parameters, except norms.

  Returns:
    Hyper-parameters (`feature_model.from_hyper`) and parameters: for a bundle's
    part "eagle_2" or "eagle_3".

  Raises:
    ValueError: anything missing, extra, misshapen, or of another target.
  """
  layout = _layout(pathlib.Path(path), target.config)
  files = tensor_files.open_folder(path, _FILES)
  parts = list(_parts(layout, target.config.d_model))
  problems = files.problems + _mismatches(layout, parts, files, target.config)
  if not problems:
    problems = _foreign_embedding(files, target_params)
  if problems:
    raise ValueError(f"{path} is not the draft that its config.json states:"
                     + "".join(f"\n  {problem}" for problem in problems))
  params = {}
  for part in parts:
    array = part.build([files.read(name) for name in part.sources])
    params[part.path] = jnp.asarray(array.astype(
        jnp.dtype(jnp.float32 if part.is_norm else dtype)))
  params = traverse_util.unflatten_dict(params)
  if layout.head_size:
    params[feature_model.TOKEN_IDS] = jnp.asarray(
        draft_vocabulary.read(
            path, files, layout.head_size, target.vocab_size))
  return layout.hyper, params


def _layout(folder, target):
  raw = hf_config.read_json(folder / "config.json")
  is_speculators = raw.get("speculators_model_type") == "eagle3"
  if "speculators_model_type" in raw and not is_speculators:
    raise ValueError(
        f"{folder}/config.json: speculators_model_type="
        f"{raw['speculators_model_type']!r}, expected 'eagle3'.")
  inner = dict(raw.get("transformer_layer_config", {})) if is_speculators else (
      raw)
  try:
    config = hf_config.decoder_config({"model_type": "llama"} | inner)
  except (ValueError, KeyError) as error:
    raise ValueError(f"{folder}/config.json: {error}") from error
  wrong = [f"{name}={getattr(config, name)} (the target has"
           f" {getattr(target, name)})" for name in ("vocab_size", "d_model")
           if getattr(config, name) != getattr(target, name)]
  wrong += [f"{name}={raw[name]!r} (expected none)" for name in _FOREIGN
            if raw.get(name)]
  if raw.get("target_hidden_size") not in (None, target.d_model):
    wrong.append(f"target_hidden_size={raw['target_hidden_size']} (the target"
                 f" has {target.d_model})")
  if wrong:
    raise ValueError(f"{folder}/config.json: {', '.join(wrong)}.")
  layers = {name: getattr(config, name) for name in _LAYER_FIELDS}
  if config.rope_scaling:
    layers["rope_scaling"] = dataclasses.asdict(config.rope_scaling)
  if not is_speculators and "draft_vocab_size" not in raw:
    bias = raw.get("bias", True)
    return _Layout(config, {"layers": layers, "use_bias": bias}, "layers.{}.",
                   0)
  size = raw.get("draft_vocab_size") or config.vocab_size
  fusion = "attend_normed" if raw.get("norm_before_residual") else "attend"
  if config.num_layers != 1:
    raise ValueError(f"{folder}/config.json: num_hidden_layers="
                     f"{config.num_layers}, an EAGLE-3 draft has 1.")
  return _Layout(
      config, {"layers": layers, "taps": _taps(folder, raw, target.num_layers),
               "fusion": fusion, "head_size": size},
      "layers.{}." if is_speculators else "midlayer.", size)


def _taps(folder, raw, num_layers):
  """The layers of the target that config.json names, or EAGLE-3's own choice.

  A tap is what enters a layer. Speculators and vLLM count so, at the top level;
  SpecForge and SGLang list, below "eagle_config", the layers it leaves.
  """
  nested = raw.get("eagle_config") or {}
  if not isinstance(nested, dict):
    raise ValueError(f"{folder}/config.json: eagle_config={nested!r}, expected"
                     " an object.")
  for key, found, shift in ((AUX_LAYERS, raw.get(AUX_LAYERS), 0),
                            (f"eagle_config.{AUX_LAYERS}",
                             nested.get(AUX_LAYERS), 1)):
    if not found:
      continue
    if not is_rising(found, -shift, num_layers - shift):
      raise ValueError(
          f"{folder}/config.json: {key}={found!r}, expected three rising whole"
          f" numbers from {-shift} to {num_layers - shift}.")
    return [layer + shift for layer in found]
  return list(feature_model.three_depths(num_layers))


def is_rising(layers: Any, first: int, last: int) -> bool:
  """Whether these are three rising whole numbers from `first` to `last`."""
  return (isinstance(layers, (list, tuple)) and len(layers) == 3
          and all(type(layer) is int for layer in layers)
          and first <= layers[0] < layers[1] < layers[2] <= last)


def _parts(layout, width):
  """Every parameter of the net, once."""
  c = layout.config
  linear = lambda name, columns: tensor_layout.Part(
      (*name, "kernel"), {"fc.weight": (width, columns)}, lambda x: x[0].T)
  if not layout.head_size:
    yield linear(("fuse", "project"), 2 * width)
    if layout.hyper["use_bias"]:
      yield tensor_layout.Part(("fuse", "project", "bias"),
                               {"fc.bias": (width,)}, lambda x: x[0])
  else:
    yield linear(("entry", "entry"), 3 * width)
    for path, name in (("embed_norm", "input_layernorm"),
                       ("feature_norm", "hidden_norm")):
      yield from tensor_layout.norm(
          ("fuse", path), layout.layer.format(0) + name, width, c)
    yield from tensor_layout.norm(("head_norm",), "norm", width, c)
    yield tensor_layout.table("head", tensor_layout.HEAD, layout.head_size, c)
  for layer in range(c.num_layers):
    yield from _layer_parts(layout, layer, width)


def _layer_parts(layout, layer, width):
  c, arch = layout.config, architectures.ARCHITECTURES["llama"]
  local = lambda name: name.replace("layers.{}.", layout.layer)
  names = {key: tuple(map(local, value)) if isinstance(value, tuple) else
           local(value) for key, value in arch.names.items()}
  block = tensor_layout.Layer(
      dataclasses.replace(arch, names=names), c, "", layer)
  if layer > 0:
    yield from tensor_layout.norm(
        (f"layers_{layer}", "attn_norm"), names["attn_norm"].format(layer),
        width, c)
  yield from tensor_layout.norm(
      (f"layers_{layer}", "mlp_norm"), names["mlp_norm"].format(layer), width,
      c)
  yield from block.maps(2 * width if layout.head_size else width)


def _mismatches(layout, parts, files, target):
  """One line for each tensor that is not as expected."""
  expected = {}
  for part in parts:
    expected |= part.sources
  lines = []
  for name, shape in expected.items():
    found = files.shapes.get(name, "nothing")
    if found != shape:
      lines.append(f"{name}: expected shape {shape}, found {found}")
    elif not files.is_floating(name):
      lines.append(f"{name}: expected floats, found {files.dtypes[name]}")
  others = files.shapes.keys() - expected.keys()
  if layout.head_size:
    others -= set(draft_vocabulary.NAMES)
    lines += draft_vocabulary.problems(
        files, layout.head_size, target.vocab_size)
  if files.shapes.get(_EMBEDDING) == (target.vocab_size, target.d_model):
    others.discard(_EMBEDDING)
  return lines + [f"extra {name}: found shape {files.shapes[name]}"
                  for name in sorted(others)]


def _foreign_embedding(files, target_params):
  """A draft may carry its target's embedding, not another one."""
  if _EMBEDDING not in files.shapes:
    return []
  theirs = files.read(_EMBEDDING).astype(np.float32)
  ours = np.asarray(target_params["embedding"], np.float32)
  # Either of them may have been rounded to 16 bits.
  gap = float(np.abs(theirs - ours).max() / np.abs(ours).max())
  if gap < 1e-2:
    return []
  return [f"{_EMBEDDING}: expected the target's, differs by up to {gap:.3f} of"
          " its largest weight"]
