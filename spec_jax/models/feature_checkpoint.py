"""Loads published EAGLE drafts for a target, strictly, and writes them.

Three layouts are told apart by what the folder says: EAGLE-1 and 2 (one set of
files), EAGLE-3 as its authors publish it, and EAGLE-3 in the layout of
`speculators` (vllm-project), which is also what `save_speculators` writes. As
in `checkpoint`, every tensor is used once or the load fails with one error.
"""

import dataclasses
import json
import os
import pathlib
from typing import Any

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from spec_jax.models import architectures
from spec_jax.models import config as config_lib
from spec_jax.models import contract
from spec_jax.models import export
from spec_jax.models import feature_model
from spec_jax.models import hf_config
from spec_jax.models import tensor_files
from spec_jax.models import tensor_layout

_EMBEDDING = "embed_tokens.weight"
# What the layers of a net may have otherwise than those of its target.
_LAYER_FIELDS = (
    "num_layers", "num_heads", "num_kv_heads", "head_dim", "d_ff",
    "max_positions", "norm", "norm_eps", "mlp", "rope_theta", "rope_scaling",
    "qkv_bias", "out_bias", "mlp_bias", "qk_norm")
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
    path: folder with config.json and safetensors.
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
  files = tensor_files.TensorFiles(path)
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
        _token_ids(path, layout, files, target.vocab_size))
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
  taps = _aux_layers(raw) or feature_model.three_depths(target.num_layers)
  fusion = "attend_normed" if raw.get("norm_before_residual") else "attend"
  if config.num_layers != 1:
    raise ValueError(f"{folder}/config.json: num_hidden_layers="
                     f"{config.num_layers}, an EAGLE-3 draft has 1.")
  return _Layout(
      config, {"layers": layers, "taps": list(taps), "fusion": fusion,
               "head_size": size},
      "layers.{}." if is_speculators else "midlayer.", size)


def _aux_layers(raw):
  """Layers whose input is read, if config.json says so."""
  key = "eagle_aux_hidden_state_layer_ids"
  return raw.get(key) or raw.get("eagle_config", {}).get(key)


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
  optional = {_EMBEDDING: (target.vocab_size, target.d_model)}
  if layout.head_size:
    optional |= {"d2t": (layout.head_size,), "t2d": (target.vocab_size,)}
  for name in sorted(files.shapes.keys() - expected.keys()):
    if files.shapes[name] != optional.get(name):
      lines.append(f"extra {name}: found shape {files.shapes[name]}")
  return lines


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


def _token_ids(path, layout, files, vocab_size):
  """`i32[Z]`; the file holds offsets: row i is token `i + d2t[i]`."""
  rows = np.arange(layout.head_size)
  if "d2t" not in files.shapes:
    if layout.head_size != vocab_size:
      raise ValueError(
          f"{path}: no tensor d2t, expected one: the head has"
          f" {layout.head_size} rows, the vocabulary {vocab_size} tokens.")
    return rows.astype(np.int32)
  ids = rows + files.read("d2t").astype(np.int64)
  is_map = (np.diff(ids) > 0).all() and 0 <= ids[0] and ids[-1] < vocab_size
  if not is_map:
    raise ValueError(
        f"{path}: row + d2t gives {ids[:4].tolist()} ... {ids[-1]}, expected"
        f" rising token ids below {vocab_size}: d2t holds offsets.")
  if "t2d" in files.shapes:
    known = np.flatnonzero(files.read("t2d"))
    if not np.array_equal(known, ids):
      raise ValueError(f"{path}: t2d marks {known.size} tokens, expected the"
                       f" {ids.size} that d2t leads to.")
  return ids.astype(np.int32)


def save_speculators(folder: str | os.PathLike,
                     model: feature_model.FeatureModel, params: Any,
                     verifier: str = "", num_drafts: int = 3) -> None:
  """Writes an EAGLE-3 net in the layout of `speculators`.

  Args:
    folder: made if it does not exist.
    model: the net; a Llama layer with a head of its own.
    params: of the drafter, by part.
    verifier: name or path of the target, for those who read the folder.
    num_drafts: tokens that a server should draft.

  Raises:
    ValueError: for a net that the layout has no word for.
  """
  net, own = model.net, params[model.part]
  if net.fusion == "project" or not net.head_size or len(net.taps) != 3:
    raise ValueError(
        f"fusion={net.fusion!r}, head_size={net.head_size}, taps={net.taps}:"
        " expected an EAGLE-3 net, which attends to three taps and has a head.")
  export.check_llama(net.config)
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  own = jax.tree.map(np.asarray, jax.device_get(own))
  ids = own.get(feature_model.TOKEN_IDS, np.arange(net.head_size))
  known = np.zeros(model.vocab_size, bool)
  known[ids] = True
  block = export.layer_tensors(net.config, {
      **own["layers_0"], "attn_norm": own["fuse"]["embed_norm"]})
  tensors = {f"layers.0.{name}": value for name, value in block.items()} | {
      "layers.0.hidden_norm.weight": own["fuse"]["feature_norm"]["scale"],
      "fc.weight": own["entry"]["entry"]["kernel"].T / np.float32(
          net.tap_scale),
      "norm.weight": own["head_norm"]["scale"], "lm_head.weight": own["head"],
      "d2t": (ids - np.arange(len(ids))).astype(np.int64), "t2d": known}
  safetensors.numpy.save_file(
      {name: np.ascontiguousarray(value) for name, value in tensors.items()},
      folder / "model.safetensors", {"format": "pt"})
  (folder / "config.json").write_text(json.dumps(
      _config(model, verifier, num_drafts), indent=1) + "\n")


def _config(model, verifier, num_drafts):
  net = model.net
  layer = export.config_fields(
      dataclasses.replace(net.config, vocab_size=model.vocab_size), None)
  return {
      "architectures": ["Eagle3Speculator"],
      "speculators_model_type": "eagle3",
      "speculators_config": {
          "algorithm": "eagle3", "default_proposal_method": "greedy",
          "proposal_methods": [{"proposal_type": "greedy",
                                "speculative_tokens": num_drafts}],
          "verifier": {"name_or_path": verifier, "architectures": []}},
      "transformer_layer_config": layer,
      "draft_vocab_size": net.head_size,
      "norm_before_residual": net.fusion == "attend_normed",
      "target_hidden_size": None,
      "eagle_aux_hidden_state_layer_ids": list(net.taps),
  }
