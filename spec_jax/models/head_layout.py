"""How published files of draft heads make up the parameters of ours.

A layout says of which kind the heads are, their hyper-parameters, and of which
tensors every parameter is made, see `tensor_layout.Part`.
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
import dataclasses
import re
from typing import Any

import numpy as np

from spec_jax.models import architectures
from spec_jax.models import contract
from spec_jax.models import hf_config
from spec_jax.models import lora
from spec_jax.models import tensor_layout
from spec_jax.models import token_heads

Shapes = Mapping[str, tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class Layout:
  """What a file holds.

  Attributes:
    system: whose heads they are.
    hyper: their hyper-parameters.
    parts: of all parameters.
    ignored: pattern of tensors that belong to others, or to nothing.
    copies: tensors that may be there, -> which other one they repeat.
    tuned: hyper-parameters of the system that were published with the heads.
  """

  system: str
  hyper: dict[str, Any]
  parts: list[tensor_layout.Part]
  ignored: str = ""
  copies: Mapping[str, str] = dataclasses.field(default_factory=dict)
  tuned: dict[str, Any] = dataclasses.field(default_factory=dict)


def medusa(config: Mapping[str, Any], shapes: Shapes,
           target: contract.LinenModel) -> Layout:
  """Heads alone, with or without output heads, or beside their own base."""
  is_beside = any(name.startswith("medusa_head.") for name in shapes)
  prefix = "medusa_head." if is_beside else ""
  # Published configs state fewer heads than their files hold, never more.
  num = _count(rf"{prefix}(\d+)\.0\.linear\.weight", shapes)
  stated = _whole(config, "medusa_num_heads")
  if num < stated:
    raise ValueError(
        f"medusa_num_heads={stated}, the file holds {num} heads: it has no"
        f" {prefix}{num}.0.linear.weight.")
  layers = config.get("medusa_num_layers", 1)
  is_shared = f"{prefix}0.{layers}.weight" not in shapes
  hyper = {"num_heads": num, "num_layers": layers, "is_shared": is_shared}
  parts = _medusa_parts(
      target, num, layers, f"{prefix}{{}}.{{}}.linear", is_bias=True,
      out=None if is_shared else f"{prefix}{{}}.{layers}.weight")
  if not is_beside:
    return Layout("medusa_1", hyper, parts)
  base, ignored = _base(config, target)
  return Layout("medusa_2", hyper, parts + base, ignored)


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


def medusa_vllm(config: Mapping[str, Any], shapes: Shapes,
                target: contract.LinenModel) -> Layout:
  """As vLLM writes them; of whole vocabularies only."""
  size = config.get("truncated_vocab_size") or target.vocab_size
  if size != target.vocab_size or any("token_map" in name for name in shapes):
    raise ValueError(
        f"truncated_vocab_size={size}, expected heads for all"
        f" {target.vocab_size} tokens.")
  prefix = "medusa_heads." if any(
      name.startswith("medusa_heads.") for name in shapes) else ""
  num, layers = config["num_heads"], config["num_hidden_layers"]
  one, own = f"{prefix}lm_head.weight", f"{prefix}lm_heads.{{}}.weight"
  is_shared = bool(config.get("original_lm_head")) and one not in shapes
  out = None if is_shared else (one if one in shapes else own)
  return Layout(
      "medusa_1", {"num_heads": num, "num_layers": layers,
                   "is_shared": is_shared},
      _medusa_parts(target, num, layers, f"{prefix}blocks.{{}}.layers.{{}}",
                    bool(config.get("medusa_fc_bias")), out))


def _medusa_parts(target, num, layers, block, is_bias, out):
  width, parts = target.config.d_model, []
  for head in range(num):
    for layer in range(layers):
      parts += _linear(f"block_{head}_{layer}", block.format(head, layer),
                       width, width, is_bias)
      if not is_bias:
        parts.append(_part((f"block_{head}_{layer}", "bias"), {},
                           lambda _: np.zeros(width, np.float32)))
    if out:
      parts.append(_part((f"out_{head}", "kernel"), {
          out.format(head): (target.vocab_size, width)}, lambda x: x[0].T))
  return parts


def hydra(config: Mapping[str, Any], shapes: Shapes,
          target: contract.LinenModel) -> Layout:
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
    parts += _linear(f"block_{head}_0", f"{at(0)}.linear", wide, width)
    parts += _linear(f"map_{head}", f"{at(0)}.res_connection", wide, width)
    for layer in range(1, layers):
      parts += _linear(
          f"block_{head}_{layer}", f"{at(layer)}.linear", width, width)
    name = f"hydra_lm_head.{head}" + (".1" if is_deep else "")
    parts += _linear(f"out_{head}", name, width, target.vocab_size)
  hyper = {"num_heads": num, "num_layers": layers}
  if not is_deep:
    return Layout("hydra", hyper, parts)
  prefix = "prefix_embeding_layer."  # As it is spelled there.
  encoder = token_heads.encoder_of(target, 1)
  for part in tensor_layout.parts(
      architectures.ARCHITECTURES["llama"], encoder.config, prefix):
    if part.path == ("embedding",):  # One row that nothing reads.
      part = tensor_layout.Part(part.path, {}, lambda _: np.zeros(
          (1, width), np.float32))
    parts.append(dataclasses.replace(part, path=("encoder",) + part.path))
  return Layout("hydra_pp", hyper, parts, re.escape(
      f"{prefix}embed_tokens.weight"))


def speculator(config: Mapping[str, Any], shapes: Shapes,
               target: contract.LinenModel) -> Layout:
  """The MLP speculator; tied tensors may be there once or as often as used."""
  width, num = target.config.d_model, _whole(config, "n_predict")
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
    parts += [
        _part((f"emb_{i}", "embedding"), {name("emb"): (vocab_size, size)}),
        _part((f"head_{i}", "kernel"), {name("head"): (vocab_size, size)},
              lambda x: x[0].T),
        _part((f"ln_{i}", "scale"), {name("ln"): (size,)}),
        _part((f"ln_{i}", "bias"), {f"{prefix}ln.{i}.bias": (size,)})]
  for i in range(min(num, 2) if is_tied else num):
    parts += _linear(f"proj_{i}", f"{prefix}proj.{i}",
                     size if i else width, size, False)
  return Layout(
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
    tuned["candidates"] = _whole(config, "n_candidates")
  return tuned


def redrafter(config: Mapping[str, Any], shapes: Shapes,
              target: contract.LinenModel) -> Layout:
  """Apple's recurrent head; without an input projection."""
  width, layers = target.config.d_model, config["num_draft_layers"]
  if config["exit_dim"] != 2 * width or any(
      name.startswith("input_proj") for name in shapes):
    raise ValueError(
        f"exit_dim={config['exit_dim']}, expected twice the target's"
        f" {width} and no input projection.")
  is_rnn, parts = bool(config.get("rnn")), []
  if is_rnn:
    parts += _linear("read", "rnn_w", width, width, False)
    parts += _linear("keep", "rnn_u", width, width)
  for layer in range(layers):
    parts += _linear(f"block_{layer}", f"lm_head.{layer}.linear", 2 * width,
                     2 * width)
  parts += _linear(
      "out_0", f"lm_head.{layers}", 2 * width, target.vocab_size, False)
  return Layout("recurrent_drafter",
                {"num_layers": layers, "is_rnn": is_rnn}, parts)


# What a config.json must hold -> how the file is laid out.
LAYOUTS: tuple[tuple[Callable[[Mapping[str, Any]], bool], Callable[
    ..., Layout]], ...] = (
        (lambda c: c.get("model_type") == "medusa", medusa_vllm),
        (lambda c: c.get("model_type") == "mlp_speculator", speculator),
        (lambda c: c.get("model_type") == "recurrent_drafting_drafter",
         redrafter),
        (lambda c: "hydra_head_arch" in c, hydra),
        (lambda c: "medusa_num_heads" in c, medusa),
    )


def _part(path, sources, build=lambda x: x[0]):
  return tensor_layout.Part(("heads",) + path, sources, build)


def _linear(path: str, name: str, num_in: int, num_out: int,
            is_bias: bool = True) -> Iterator[tensor_layout.Part]:
  yield _part((path, "kernel"), {f"{name}.weight": (num_out, num_in)},
              lambda x: x[0].T)
  if is_bias:
    yield _part((path, "bias"), {f"{name}.bias": (num_out,)})


def _whole(config, key):
  if type(config[key]) is not int or config[key] < 1:
    raise ValueError(f"{key}={config[key]!r}, expected a whole number above 0.")
  return config[key]


def _count(pattern, shapes):
  found = [re.fullmatch(pattern, name) for name in shapes]
  return 1 + max((int(m.group(1)) for m in found if m), default=-1)
