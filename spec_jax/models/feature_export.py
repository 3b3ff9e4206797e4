"""Writes an EAGLE-3 net in the layouts that servers read.

The inverse of `feature_checkpoint`: config.json and model.safetensors, either
as EAGLE-3's authors publish it, which SGLang and vLLM read, or as
`speculators` (vllm-project) does. The target goes beside it with `export`.
"""

from collections.abc import Mapping
import dataclasses
import json
import os
import pathlib
from types import MappingProxyType
from typing import Any

import jax
import numpy as np

from spec_jax.models import draft_vocabulary
from spec_jax.models import export
from spec_jax.models import feature_checkpoint
from spec_jax.models import feature_model
from spec_jax.models import feature_net

_NUM_TAPS = 3


@dataclasses.dataclass(frozen=True)
class Layout:
  """What a layout has words for.

  Attributes:
    layer: prefix of the layer's tensors.
    fusions: of a net, see `fusions.FUSIONS`.
  """

  layer: str
  fusions: tuple[str, ...]


SPECULATORS, EAGLE = "speculators", "eagle"
# EAGLE's own code and SGLang do not look for `norm_before_residual`, and would
# draft badly without a word.
LAYOUTS: Mapping[str, Layout] = MappingProxyType({
    SPECULATORS: Layout("layers.0.", ("attend", "attend_normed")),
    EAGLE: Layout("midlayer.", ("attend",))})


def save(folder: str | os.PathLike, model: feature_model.FeatureModel,
         params: Any, layout: str = SPECULATORS, verifier: str = "",
         num_drafts: int = 3) -> None:
  """Writes an EAGLE-3 net, in the dtype of its parameters.

  EAGLE's own code knows no taps but `feature_model.three_depths` of 7 layers or
  more; servers take any that config.json names.

  Args:
    folder: made if it does not exist.
    model: the net; one Llama layer, with a head of its own.
    params: of the drafter, by part.
    layout: by `LAYOUTS`.
    verifier: name or path of the target, for those who read the folder;
      "speculators" alone says it, and the next.
    num_drafts: tokens that a server should draft.

  Raises:
    ValueError: naming all of a net that the layout, or who serves it, has no
      word for; nothing is written.
  """
  check(model, params, layout)
  own = jax.tree.map(np.asarray, jax.device_get(params[model.part]))
  tensors = _tensors(model, own, _ids(model, params), LAYOUTS[layout].layer)
  config = _eagle_config(model, tensors) if layout == EAGLE else (
      _speculators_config(model, verifier, num_drafts))
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  export.write_tensors(folder, tensors)
  (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")


def check(model: feature_model.FeatureModel, params: Any, layout: str) -> None:
  """Raises ValueError, naming all of a net that a layout has no word for.

  Args:
    model: the net.
    params: of the drafter, by part.
    layout: by `LAYOUTS`.
  """
  if layout not in LAYOUTS:
    raise ValueError(f"layout={layout!r}, expected one of {tuple(LAYOUTS)}.")
  problems = _net_problems(model, layout)
  if not problems:  # Others may have no such taps or rows at all.
    problems = _tap_problems(model) + _row_problems(model, params)
  if problems:
    raise ValueError(
        f"trained part {model.part!r} is no EAGLE-3 net that the layout"
        f" {layout!r} has words for:"
        + "".join(f"\n  {problem}" for problem in problems))
  export.check_llama(model.net.config)


def _net_problems(model, layout):
  """One line for each part of the net that the layout does not have."""
  net, width = model.net, model.target.config.d_model
  fusions, lines = LAYOUTS[layout].fusions, []
  if type(net) is not feature_net.FeatureNet:
    lines.append(f"a {type(net).__name__}, expected a FeatureNet")
  if net.fusion not in fusions:
    lines.append(
        f"fusion={net.fusion!r}, expected {' or '.join(map(repr, fusions))}")
  if not net.head_size:
    lines.append("head_size=0, expected an output head of its own")
  if len(net.taps) != _NUM_TAPS:
    lines.append(f"taps={net.taps}, expected {_NUM_TAPS}")
  if net.config.num_layers != 1:
    lines.append(f"num_layers={net.config.num_layers}, expected 1")
  if model.embeds != feature_model.SCALED:
    lines.append(f"embeds={model.embeds!r}, expected"
                 f" {feature_model.SCALED!r}: servers read the target's table")
  if net.config.d_model != width:
    lines.append(f"d_model={net.config.d_model}, expected {width}, the"
                 " target's, whose embedding it reads")
  return lines


def _tap_problems(model):
  """What servers cannot hand on.

  They ask before each layer whether that one is among the taps. So features
  come in the order of the layers, and not all their versions get to what leaves
  the last one, or have a residual before the first.
  """
  taps, num_layers = model.taps, model.target.config.num_layers
  if feature_checkpoint.is_rising(taps, 1, num_layers - 1):
    return []
  start = f"taps={taps} of a target of {num_layers} layers, "
  if num_layers <= _NUM_TAPS:
    return [start + f"expected a target of at least {_NUM_TAPS + 1} layers:"
            " servers take what enters a layer other than the first"]
  return [start + "expected three rising whole numbers from 1 to"
          f" {num_layers - 1}: servers take what enters a layer, and what"
          f" leaves the last one (tap {num_layers}) enters none. A net has to"
          " be trained on other taps to be served"]


def _row_problems(model, params):
  """Tokens of the head's rows that the layouts cannot list."""
  ids, size = _ids(model, params), model.net.head_size
  if ids.shape == (size,) and draft_vocabulary.is_map(ids, model.vocab_size):
    return []
  return [f"{feature_model.TOKEN_IDS} {ids[:4].tolist()} ..., {len(ids)} of"
          f" them, expected {size} rising ids below {model.vocab_size}, one for"
          " each row of the head"]


def _ids(model, params):
  """The tokens of the head's rows, `i32[Z]`."""
  ids = model.token_ids(params)
  return np.arange(model.vocab_size) if ids is None else np.asarray(ids)


def _tensors(model, own, ids, layer):
  """By published names; matrices are `[out, in]` there."""
  block = export.layer_tensors(model.net.config, {
      **own["layers_0"], "attn_norm": own["fuse"]["embed_norm"]})
  entry = own["entry"]["entry"]["kernel"]
  return {layer + name: value for name, value in block.items()} | {
      layer + "hidden_norm.weight": own["fuse"]["feature_norm"]["scale"],
      "fc.weight": (entry / np.float32(model.net.tap_scale)).T.astype(
          entry.dtype),
      "norm.weight": own["head_norm"]["scale"], "lm_head.weight": own["head"],
      **draft_vocabulary.tensors(ids, model.vocab_size)}


def _layer_fields(model):
  """What config.json says of the net's layer.

  SGLang would put the target's embedding in place of a head that is tied.
  """
  return export.config_fields(dataclasses.replace(
      model.net.config, vocab_size=model.vocab_size, tie_embeddings=False),
                              None)


def _eagle_config(model, tensors):
  taps = list(model.taps)
  return _layer_fields(model) | {
      "architectures": ["LlamaForCausalLMEagle3"],
      "draft_vocab_size": model.net.head_size,
      "dtype": str(tensors["lm_head.weight"].dtype),
      # vLLM looks for the layers that it enters, SGLang for those it leaves.
      feature_checkpoint.AUX_LAYERS: taps,
      "eagle_config": {
          "use_aux_hidden_state": True,
          feature_checkpoint.AUX_LAYERS: [tap - 1 for tap in taps]},
  }


def _speculators_config(model, verifier, num_drafts):
  net = model.net
  return {
      "architectures": ["Eagle3Speculator"],
      "speculators_model_type": "eagle3",
      "speculators_config": {
          "algorithm": "eagle3", "default_proposal_method": "greedy",
          "proposal_methods": [{"proposal_type": "greedy",
                                "speculative_tokens": num_drafts}],
          "verifier": {"name_or_path": verifier, "architectures": []}},
      "transformer_layer_config": _layer_fields(model),
      "draft_vocab_size": net.head_size,
      "norm_before_residual": net.fusion == "attend_normed",
      "target_hidden_size": None,
      feature_checkpoint.AUX_LAYERS: list(net.taps),
  }
