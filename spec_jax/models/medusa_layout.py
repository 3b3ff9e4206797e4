"""Medusa's heads, as their repository and as vLLM write them."""

from collections.abc import Mapping
import dataclasses
import re
from typing import Any

import numpy as np

from spec_jax.models import architectures
from spec_jax.models import contract
from spec_jax.models import head_layout
from spec_jax.models import hf_config
from spec_jax.models import lora
from spec_jax.models import tensor_layout
from spec_jax.models import token_heads


def repository(config: Mapping[str, Any], shapes: head_layout.Shapes,
               target: contract.LinenModel) -> head_layout.Layout:
  """Heads alone, with or without output heads, or beside their own base."""
  is_beside = any(name.startswith("medusa_head.") for name in shapes)
  prefix = "medusa_head." if is_beside else ""
  # Published configs state fewer heads than their files hold, never more.
  num = head_layout.count(rf"{prefix}(\d+)\.0\.linear\.weight", shapes)
  stated = head_layout.whole(config, "medusa_num_heads")
  if num < stated:
    raise ValueError(
        f"medusa_num_heads={stated}, the file holds {num} heads: it has no"
        f" {prefix}{num}.0.linear.weight.")
  layers = config.get("medusa_num_layers", 1)
  is_shared = f"{prefix}0.{layers}.weight" not in shapes
  hyper = {"num_heads": num, "num_layers": layers, "is_shared": is_shared}
  parts = []
  for head in range(num):
    parts += _blocks(target, head, layers, f"{prefix}{{}}.{{}}.linear", True)
    if not is_shared:
      parts += head_layout.linear(
          f"out_{head}", f"{prefix}{head}.{layers}", target.config.d_model,
          target.vocab_size, False)
  if not is_beside:
    return head_layout.Layout("medusa_1", hyper, parts)
  base, ignored = _base(config, target)
  return head_layout.Layout("medusa_2", hyper, parts + base, ignored)


def _base(config, target):
  """Parts of a whole model in the target's place, and what to ignore."""
  kind = config.get("model_type")
  if kind not in architectures.ARCHITECTURES:
    raise ValueError(
        f"model_type={kind!r} of the base that the heads stand beside, expected"
        f" one of {sorted(architectures.ARCHITECTURES)}.")
  arch = architectures.ARCHITECTURES[kind]
  ours = dataclasses.asdict(target.config)
  theirs = dataclasses.asdict(
      hf_config.decoder_config(dict(config), target.config.real_vocab_size))
  wrong = [f"{field}={value!r} (the target has {ours[field]!r})"
           for field, value in theirs.items() if value != ours[field]]
  if wrong:
    raise ValueError("its base cannot take the target's place: "
                     + ", ".join(wrong) + ".")
  prefix = arch.prefixes[0]
  parts = [dataclasses.replace(part, path=(lora.CHANGE,) + part.path)
           for part in tensor_layout.parts(arch, target.config, prefix)]
  return parts, re.escape(prefix) + f"({'|'.join(arch.ignored)})"


def vllm(config: Mapping[str, Any], shapes: head_layout.Shapes,
         target: contract.LinenModel) -> head_layout.Layout:
  """As vLLM reads them, of all tokens or of those that `token_map` lists."""
  head_layout.check_same(config, "vocab_size", target.vocab_size)
  prefix = "medusa_heads." if any(
      name.startswith("medusa_heads.") for name in shapes) else ""
  num = head_layout.whole(config, "num_heads")
  layers = head_layout.whole(config, "num_hidden_layers")
  size = _num_rows(config, target.vocab_size)
  # The name of the map has the prefix or not, whatever the others have.
  token_map = "" if size == target.vocab_size else (
      "token_map" if "token_map" in shapes else f"{prefix}token_map")
  out = _outputs(config, shapes, prefix, is_cut=bool(token_map))
  parts = []
  for head in range(num):
    parts += _blocks(target, head, layers, f"{prefix}blocks.{{}}.layers.{{}}",
                     bool(config.get("medusa_fc_bias")))
    if out:
      parts.append(_output(
          target, head, out.format(head), size, shapes, token_map))
  hyper = {"num_heads": num, "num_layers": layers, "is_shared": not out}
  if not token_map:
    return head_layout.Layout("medusa_1", hyper, parts)
  parts.append(head_layout.part((token_heads.TOKEN_IDS,), {token_map: (size,)}))
  return head_layout.Layout(
      "medusa_1", hyper | {"head_size": size}, parts, token_map=token_map)


def _num_rows(config, vocab_size):
  """How many tokens the heads know."""
  if config.get("truncated_vocab_size") is None:
    return vocab_size
  size = head_layout.whole(config, "truncated_vocab_size")
  if size > vocab_size:
    raise ValueError(f"truncated_vocab_size={size}, expected at most the"
                     f" target's {vocab_size} tokens.")
  return size


def _outputs(config, shapes, prefix, is_cut):
  """The output heads' name, `{}` the number of one; "" for the target's own.

  With `original_lm_head` all heads have one, which vLLM also finds under the
  first of several names; it has to be there to have rows left out.
  """
  one, own = f"{prefix}lm_head.weight", f"{prefix}lm_heads.{{}}.weight"
  if one in shapes:
    return one
  if not config.get("original_lm_head"):
    return own
  if own.format(0) in shapes:
    return own.format(0)
  return one if is_cut else ""


def _output(target, head, name, size, shapes, token_map):
  """One output head; of one that is stored whole the rows in the map."""
  path, width = (f"out_{head}", "kernel"), target.config.d_model
  whole = (target.vocab_size, width)
  if token_map and shapes.get(name) == whole:
    return head_layout.part(path, {name: whole, token_map: (size,)},
                            lambda x: x[0][x[1]].T)
  return head_layout.part(path, {name: (size, width)}, lambda x: x[0].T)


def _blocks(target, head, layers, name, is_bias):
  """The residual blocks of a head; vLLM's may have no biases."""
  width = target.config.d_model
  for layer in range(layers):
    path = f"block_{head}_{layer}"
    yield from head_layout.linear(
        path, name.format(head, layer), width, width, is_bias)
    if not is_bias:
      yield head_layout.part(
          (path, "bias"), {}, lambda _: np.zeros(width, np.float32))
