"""Loads published EAGLE drafts for a target, strictly.

The layouts are those of `feature_config`; `feature_export` writes EAGLE-3's
two. As in `checkpoint`, every tensor is used once or the load fails with one
error. A table of embeddings is kept only if it is not the target's; rows are
read as they are, also beside a target that scales its own.
"""

import os
import pathlib
from typing import Any

from flax import traverse_util
import jax.numpy as jnp
import numpy as np

from spec_jax.models import contract
from spec_jax.models import draft_vocabulary
from spec_jax.models import feature_config
from spec_jax.models import feature_model
from spec_jax.models import feature_parts
from spec_jax.models import tensor_files
from spec_jax.models import tensor_layout

# What `feature_export` writes by, too.
AUX_LAYERS = feature_config.AUX_LAYERS
is_rising = feature_config.is_rising
_FILES = ("model", "pytorch_model")
# Two tables, each rounded to 16 bits on its own, differ by this at most:
# relatively (bfloat16), or absolutely near 0 (float16).
_ROUNDING, _SMALLEST = 2.0 ** -7, 2.0 ** -24
_ROWS_AT_ONCE = 4096


def load_eagle(path: str | os.PathLike, target: contract.LinenModel,
               target_params: Any, dtype: jnp.dtype = jnp.float32
               ) -> tuple[dict[str, Any], Any]:
  """A trained part of a folder, to be put among those of a bundle.

  Args:
    path: folder with config.json and the tensors, as safetensors or as torch
      saved them, which is read without torch.
    target: the model that the draft was trained for.
    target_params: its parameters.
    dtype: of the parameters, except norms.

  Returns:
    Hyper-parameters (`feature_model.from_hyper`) and parameters: for a bundle's
    part "eagle_2" or "eagle_3".

  Raises:
    ValueError: anything missing, extra, misshapen, or of another target.
  """
  layout = feature_config.read(pathlib.Path(path), target.config)
  files = tensor_files.open_folder(path, _FILES)
  if layout.prefix:
    files = files.without_prefix(layout.prefix)
  parts, vocab_size = list(feature_parts.parts(layout)), target.vocab_size
  ends = _lendable(layout, files, target.config)
  _refuse(path, files.problems + _mismatches(
      layout, parts + list(ends.values()), files, vocab_size))
  hyper, ids = dict(layout.hyper), _token_ids(path, layout, files, vocab_size)
  if tensor_layout.HEAD in ends:
    _refuse(path, _foreign_head(
        files.read(tensor_layout.HEAD), target.output_table(target_params),
        ids))
  has_table = feature_parts.EMBEDDING in ends
  embeds = _embeds(files if has_table else None, target, target_params)
  if embeds != feature_model.SCALED:
    hyper["embeds"] = embeds
  if embeds == feature_model.OWN:
    parts.append(ends[feature_parts.EMBEDDING])
  params = _build(parts, files, dtype)
  if ids is not None:
    params[feature_model.TOKEN_IDS] = jnp.asarray(ids)
  return hyper, params


def _refuse(path, problems):
  if problems:
    raise ValueError(f"{path} is not the draft that its config.json states:"
                     + "".join(f"\n  {problem}" for problem in problems))


def _build(parts, files, dtype):
  """The parameters; norms stay in 32 bits."""
  params = {}
  for part in parts:
    array = part.build([files.read(name) for name in part.sources])
    params[part.path] = jnp.asarray(array.astype(
        jnp.dtype(jnp.float32 if part.is_norm else dtype)))
  return traverse_util.unflatten_dict(params)


def _lendable(layout, files, target):
  """Parts that the files have or have to have, unless the target lends them."""
  ends = {}
  if (feature_parts.EMBEDDING in files.shapes
      or layout.config.d_model != target.d_model):
    ends[feature_parts.EMBEDDING] = feature_parts.table(layout)
  if layout.prefix and tensor_layout.HEAD in files.shapes:
    # vLLM takes the listed rows of a whole head, or only these.
    is_cut = files.shapes[tensor_layout.HEAD][:1] == (layout.num_listed,)
    ends[tensor_layout.HEAD] = tensor_layout.table(
        "head", tensor_layout.HEAD,
        layout.num_listed if is_cut else layout.config.vocab_size,
        layout.config)
  return ends


def _token_ids(path, layout, files, vocab_size):
  """Tokens of the rows of the head, `i32[Z]`; None where it has them all."""
  if layout.head_size:
    return draft_vocabulary.read(path, files, layout.head_size, vocab_size)
  if layout.num_listed:
    return draft_vocabulary.read_list(path, files, vocab_size)
  return None


def _foreign_head(theirs, ours, ids):
  """EAGLE-1 trains no head: a file may hold the target's, whole or its rows."""
  if len(theirs) != len(ours):
    ours = ours[ids]
  if _are_equal(theirs, ours):
    return []
  return [f"{tensor_layout.HEAD}: expected that of the target, found another"]


def _mismatches(layout, parts, files, vocab_size):
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
    lines += draft_vocabulary.problems(files, layout.head_size, vocab_size)
  if layout.num_listed:
    others.discard(draft_vocabulary.LIST)
    lines += draft_vocabulary.list_problems(files, layout.num_listed)
  return lines + [f"extra {name}: found shape {files.shapes[name]}"
                  for name in sorted(others)]


def _embeds(files, target, target_params):
  """Whose embeddings the net reads, see `feature_model.FeatureModel`.

  Args:
    files: that hold a table; None where none of them does.
    target: the model.
    target_params: its parameters.
  """
  if files is not None and not _are_equal(
      files.read(feature_parts.EMBEDDING), target.input_table(target_params)):
    return feature_model.OWN
  is_scaled = target.config.embed_scale != 1.0
  return feature_model.ROWS if is_scaled else feature_model.SCALED


def _are_equal(theirs, ours):
  """Whether two tables are one, perhaps rounded to 16 bits."""
  if theirs.shape != ours.shape:
    return False
  ours = np.asarray(ours)
  # By blocks of rows, as copies in 32 bits of all of them would be large.
  for start in range(0, len(ours), _ROWS_AT_ONCE):
    left, right = (table[start:start + _ROWS_AT_ONCE].astype(np.float32)
                   for table in (theirs, ours))
    if not np.allclose(left, right, _ROUNDING, _SMALLEST):
      return False
  return True
