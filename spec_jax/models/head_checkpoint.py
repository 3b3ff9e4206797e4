"""Loads published draft heads, strictly, into a bundle.

Every tensor of the folder is used or known to be unused, or the load fails with
one error that names all that is wrong. Nothing is downloaded.
"""

from collections.abc import Callable
from collections.abc import Mapping
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
from spec_jax.models import medusa_layout
from spec_jax.models import recurrent_layout
from spec_jax.models import tensor_files
from spec_jax.models import token_heads

_FILES = ("medusa_lm_head", "hydra_lm_head", "model", "pytorch_model")
# What config.json holds of each kind, a value of None being any -> how its
# tensors are laid out. Of two that fit, the first counts.
_LAYOUTS: tuple[tuple[str, str, str | None, Callable[
    ..., head_layout.Layout]], ...] = (
        ("Medusa", "model_type", "medusa", medusa_layout.vllm),
        ("MLP speculator", "model_type", "mlp_speculator",
         recurrent_layout.speculator),
        ("ReDrafter", "model_type", "recurrent_drafting_drafter",
         recurrent_layout.redrafter),
        ("Hydra", "hydra_head_arch", None, recurrent_layout.hydra),
        ("Medusa", "medusa_num_heads", None, medusa_layout.repository))
# For messages: every kind, and what tells it.
KINDS = tuple(f"{kind} ({key}={value!r})" if value else f"{kind} (key {key})"
              for kind, key, value, _ in _LAYOUTS)


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
  target's place in `medusa_2`) or as vLLM reads them, where they may know some
  of the tokens only; ReDrafter's also under the names of other engines.

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
  known = _fitting(config)
  if not known:
    raise ValueError(
        f"{folder / 'config.json'} is of no draft heads known here:"
        f" model_type={config.get('model_type')!r}, keys {sorted(config)}."
        f" Expected one of {'; '.join(KINDS)}.")
  files = tensor_files.open_folder(folder, _FILES)
  try:
    layout = known[0](config, files.shapes, target)
  except KeyError as error:
    raise ValueError(
        f"{folder / 'config.json'} lacks {error}.") from error
  except ValueError as error:
    raise ValueError(f"{folder}: {error}") from error
  problems = _mismatches(layout, files, target.vocab_size)
  if problems:
    raise ValueError(
        f"{folder} does not hold the heads that its config.json states:"
        + "".join(f"\n  {problem}" for problem in problems))
  flat = {part.path: jnp.asarray(part.build(
      [files.read(name) for name in part.sources]).astype(_dtype(part.path)))
          for part in layout.parts}
  return Heads(layout.system, layout.hyper, traverse_util.unflatten_dict(flat),
               layout.tuned)


def are_heads(config: Mapping[str, Any]) -> bool:
  """Whether config.json is of draft heads that `load` knows."""
  return bool(_fitting(config))


def _fitting(config):
  return [lay_out for _, key, value, lay_out in _LAYOUTS if key in config
          and (value is None or config[key] == value)]


def _dtype(path):
  return "int32" if path[-1] == token_heads.TOKEN_IDS else "float32"


def _mismatches(layout, files, vocab_size):
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
    elif name == layout.token_map:
      lines += _faults_of_map(name, files, vocab_size)
    elif not files.is_floating(name):
      lines.append(f"not a float {name}: found dtype {files.dtypes[name]}")
  for name in sorted(files.shapes.keys() - expected.keys()):
    if name in layout.copies:
      lines += _other_than(layout.copies[name], name, files)
    elif not re.fullmatch(layout.ignored, name):
      lines.append(f"extra {name}: found shape {files.shapes[name]}")
  return lines


def _faults_of_map(name, files, vocab_size):
  """A map lists tokens of the target, none of them twice."""
  if files.dtypes[name][0] not in "IU":
    return [f"no integers {name}: found dtype {files.dtypes[name]}"]
  ids, counts = np.unique(files.read(name), return_counts=True)
  outside = ids[(ids < 0) | (ids >= vocab_size)]
  faults = (("outside", outside, f"tokens from 0 to {vocab_size - 1}"),
            ("twice", ids[counts > 1], "each token once"))
  return [f"{fault} {name}: holds {found[:4].tolist()}, expected {wanted}"
          for fault, found, wanted in faults if found.size]


def _other_than(source, name, files):
  """A tied tensor may stand in the file again, but not as another one."""
  if source in files.shapes and np.array_equal(
      files.read(source), files.read(name)):
    return []
  return [f"extra {name}: differs from {source}, but config.json says"
          " tie_weights"]
