"""Loads Hugging Face checkpoints into the decoder, strictly.

Every tensor of the folder is used exactly once or the load fails, with one
error that names all that is wrong: a model loaded half is worse than none.
Nothing is downloaded.
"""

import os
import pathlib
import re
from typing import Any

from flax import traverse_util
import jax.numpy as jnp
import numpy as np

from spec_jax.models import architectures
from spec_jax.models import config as config_lib
from spec_jax.models import contract
from spec_jax.models import hf_config
from spec_jax.models import tensor_files
from spec_jax.models import tensor_layout
from spec_jax.models import tokenizer as tokenizer_lib

read_config = hf_config.read_config


def load_hf(path: str | os.PathLike, dtype: jnp.dtype = jnp.float32,
            real_vocab_size: int | None = None, others: str = ""
            ) -> tuple[contract.LinenModel, Any,
                       tokenizer_lib.TextTokenizer | None]:
  """A model, its parameters and its tokenizer from a folder.

  Args:
    path: folder with config.json, safetensors and perhaps tokenizer.json.
    dtype: of parameters and computation.
    real_vocab_size: number of tokens; by default the tokenizer's, where it
      has fewer than the embedding has rows. The logits of the other rows are
      -inf.
    others: pattern of tensors that belong to something else, such as
      `medusa_head.*` (see `head_checkpoint`).

  Returns:
    The model, its parameters, and the tokenizer (None without tokenizer.json).

  Raises:
    ValueError: anything missing, broken or unsupported.
  """
  config = read_config(path)
  source = pathlib.Path(path) / "tokenizer.json"
  tokenizer = (
      tokenizer_lib.TextTokenizer.from_file(source) if source.exists()
      else None)
  if real_vocab_size is None and tokenizer is not None:
    if tokenizer.vocab_size > config.vocab_size:
      raise ValueError(
          f"{source} has {tokenizer.vocab_size} tokens, but the embedding of"
          f" the checkpoint only vocab_size={config.vocab_size} rows.")
    if tokenizer.vocab_size < config.vocab_size:
      real_vocab_size = tokenizer.vocab_size
  if real_vocab_size is not None:
    config = read_config(path, real_vocab_size)
  params = load_params(path, config, dtype, others)
  return contract.decoder_model(config, dtype), params, tokenizer


def load_params(path: str | os.PathLike, config: config_lib.DecoderConfig,
                dtype: jnp.dtype = jnp.float32, others: str = "") -> Any:
  """The parameters of a folder, in the structure of `LinenModel.init`.

  Args:
    path: folder with config.json and safetensors, one file or shards.
    config: from `read_config`.
    dtype: of the parameters, except norms: those stay float32, in which they
      are computed.
    others: see `load_hf`.

  Raises:
    ValueError: names every missing, extra and misshapen tensor, or the file
      that cannot be read.
  """
  if not jnp.issubdtype(dtype, jnp.floating):
    raise ValueError(f"dtype={dtype}, expected a floating dtype.")
  model_type = hf_config.read_raw_config(path)["model_type"]
  arch = architectures.ARCHITECTURES[model_type]
  files = tensor_files.TensorFiles(path)
  prefix = _prefix(arch, files)
  parts = list(tensor_layout.parts(arch, config, prefix))
  problems = files.problems + _mismatches(
      arch, config, prefix, parts, files, others)
  if problems:
    raise ValueError(
        f"{path} does not hold the {model_type} that its config.json states:"
        + "".join(f"\n  {problem}" for problem in problems))
  params = {}
  for part in parts:
    array = part.build([files.read(name) for name in part.sources])
    target = jnp.dtype(jnp.float32 if part.is_norm else dtype)
    params[part.path] = jnp.asarray(array.astype(target))
  return traverse_util.unflatten_dict(params)


def _prefix(arch, files):
  """Files of the bare model, without a head, leave the prefix out."""
  for prefix in arch.prefixes:
    if prefix + arch.names["embedding"] in files.shapes:
      return prefix
  return arch.prefixes[0]


def _mismatches(arch, config, prefix, parts, files, others):
  """One line for each tensor that is not as expected."""
  expected = {}
  for part in parts:
    expected |= part.sources
  lines = []
  for name, shape in expected.items():
    if name not in files.shapes:
      lines.append(f"missing {name}: expected shape {shape}")
    elif files.shapes[name] != shape:
      lines.append(f"misshapen {name}: expected shape {shape}, found"
                   f" {files.shapes[name]}")
    elif not files.is_floating(name):
      lines.append(f"not a float {name}: found dtype {files.dtypes[name]}")
  for name in sorted(files.shapes.keys() - expected.keys()):
    if name == tensor_layout.HEAD and config.tie_embeddings:
      lines += _untied(prefix + arch.names["embedding"], files)
    elif not (_is_ignored(arch, prefix, name) or re.fullmatch(others, name)):
      lines.append(f"extra {name}: found shape {files.shapes[name]}")
  return lines


def _untied(embedding, files):
  """A tied head may stand in the file, but then it is the embedding."""
  if embedding in files.shapes and np.array_equal(
      files.read(embedding), files.read(tensor_layout.HEAD)):
    return []
  return [f"extra {tensor_layout.HEAD}: differs from {embedding}, but"
          " config.json says tie_word_embeddings"]


def _is_ignored(arch, prefix, name):
  return name.startswith(prefix) and any(
      re.fullmatch(pattern, name[len(prefix):]) for pattern in arch.ignored)
