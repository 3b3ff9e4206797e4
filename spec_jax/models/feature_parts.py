"""How the tensors of a published EAGLE draft make up a feature net."""

from collections.abc import Iterator
import dataclasses
from typing import Any

from spec_jax.models import architectures
from spec_jax.models import config as config_lib
from spec_jax.models import feature_model
from spec_jax.models import normed_net
from spec_jax.models import tensor_layout

EMBEDDING = "embed_tokens.weight"


@dataclasses.dataclass(frozen=True)
class Layout:
  """What a folder says of its net.

  Attributes:
    config: of the layers.
    hyper: of the net, see `feature_model.from_hyper`.
    layer: name of the layers; `{}` is the number of one.
    target_width: of the features that are read.
    head_size: rows of the net's own head, 0 without one.
    prefix: what may stand before the names of tensors, any number of times.
    num_listed: tokens that the target's head speaks of, listed in the files; 0
      for all.
  """

  config: config_lib.DecoderConfig
  hyper: dict[str, Any]
  layer: str
  target_width: int
  head_size: int = 0
  prefix: str = ""
  num_listed: int = 0


def parts(layout: Layout) -> Iterator[tensor_layout.Part]:
  """Every parameter of the net, once; not its table of embeddings."""
  c = layout.config
  if layout.head_size:
    yield from _own_ends(layout)
  else:
    yield _linear(("fuse", "project"), c.d_model, 2 * c.d_model)
    if layout.hyper["use_bias"]:
      yield tensor_layout.Part(("fuse", "project", "bias"),
                               {"fc.bias": (c.d_model,)}, lambda x: x[0])
  for layer in range(c.num_layers):
    yield from _layer_parts(layout, layer)


def table(layout: Layout) -> tensor_layout.Part:
  """The net's own embeddings."""
  return tensor_layout.table(feature_model.EMBEDDING, EMBEDDING,
                             layout.config.vocab_size, layout.config)


def _linear(path, rows, columns):
  return tensor_layout.Part(
      (*path, "kernel"), {"fc.weight": (rows, columns)}, lambda x: x[0].T)


def _own_ends(layout):
  """EAGLE-3's: from three features to one, both norms, and the head."""
  c, width = layout.config, layout.target_width
  yield _linear(("entry", "entry"), c.d_model, 3 * width)
  norms = {("fuse", "embed_norm"): layout.layer.format(0) + "input_layernorm",
           ("fuse", "feature_norm"): layout.layer.format(0) + "hidden_norm",
           ("head_norm",): "norm"}
  for path, name in norms.items():
    yield from tensor_layout.norm(path, name, c.d_model, c)
  kind = layout.hyper.get("tap_norm")
  if kind == normed_net.JOINT:
    yield from tensor_layout.norm(("taps_norm",), "input_norm", 3 * width, c)
  elif kind == normed_net.EACH:
    for i in range(3):
      yield from tensor_layout.norm(
          (f"tap_{i}_norm",), f"fc_norm.{i}", width, c)
  yield tensor_layout.table("head", tensor_layout.HEAD, layout.head_size, c)


def _layer_parts(layout, layer):
  c, arch = layout.config, architectures.ARCHITECTURES["llama"]
  local = lambda name: name.replace("layers.{}.", layout.layer)
  names = {key: tuple(map(local, value)) if isinstance(value, tuple) else
           local(value) for key, value in arch.names.items()}
  block = tensor_layout.Layer(
      dataclasses.replace(arch, names=names), c, "", layer)
  # The first layer's attention reads what the fusion made, as it is.
  widths = {("attn_norm",): c.d_model} if layer else {}
  widths[("mlp_norm",)] = c.d_model
  if c.qk_norm:
    widths |= {("attn", "q_norm"): c.head_dim, ("attn", "k_norm"): c.head_dim}
  for path, width in widths.items():
    yield from tensor_layout.norm(
        (f"layers_{layer}", *path), names[path[-1]].format(layer), width, c)
  is_first = layout.head_size and layer == 0
  yield from block.maps(2 * c.d_model if is_first else c.d_model)
