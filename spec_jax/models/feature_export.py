"""Writes an EAGLE-3 net in the layout of `speculators` (vllm-project).

The inverse of `feature_checkpoint`: config.json and model.safetensors.
"""

import dataclasses
import json
import os
import pathlib
from typing import Any

import jax
import numpy as np
import safetensors.numpy

from spec_jax.models import draft_vocabulary
from spec_jax.models import export
from spec_jax.models import feature_checkpoint
from spec_jax.models import feature_model


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
    ValueError: for a net that the layout, or who serves it, has no word for.
  """
  net, own = model.net, params[model.part]
  is_eagle_3 = net.fusion in ("attend", "attend_normed") and net.head_size
  if not is_eagle_3 or len(net.taps) != 3:
    raise ValueError(
        f"fusion={net.fusion!r}, head_size={net.head_size}, taps={net.taps}:"
        " expected an EAGLE-3 net, which attends to three taps and has a head.")
  _check_taps(net.taps, model.target.config.num_layers)
  export.check_llama(net.config)
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  own = jax.tree.map(np.asarray, jax.device_get(own))
  ids = own.get(feature_model.TOKEN_IDS, np.arange(net.head_size))
  block = export.layer_tensors(net.config, {
      **own["layers_0"], "attn_norm": own["fuse"]["embed_norm"]})
  tensors = {f"layers.0.{name}": value for name, value in block.items()} | {
      "layers.0.hidden_norm.weight": own["fuse"]["feature_norm"]["scale"],
      "fc.weight": own["entry"]["entry"]["kernel"].T / np.float32(
          net.tap_scale),
      "norm.weight": own["head_norm"]["scale"], "lm_head.weight": own["head"],
      **draft_vocabulary.tensors(ids, model.vocab_size)}
  safetensors.numpy.save_file(
      {name: np.ascontiguousarray(value) for name, value in tensors.items()},
      folder / "model.safetensors", {"format": "pt"})
  (folder / "config.json").write_text(json.dumps(
      _config(model, verifier, num_drafts), indent=1) + "\n")


def _check_taps(taps, num_layers):
  """Refuses what vLLM cannot hand on.

  It asks before each layer whether that one is among the taps. So features come
  in the order of the layers, and not all its versions get to what leaves the
  last one, or have a residual before the first.
  """
  if not feature_checkpoint.is_rising(taps, 1, num_layers - 1):
    raise ValueError(
        f"taps={taps} of a target of {num_layers} layers, expected three rising"
        f" whole numbers from 1 to {num_layers - 1}: servers take what enters a"
        f" layer, and what leaves the last one (tap {num_layers}) enters none."
        " A net has to be trained on other taps to be served.")


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
      feature_checkpoint.AUX_LAYERS: list(net.taps),
  }
