"""What config.json says of a published EAGLE draft, as a `Layout`.

Layouts are told apart by what the file says: EAGLE-1 and 2 (one set of files),
the same as converted for vLLM (`model_type` "eagle" around the layers' own
config.json), EAGLE-3 as its authors publish it, and EAGLE-3 in the layout of
`speculators` (vllm-project). Whatever the net has no word for is an error that
says so. Departure from vLLM: no pair of zeros stands before the first one.
"""

from collections.abc import Mapping
import dataclasses
import pathlib
from typing import Any

from spec_jax.models import config as config_lib
from spec_jax.models import feature_model
from spec_jax.models import feature_parts
from spec_jax.models import hf_config
from spec_jax.models import normed_net

AUX_LAYERS = "eagle_aux_hidden_state_layer_ids"
_SPECULATORS = "speculators_model_type"
_LAYERS = "transformer_layer_config"
_NESTED = "eagle_config"
WRAPPER = "eagle"
# By their names in `architectures`, layers that a net can have.
_KNOWN = ("gemma", "llama", "mistral", "qwen2", "qwen3")
# What the layers of a net may have otherwise than those of its target.
_LAYER_FIELDS = (
    "num_layers", "num_heads", "num_kv_heads", "head_dim", "d_ff",
    "max_positions", "norm", "norm_eps", "mlp", "rope_theta", "rope_scaling",
    "qkv_bias", "out_bias", "mlp_bias", "qk_norm", "attn_softcap",
    "query_scale")
# Norms of EAGLE-3's taps, by the flag that asks for them.
_TAP_NORMS = {"norm_before_fc": normed_net.JOINT, "fc_norm": normed_net.EACH}
# What vLLM may add to EAGLE-1, and what a draft without it says.
_ADDED_NORMS = {
    "skip_prenorm": True, "skip_output_norm": True, "add_para_norm": False}


@dataclasses.dataclass(frozen=True)
class _Folder:
  """A config.json whose layout is known.

  Attributes:
    source: the file, for errors.
    raw: all that it says.
    inner: what it says of the layers.
    place: where it says that, as a prefix of keys.
    is_wrapped: whether that is vLLM's layout of EAGLE-1.
  """

  source: pathlib.Path
  raw: Mapping[str, Any]
  inner: Mapping[str, Any]
  place: str = ""
  is_wrapped: bool = False

  @property
  def is_speculators(self) -> bool:
    return _SPECULATORS in self.raw

  @property
  def is_eagle_3(self) -> bool:
    return self.is_speculators or (
        "draft_vocab_size" in self.raw and not self.is_wrapped)

  @property
  def nested(self) -> Mapping[str, Any]:
    return self.raw.get(_NESTED) or {}

  def flag(self, name: str) -> bool:
    """A choice at the top level, or with those of "eagle_config"."""
    return bool(self.raw.get(name) or self.nested.get(name))

  @property
  def num_listed(self) -> int:
    """Tokens that vLLM's layout lists; 0 where they are all."""
    size, every = self.raw.get("truncated_vocab_size"), self.raw["vocab_size"]
    if not self.is_wrapped or size in (None, every):
      return 0
    if type(size) is not int or not 0 < size < every:
      raise self.error(
          f"truncated_vocab_size={size!r}, expected 1 to {every} or none")
    return size

  def error(self, text: str) -> ValueError:
    return ValueError(f"{self.source}: {text}.")


def read(folder: pathlib.Path, target: config_lib.DecoderConfig
         ) -> feature_parts.Layout:
  """The layout of a folder.

  Args:
    folder: that holds config.json.
    target: of the model that the draft was trained for.

  Raises:
    ValueError: for another target, or a choice that the net cannot express;
      names the file, what was found and what was expected.
  """
  found = _open(folder / "config.json")
  config = _layer_config(found)
  _check(found, config, target)
  layers = {name: getattr(config, name) for name in _LAYER_FIELDS}
  if config.rope_scaling:
    layers["rope_scaling"] = dataclasses.asdict(config.rope_scaling)
  if config.d_model != target.d_model:
    layers["d_model"] = config.d_model
  if not found.is_eagle_3:
    return _eagle_1(found, config, layers)
  size = found.raw.get("draft_vocab_size") or config.vocab_size
  fusion = "attend_normed" if found.flag("norm_before_residual") else "attend"
  hyper = {"layers": layers, "taps": _taps(found, target.num_layers),
           "fusion": fusion, "head_size": size, **_norms(found)}
  return feature_parts.Layout(
      config, hyper, "layers.{}." if found.is_speculators else "midlayer.",
      target.d_model, size)


def _eagle_1(found, config, layers):
  bias = (found.raw.get("eagle_fc_bias", False) if found.is_wrapped else
          found.raw.get("bias", True))
  hyper = {"layers": layers, "use_bias": bool(bias)}
  size = found.num_listed
  if size:
    hyper["is_trimmed"] = True
  return feature_parts.Layout(
      config, hyper, "layers.{}.", config.d_model,
      prefix="model." * found.is_wrapped, num_listed=size)


def is_rising(layers: Any, first: int, last: int) -> bool:
  """Whether these are three rising whole numbers from `first` to `last`."""
  return (isinstance(layers, (list, tuple)) and len(layers) == 3
          and all(type(layer) is int for layer in layers)
          and first <= layers[0] < layers[1] < layers[2] <= last)


def _open(source):
  raw = hf_config.read_json(source)
  kind = raw.get(_SPECULATORS, "eagle3")
  if kind != "eagle3":
    raise ValueError(f"{source}: {_SPECULATORS}={kind!r}, expected 'eagle3'.")
  is_wrapped = raw.get("model_type") == WRAPPER
  for key in (_NESTED, _LAYERS) + ("model",) * is_wrapped:
    if not isinstance(raw.get(key) or {}, dict):
      raise ValueError(f"{source}: {key}={raw[key]!r}, expected an object.")
  if _SPECULATORS in raw:
    return _Folder(source, raw, raw.get(_LAYERS) or {}, f"{_LAYERS}.")
  if is_wrapped:
    # What stands at the top level goes before what the layers' own file said.
    inner = raw.get("model") or {}
    raw = inner | {key: value for key, value in raw.items() if key not in (
        "model", "model_type", "architectures")}
    return _Folder(source, raw, raw, "model.", True)
  return _Folder(source, raw, raw)


def _layer_config(found):
  """Of the layers; `qkv_bias` (EAGLE, vLLM) goes before their kind's biases."""
  inner = {"model_type": "llama"} | found.inner
  if inner["model_type"] not in _KNOWN:
    raise found.error(
        f"{found.place}model_type={inner['model_type']!r}, expected the layers"
        f" of one of {_KNOWN}"
        + f", or {WRAPPER!r} around those" * (not found.place))
  bias = inner.get("qkv_bias")
  if not isinstance(bias, (bool, type(None))):
    raise found.error(f"{found.place}qkv_bias={bias!r}, expected true or false")
  try:
    config = hf_config.decoder_config(inner)
  except ValueError as error:
    raise ValueError(f"{found.source}: {error}") from error
  return config if bias is None else dataclasses.replace(
      config, qkv_bias=bias)


def _check(found, config, target):
  """Raises on all that cannot be, at once."""
  wide = found.raw.get("target_hidden_size")
  # A draft of another width needs a head of its own.
  is_free = found.is_eagle_3 and wide == target.d_model
  same = ("vocab_size",) if is_free else ("vocab_size", "d_model")
  wrong = [f"{name}={getattr(config, name)} (the target has"
           f" {getattr(target, name)})" for name in same
           if getattr(config, name) != getattr(target, name)]
  if wide not in (None, target.d_model):
    wrong.append(
        f"target_hidden_size={wide} (the target has {target.d_model})")
  norms = [name for name in (*_TAP_NORMS, "norm_output") if found.flag(name)]
  if not found.is_eagle_3:
    wrong += [f"{name}=True (expected none without draft_vocab_size)"
              for name in norms]
  elif norms[:2] == list(_TAP_NORMS):
    wrong.append(f"{' and '.join(_TAP_NORMS)} (expected one of them)")
  if found.flag("input_norm"):
    wrong.append(f"input_norm={found.raw['input_norm']!r} (expected none)")
  if found.is_eagle_3 and not found.is_speculators and config.num_layers != 1:
    wrong.append(f"num_hidden_layers={config.num_layers} (expected 1: there is"
                 " one midlayer)")
  if found.is_wrapped:
    wrong += [f"{name}={found.raw[name]!r} (expected {value} or none)"
              for name, value in _ADDED_NORMS.items()
              if found.raw.get(name, value) is not value]
    if "draft_vocab_size" in found.raw:
      wrong.append(f"draft_vocab_size={found.raw['draft_vocab_size']!r}"
                   f" (expected none in model_type={WRAPPER!r})")
  if "sliding_attention" in (found.inner.get("layer_types") or ()):
    wrong.append(f"{found.place}layer_types={found.inner['layer_types']}"
                 " (expected full attention)")
  if wrong:
    raise found.error(", ".join(wrong))


def _norms(found):
  """Hyper-parameters of a `normed_net.NormedNet`, if it has to be one."""
  kinds = [kind for name, kind in _TAP_NORMS.items() if found.flag(name)]
  is_normed = found.flag("norm_output")
  if not kinds and not is_normed:
    return {}
  return {"tap_norm": kinds[0] if kinds else None,
          "has_normed_output": is_normed}


def _taps(found, num_layers):
  """The layers of the target that config.json names, or EAGLE-3's own choice.

  A tap is what enters a layer. Speculators and vLLM count so, at the top level;
  SpecForge and SGLang list, below "eagle_config", the layers it leaves.
  """
  for key, layers, shift in (
      (AUX_LAYERS, found.raw.get(AUX_LAYERS), 0),
      (f"{_NESTED}.{AUX_LAYERS}", found.nested.get(AUX_LAYERS), 1)):
    if not layers:
      continue
    if not is_rising(layers, -shift, num_layers - shift):
      raise found.error(
          f"{key}={layers!r}, expected three rising whole numbers from"
          f" {-shift} to {num_layers - shift}")
    return [layer + shift for layer in layers]
  return list(feature_model.three_depths(num_layers))
