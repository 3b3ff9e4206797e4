"""Adds a published draft to a bundle, whichever kind it is.

Of heads config.json says so, of feature nets config.json or a tensor. The
loaders are `head_checkpoint` and `feature_checkpoint`.
"""

import os
import pathlib

from spec_jax.models import bundle as bundle_lib
from spec_jax.models import feature_checkpoint
from spec_jax.models import feature_config
from spec_jax.models import head_checkpoint
from spec_jax.models import hf_config
from spec_jax.models import tensor_files

_EAGLE_FILES = ("model", "pytorch_model")
_EAGLE_KEYS = ("draft_vocab_size", "speculators_model_type")
_EAGLE_TENSOR = "fc.weight"
_KINDS = (
    *head_checkpoint.KINDS,
    f"EAGLE-1 and 2 (tensor {_EAGLE_TENSOR}, or model_type"
    f" {feature_config.WRAPPER!r})",
    f"EAGLE-3 (key {' or '.join(_EAGLE_KEYS)})")


def add_draft(bundle: bundle_lib.Bundle, path: str | os.PathLike
              ) -> bundle_lib.Bundle:
  """The bundle with a published draft of its target as one more part.

  The part is called like the system that drafts with it, such as "medusa_1",
  "hydra" or "eagle_3"; files of EAGLE-1 and 2 are one and called "eagle_2",
  with which `eagle_1` drafts too. A tree that was published with it is in
  `Bundle.tuned`. Whole draft models are given to `from_hf`.

  Args:
    bundle: its target is the one that the draft was trained for.
    path: folder of config.json and tensors, as safetensors or as torch saved
      them. Nothing is downloaded.

  Raises:
    ValueError: no folder, none of the known kinds, or what its loader finds:
      tensors missing, extra or misshapen, sizes of another target.
  """
  folder = pathlib.Path(path)
  if not (folder / "config.json").is_file():
    raise ValueError(f"{folder}: expected a folder with config.json.")
  config = hf_config.read_json(folder / "config.json")
  if head_checkpoint.are_heads(config):
    return head_checkpoint.add(bundle, folder)
  _check_is_eagle(config, folder)
  hyper, params = feature_checkpoint.load_eagle(
      folder, bundle.target, bundle.params["target"], bundle.target.dtype)
  # Only EAGLE-3 has an output head of its own.
  return bundle.with_head(
      "eagle_3" if hyper.get("head_size") else "eagle_2", hyper, params)


def _check_is_eagle(config, folder):
  """Raises ValueError if nothing says that this is a feature net."""
  is_wrapped = config.get("model_type") == feature_config.WRAPPER
  if is_wrapped or any(key in config for key in _EAGLE_KEYS):
    return
  try:
    names = tensor_files.open_folder(folder, _EAGLE_FILES).shapes
    found = f"{len(names)} tensors, none called {_EAGLE_TENSOR}"
  except ValueError as error:
    names, found = (), f"no tensors of a feature net ({error})"
  if _EAGLE_TENSOR not in names:
    raise ValueError(
        f"{folder} holds no draft of a kind known here: config.json has"
        f" model_type={config.get('model_type')!r}, keys {sorted(config)};"
        f" there are {found}. Expected one of {'; '.join(_KINDS)}. A whole"
        " model that drafts is given to from_hf(target, draft), in programs"
        " --hf_draft=FOLDER.")
