"""Loads published draft heads, strictly, into a bundle.

Every tensor of the folder is used or known to be unused, or the load fails with
one error that names all that is wrong. Nothing is downloaded.
"""

import dataclasses
import os
import pathlib
import re
from typing import Any

from flax import traverse_util
import jax.numpy as jnp
import numpy as np

from spec_jax.models import bundle as bundle_lib
from spec_jax.models import contract
from spec_jax.models import head_layout
from spec_jax.models import hf_config
from spec_jax.models import tensor_files

_FILES = ("medusa_lm_head", "hydra_lm_head", "model", "pytorch_model")


@dataclasses.dataclass(frozen=True, eq=False)
class Heads:
  """Draft heads of a target.

  Attributes:
    system: the system that drafts with them.
    hyper: what `Parts.head(system)` returns.
    params: in float32.
    tuned: hyper-parameters of the system that were published with them, such
      as a tree.
  """

  system: str
  hyper: dict[str, Any]
  params: Any
  tuned: dict[str, Any] = dataclasses.field(default_factory=dict)


def add(bundle: bundle_lib.Bundle, path: str | os.PathLike
        ) -> bundle_lib.Bundle:
  """The bundle with the heads of a folder and what suits them; see `load`."""
  heads = load(path, bundle.target)
  grown = bundle.with_head(heads.system, heads.hyper, heads.params)
  if not heads.tuned:
    return grown
  return dataclasses.replace(
      grown, tuned={**bundle.tuned, heads.system: heads.tuned})


def load(path: str | os.PathLike, target: contract.LinenModel) -> Heads:
  """Reads Medusa, Hydra, MLP speculator or ReDrafter heads.

  Medusa's as its repository writes them (heads alone, with or without output
  heads of their own, or beside the base they were trained with, which takes the
  target's place in `medusa_2`) or as vLLM does.

  Args:
    path: folder of config.json and one file of tensors: safetensors, or a state
      dict that torch saved, which is read without torch and without running
      anything in it.
    target: gives the sizes.

  Raises:
    ValueError: no such heads, a choice that cannot be expressed, or tensors
      missing, extra or misshapen, all of them named.
  """
  folder = pathlib.Path(path)
  if not (folder / "config.json").is_file():
    raise ValueError(f"{folder}: expected a folder with config.json.")
  config = hf_config.read_json(folder / "config.json")
  known = [lay_out for fits, lay_out in head_layout.LAYOUTS if fits(config)]
  if not known:
    raise ValueError(
        f"{folder / 'config.json'} is of no draft heads known here:"
        f" model_type={config.get('model_type')!r}, keys {sorted(config)}.")
  files = tensor_files.open_folder(folder, _FILES)
  try:
    layout = known[0](config, files.shapes, target)
  except KeyError as error:
    raise ValueError(
        f"{folder / 'config.json'} lacks {error}.") from error
  except ValueError as error:
    raise ValueError(f"{folder}: {error}") from error
  problems = _mismatches(layout, files)
  if problems:
    raise ValueError(
        f"{folder} does not hold the heads that its config.json states:"
        + "".join(f"\n  {problem}" for problem in problems))
  flat = {part.path: jnp.asarray(part.build(
      [files.read(name) for name in part.sources]).astype("float32"))
          for part in layout.parts}
  return Heads(layout.system, layout.hyper, traverse_util.unflatten_dict(flat),
               layout.tuned)


def _mismatches(layout, files):
  expected = {}
  for part in layout.parts:
    expected |= part.sources
  lines = list(files.problems)
  for name, shape in expected.items():
    if name not in files.shapes:
      lines.append(f"missing {name}: expected shape {shape}")
    elif tuple(files.shapes[name]) != shape:
      lines.append(f"misshapen {name}: expected shape {shape}, found"
                   f" {files.shapes[name]}")
    elif not files.is_floating(name):
      lines.append(f"not a float {name}: found dtype {files.dtypes[name]}")
  for name in sorted(files.shapes.keys() - expected.keys()):
    if name in layout.copies:
      lines += _other_than(layout.copies[name], name, files)
    elif not re.fullmatch(layout.ignored, name):
      lines.append(f"extra {name}: found shape {files.shapes[name]}")
  return lines


def _other_than(source, name, files):
  """A tied tensor may stand in the file again, but not as another one."""
  if source in files.shapes and np.array_equal(
      files.read(source), files.read(name)):
    return []
  return [f"extra {name}: differs from {source}, but config.json says"
          " tie_weights"]
