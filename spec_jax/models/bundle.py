"""A bundle: a target, its draft models, their tokenizer and test prompts.

On disk: `bundle.json` (configs), one 16-bit safetensors file per model,
`tokenizer.json` and `prompts.jsonl`; further trained parts of systems, one
`heads/NAME.safetensors` each, see `models.part_file`.
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

from spec_jax.models import checkpoint
from spec_jax.models import config as config_lib
from spec_jax.models import contract
from spec_jax.models import part_file
from spec_jax.models import products
from spec_jax.models import tokenizer as tokenizer_lib

SHIPPED = pathlib.Path(__file__).parent.parent / "data"
TOKENIZER = "tokenizer.json"  # A file of every bundle.
_CONFIG, _PROMPTS = "bundle.json", "prompts.jsonl"
_TARGET_FILE = "target.safetensors"


@dataclasses.dataclass(frozen=True, eq=False)
class Bundle:
  """Models that belong together, and their parameters.

  Attributes:
    name: for reports.
    target: the target model.
    models: the draft models by name.
    params: parameters by name; the target's under "target".
    tokenizer: of all of them, or None.
    prompts: held-out texts, none of which was trained on.
    tuned: hyper-parameters by system that suit these models better than the
      papers' defaults, which were chosen for larger ones.
    heads: hyper-parameters by trained part; its parameters are in `params`.
  """

  name: str
  target: contract.LinenModel
  models: dict[str, contract.LinenModel]
  params: dict[str, Any]
  tokenizer: tokenizer_lib.TextTokenizer | None
  prompts: tuple[str, ...] = ()
  tuned: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
  heads: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)

  @property
  def end_of_text(self) -> int | None:
    return None if self.tokenizer is None else self.tokenizer.end_of_text

  @property
  def backend(self) -> str:
    """Of the target, see `with_backend`; "auto" if it lets none be chosen."""
    return getattr(self.target.module, "backend", "auto")

  def with_backend(self, backend: str) -> "Bundle":
    """The same, all models' attention on "auto", "pallas" or "xla"."""
    return dataclasses.replace(
        self, target=self.target.with_backend(backend),
        models={name: model.with_backend(backend)
                for name, model in self.models.items()})

  def with_target_weights(self, dtype: jnp.dtype) -> "Bundle":
    """The same, the target's matrices in `dtype`, see `products.narrowed`.

    Raises:
      ValueError: the range of `dtype` is too small.
    """
    return dataclasses.replace(self, params={
        **self.params,
        "target": products.narrowed(self.params["target"], dtype)})

  def with_head(self, name: str, hyper: dict[str, Any], params: Any
                ) -> "Bundle":
    """The same with one more trained part, or another in its place."""
    return dataclasses.replace(
        self, heads={**self.heads, name: hyper},
        params={**self.params, name: params})


def shipped_names() -> tuple[str, ...]:
  """Bundles inside the package."""
  return tuple(sorted(path.parent.name
                      for path in SHIPPED.glob(f"*/{_CONFIG}")))


def load_bundle(name_or_path: str | os.PathLike,
                dtype: jnp.dtype = jnp.float32) -> Bundle:
  """Loads a shipped bundle by name, or one from a folder.

  Args:
    name_or_path: such as "tiny-python".
    dtype: of parameters and computation.

  Raises:
    ValueError: no such bundle, or a file is missing, broken or does not match
      the configuration.
  """
  folder = folder_of(name_or_path)
  description = _read_description(folder / _CONFIG)
  models, params = {}, {}
  for model_name, fields in description["models"].items():
    model = contract.decoder_model(_config(fields, folder, model_name), dtype)
    models[model_name] = model
    params[model_name] = _read_params(
        folder / f"{model_name}.safetensors", model, dtype)
  heads = {}
  files = sorted((folder / part_file.FOLDER).glob("*.safetensors"))
  made_for = fingerprint(folder) if files else ""
  for path in files:
    heads[path.stem], params[path.stem] = part_file.read(path, made_for)
  return Bundle(
      name=description["name"], target=models.pop("target"), models=models,
      params=params, heads=heads,
      tokenizer=tokenizer_lib.TextTokenizer.from_file(folder),
      prompts=tuple(row["prompt"] for row in _read_prompts(folder)),
      tuned={system: {key: _hashable(value) for key, value in hyper.items()}
             for system, hyper in description.get("tuned", {}).items()})


def folder_of(name_or_path: str | os.PathLike) -> pathlib.Path:
  """Where a bundle lies; raises ValueError if there is none."""
  for folder in (SHIPPED / name_or_path, pathlib.Path(name_or_path)):
    if (folder / _CONFIG).is_file():
      return folder
  raise ValueError(
      f"{name_or_path!r} is neither a shipped bundle"
      f" ({', '.join(shipped_names()) or 'none'}) nor a folder with"
      f" {_CONFIG}.")


def fingerprint(folder: str | os.PathLike) -> str:
  """Of the target of the bundle in `folder`; parts are made for one."""
  return part_file.fingerprint(pathlib.Path(folder) / _TARGET_FILE)


def from_hf(target: str | os.PathLike, draft: str | os.PathLike | None = None,
            dtype: jnp.dtype = jnp.float32) -> Bundle:
  """A bundle of Hugging Face folders.

  Raises:
    ValueError: also if the two vocabularies differ (the first differing id).
  """
  model, target_params, tokenizer = checkpoint.load_hf(target, dtype)
  models, params = {}, {"target": target_params}
  if draft is not None:
    models["draft"], params["draft"], theirs = checkpoint.load_hf(draft, dtype)
    if tokenizer is not None and theirs is not None:
      tokenizer_lib.check_same_vocabulary(tokenizer, theirs)
  return Bundle(pathlib.Path(target).name, model, models, params, tokenizer)


def save(folder: str | os.PathLike, name: str,
         configs: dict[str, config_lib.DecoderConfig], params: dict[str, Any],
         tokenizer_file: str | os.PathLike,
         prompts: list[dict[str, str]] = (),
         tuned: dict[str, dict[str, Any]] | None = None) -> None:
  """Writes a bundle; weights as float16, finer than bfloat16 at their size.

  Args:
    folder: made if it does not exist.
    name: of the bundle.
    configs: by model name; "target" must be among them.
    params: by model name.
    tokenizer_file: copied.
    prompts: rows with "prompt" and "source".
    tuned: see `Bundle`.
  """
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  for model_name, tree in params.items():
    _write_params(folder / f"{model_name}.safetensors", tree)
  text = pathlib.Path(tokenizer_file).read_text(encoding="utf-8")
  (folder / TOKENIZER).write_text(text, encoding="utf-8")
  (folder / _PROMPTS).write_text(
      "".join(json.dumps(row) + "\n" for row in prompts), encoding="utf-8")
  description = {"name": name, "models": {
      key: dataclasses.asdict(config) for key, config in configs.items()},
                 "tuned": tuned or {}}
  (folder / _CONFIG).write_text(json.dumps(description, indent=1))


def _write_params(path, tree):
  safetensors.numpy.save_file(part_file.flat_16_bits(tree), path)
  path.chmod(0o644)  # safetensors makes files that only their owner reads.


def _read_description(path):
  try:
    description = json.loads(path.read_text())
    if "target" in description["models"] and "name" in description:
      return description
  except (json.JSONDecodeError, KeyError, TypeError):
    pass
  raise ValueError(f"{path}: expected JSON with 'name' and 'models', a"
                   " 'target' among them.")


def _hashable(value):
  return tuple(map(_hashable, value)) if isinstance(value, list) else value


def _config(fields, folder, model_name):
  fields = dict(fields, windows=tuple(fields.get("windows", ())))
  if fields.get("rope_scaling"):
    fields["rope_scaling"] = config_lib.RopeScaling(**fields["rope_scaling"])
  try:
    return config_lib.DecoderConfig(**fields)
  except TypeError as error:
    raise ValueError(
        f"{folder / _CONFIG}, model {model_name!r}: {error}") from error


def _read_params(path, model, dtype):
  try:
    flat = safetensors.numpy.load_file(path)
  except (OSError, safetensors.SafetensorError, AttributeError) as error:
    # AttributeError: a type of numbers that NumPy does not have.
    raise ValueError(f"{path}: missing, broken or truncated: {error}"
                     ) from error
  expected = traverse_util.flatten_dict(
      jax.eval_shape(model.init, jax.random.key(0)), sep="/")
  problems = [f"missing {key} {leaf.shape}" for key, leaf in expected.items()
              if key not in flat]
  problems += [f"extra {key} {value.shape}" for key, value in flat.items()
               if key not in expected]
  problems += [f"misshapen {key}: expected {expected[key].shape}, found"
               f" {flat[key].shape}" for key in flat
               if key in expected and flat[key].shape != expected[key].shape]
  problems += [problem for key, value in flat.items()
               if (problem := _bad_numbers(key, value))]
  if problems:
    raise ValueError(f"{path} is broken or does not match {_CONFIG}:\n  "
                     + "\n  ".join(problems))
  return traverse_util.unflatten_dict(
      {key: jnp.asarray(value, dtype) for key, value in flat.items()}, sep="/")


def _bad_numbers(key, value):
  """What damage shows in the numbers themselves, or ""."""
  if not jnp.issubdtype(value.dtype, jnp.floating):
    return f"not a float {key}: found {value.dtype}"
  return "" if np.isfinite(value).all() else f"not finite {key}"


def _read_prompts(folder):
  path = folder / _PROMPTS
  if not path.is_file():
    return []
  return [json.loads(line) for line in
          path.read_text(encoding="utf-8").splitlines() if line.strip()]
