"""Heads that read tokens, as published: Hydra, MLP speculator, ReDrafter."""

from collections.abc import Mapping
import dataclasses
import re
from typing import Any

import numpy as np

from spec_jax.models import architectures
from spec_jax.models import contract
from spec_jax.models import head_layout
from spec_jax.models import tensor_layout
from spec_jax.models import token_heads


def hydra(config: Mapping[str, Any], shapes: head_layout.Shapes,
          target: contract.LinenModel) -> head_layout.Layout:
  """MLP heads, alone or behind a prefix layer."""
  arch, offset = config["hydra_head_arch"], config.get("hidden_state_offset", 0)
  if arch not in ("mlp", "prefix-mlp") or offset or not config.get(
      "grounded_heads", True):
    raise ValueError(
        f"hydra_head_arch={arch!r}, hidden_state_offset={offset},"
        f" grounded_heads={config.get('grounded_heads', True)}: expected 'mlp'"
        " or 'prefix-mlp', 0 and true.")
  is_deep = arch == "prefix-mlp"
  num, layers = config["hydra_num_heads"], config["hydra_num_layers"]
  width, parts = target.config.d_model, []
  for head in range(num):
    # Behind a prefix every second module is a dropout.
    at = lambda layer, head=head: (
        f"hydra_mlp.{head}.{2 * layer + 1 if is_deep else layer}")
    wide = (head + 2) * width
    parts += head_layout.linear(
        f"block_{head}_0", f"{at(0)}.linear", wide, width)
    parts += head_layout.linear(
        f"map_{head}", f"{at(0)}.res_connection", wide, width)
    for layer in range(1, layers):
      parts += head_layout.linear(
          f"block_{head}_{layer}", f"{at(layer)}.linear", width, width)
    name = f"hydra_lm_head.{head}" + (".1" if is_deep else "")
    parts += head_layout.linear(f"out_{head}", name, width, target.vocab_size)
  hyper = {"num_heads": num, "num_layers": layers}
  if not is_deep:
    return head_layout.Layout("hydra", hyper, parts)
  prefix = "prefix_embeding_layer."  # As it is spelled there.
  encoder = token_heads.encoder_of(target, 1)
  for part in tensor_layout.parts(
      architectures.ARCHITECTURES["llama"], encoder.config, prefix):
    if part.path == ("embedding",):  # One row that nothing reads.
      part = tensor_layout.Part(part.path, {}, lambda _: np.zeros(
          (1, width), np.float32))
    parts.append(dataclasses.replace(part, path=("encoder",) + part.path))
  return head_layout.Layout("hydra_pp", hyper, parts, re.escape(
      f"{prefix}embed_tokens.weight"))


def speculator(config: Mapping[str, Any], shapes: head_layout.Shapes,
               target: contract.LinenModel) -> head_layout.Layout:
  """The MLP speculator; tied tensors may be there once or as often as used."""
  width, num = target.config.d_model, head_layout.whole(config, "n_predict")
  if config["emb_dim"] != width:
    raise ValueError(
        f"emb_dim={config['emb_dim']}, the target's features have {width}.")
  prefix = "speculator." if any(
      name.startswith("speculator.") for name in shapes) else ""
  size, vocab_size = config.get("inner_dim") or width, target.vocab_size
  is_tied = bool(config.get("tie_weights"))
  parts = []
  for i in range(1 if is_tied else num):
    name = lambda kind, i=i: f"{prefix}{kind}.{i}.weight"
    parts.append(head_layout.part(
        (f"emb_{i}", "embedding"), {name("emb"): (vocab_size, size)}))
    parts += head_layout.linear(
        f"head_{i}", f"{prefix}head.{i}", size, vocab_size, False)
    parts += [
        head_layout.part((f"ln_{i}", "scale"), {name("ln"): (size,)}),
        head_layout.part(
            (f"ln_{i}", "bias"), {f"{prefix}ln.{i}.bias": (size,)})]
  for i in range(min(num, 2) if is_tied else num):
    parts += head_layout.linear(
        f"proj_{i}", f"{prefix}proj.{i}", size if i else width, size, False)
  return head_layout.Layout(
      "token_embedding_speculator",
      {"num_stages": num, "inner": size, "is_tied": is_tied,
       "scales_input": bool(config.get("scale_input"))}, parts,
      copies=_tied(prefix, num) if is_tied else {},
      tuned=_candidates(config, num))


def _tied(prefix, num):
  """What the stages share, -> where it is read; the first projects alone."""
  return {f"{prefix}{kind}.{i}.{array}": f"{prefix}{kind}.{first}.{array}"
          for kind, first, array in (
              ("emb", 0, "weight"), ("head", 0, "weight"), ("ln", 0, "weight"),
              ("ln", 0, "bias"), ("proj", 1, "weight"))
          for i in range(first + 1, num)}


def _candidates(config, num):
  """The tree that an MLP speculator was published with, as far as it says."""
  tuned = {}
  tops = config.get("top_k_tokens_per_head")
  if tops is not None:
    if not isinstance(tops, list) or len(tops) != num or any(
        type(top) is not int or top < 1 for top in tops):
      raise ValueError(f"top_k_tokens_per_head={tops!r}, expected n_predict="
                       f"{num} whole numbers above 0.")
    tuned["branching"] = tuple(tops)
  if config.get("n_candidates") is not None:
    tuned["candidates"] = head_layout.whole(config, "n_candidates")
  return tuned


def redrafter(config: Mapping[str, Any], shapes: head_layout.Shapes,
              target: contract.LinenModel) -> head_layout.Layout:
  """Apple's recurrent head, under its names or those that TensorRT-LLM reads.

  Feature and state are projected where `exit_dim` is not the width of both.
  """
  width, layers = target.config.d_model, config["num_draft_layers"]
  head_layout.check_same(config, "hidden_size", width)
  size = head_layout.whole(config, "exit_dim")
  is_rnn, is_projected = bool(config.get("rnn")), size != 2 * width
  parts = []
  if is_rnn:
    parts += head_layout.linear("read", "rnn_w", width, width, False)
    parts += head_layout.linear("keep", "rnn_u", width, width)
  if is_projected:
    parts += head_layout.linear(
        "enter", _called(shapes, "input_proj", "input_projs"), 2 * width, size)
  head = _called(shapes, "lm_head", "lm_heads", "0")
  for layer in range(layers):
    parts += head_layout.linear(
        f"block_{layer}", f"{head}.{layer}.linear", size, size)
  parts += head_layout.linear(
      "out_0", f"{head}.{layers}", size, target.vocab_size, False)
  hyper = {"num_layers": layers, "is_rnn": is_rnn}
  if is_projected:
    hyper["exit_size"] = size
  return head_layout.Layout("recurrent_drafter", hyper, parts)


def _called(shapes, *names):
  """Which of the names of a module the file has, the first one if none."""
  for name in names:
    if any(tensor.startswith(f"{name}.") for tensor in shapes):
      return name
  return names[0]
