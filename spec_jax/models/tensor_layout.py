"""How the tensors of a checkpoint make up the decoder's parameters.

The decoder fuses projections, so that a parameter may need several tensors.
Axes: E width, K key/value heads, G query heads per key/value head, C head
size, F feed-forward hidden size, V vocabulary.
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses

import numpy as np

from spec_jax.models import architectures
from spec_jax.models import config as config_lib

HEAD = "lm_head.weight"


@dataclasses.dataclass(frozen=True)
class Part:
  """One parameter and the tensors it is made of.

  Attributes:
    path: of the parameter, e.g. `("layers_0", "attn", "qkv", "kernel")`.
    sources: tensor -> the shape it must have in the file, in order.
    build: the tensors, in order, -> the parameter.
  """

  path: tuple[str, ...]
  sources: Mapping[str, tuple[int, ...]]
  build: Callable[[Sequence[np.ndarray]], np.ndarray]

  @property
  def is_norm(self) -> bool:
    return any(name.endswith("norm") for name in self.path)


def parts(arch: architectures.Architecture, config: config_lib.DecoderConfig,
          prefix: str) -> Iterator[Part]:
  """Every parameter of the decoder, once.

  Args:
    arch: how the tensors are called.
    config: their sizes.
    prefix: of every tensor but the head.
  """
  names, c = arch.names, config
  yield table("embedding", prefix + names["embedding"], c.vocab_size, c)
  if c.positions == "learned":
    yield table("position_embedding", prefix + names["position_embedding"],
                 c.max_positions + c.position_offset, c)
  if not c.tie_embeddings:
    yield table("head", HEAD, c.vocab_size, c)
  yield from norm(("final_norm",), prefix + names["final_norm"], c.d_model, c)
  for layer in range(c.num_layers):
    yield from Layer(arch, c, prefix, layer).parts()


class Layer:
  """The parameters of one block."""

  def __init__(self, arch, config, prefix, layer):
    self._arch, self._config = arch, config
    self._prefix, self._layer = prefix, layer

  def parts(self) -> Iterator[Part]:
    yield from self._norms()
    yield from self.maps(self._config.d_model)

  def maps(self, width: int) -> Iterator[Part]:
    """The linear maps; attention reads something `width` wide."""
    c = self._config
    heads, groups, size = c.num_kv_heads, c.num_groups, c.head_dim
    yield from self.linear(
        ("attn", "qkv"), (groups * heads * size, heads * size, heads * size),
        (width,), (heads, groups + 2, size), c.qkv_bias, self.by_head)
    yield from self.linear(("attn", "out"), (c.d_model,),
                            (heads, groups, size), (c.d_model,), c.out_bias)
    ways = 2 if c.mlp in ("swiglu", "geglu") else 1
    yield from self.linear(("mlp", "up"), (c.d_ff,) * ways, (c.d_model,),
                            (ways, c.d_ff), c.mlp_bias)
    yield from self.linear(("mlp", "down"), (c.d_model,), (c.d_ff,),
                            (c.d_model,), c.mlp_bias)

  def _norms(self):
    c = self._config
    widths = {("attn_norm",): c.d_model, ("mlp_norm",): c.d_model}
    if c.post_norms:
      widths |= {("attn_post_norm",): c.d_model, ("mlp_post_norm",): c.d_model}
    if c.qk_norm:
      widths |= {("attn", "q_norm"): c.head_dim, ("attn", "k_norm"): c.head_dim}
    for path, width in widths.items():
      (name,) = self._names(path[-1])
      # The norms of queries and keys have no bias in any architecture.
      yield from norm((f"layers_{self._layer}",) + path, name, width, c)

  def _names(self, part):
    names = self._arch.names[part]
    names = (names,) if isinstance(names, str) else names
    return tuple(self._prefix + name.format(self._layer) for name in names)

  def linear(self, path, rows, in_shape, out_shape, use_bias, arrange=None):
    """A kernel `in_shape + out_shape` and its bias `out_shape`.

    Args:
      path: of the linear map within the block.
      rows: output sizes of the tensors that are stacked.
      in_shape: structure of the inputs.
      out_shape: structure of the outputs.
      use_bias: whether there is a bias.
      arrange: stacked outputs `[R, ...]` -> `out_shape + [...]`; reshapes by
        default.
    """
    names = self._names(path[-1])
    if len(names) == 1:  # already fused in the file
      rows = (sum(rows),)
    in_first, columns = self._arch.kernels_in_first, int(np.prod(in_shape))
    arrange = arrange or (lambda x: x.reshape(out_shape + x.shape[1:]))

    def kernel(tensors):
      stacked = np.concatenate([x.T if in_first else x for x in tensors])
      return np.moveaxis(arrange(stacked), -1, 0).reshape(in_shape + out_shape)

    path = (f"layers_{self._layer}",) + path
    yield Part(
        path + ("kernel",),
        {f"{name}.weight": (columns, size) if in_first else (size, columns)
         for name, size in zip(names, rows)}, kernel)
    if use_bias:
      yield Part(
          path + ("bias",),
          {f"{name}.bias": (size,) for name, size in zip(names, rows)},
          lambda tensors: arrange(np.concatenate(tensors)))

  def by_head(self, stacked):
    """All queries, keys, values `[R, ...]` -> `[K, G + 2, C, ...]`."""
    c = self._config
    heads, groups, size = c.num_kv_heads, c.num_groups, c.head_dim
    num_queries = heads * groups * size
    queries = stacked[:num_queries].reshape(
        (heads, groups, size) + stacked.shape[1:])
    keys, values = stacked[num_queries:].reshape(
        (2, heads, 1, size) + stacked.shape[1:])
    return np.concatenate([queries, keys, values], axis=1)


def table(field, name, rows, config):
  """A matrix `[rows, E]` that is stored as it is."""
  return Part((field,), {name: (rows, config.d_model)}, lambda x: x[0])


def norm(path, name, width, config):
  """The scale, and of a LayerNorm the bias, of a norm."""
  yield Part(path + ("scale",), {f"{name}.weight": (width,)}, lambda x: x[0])
  if config.norm == "layer":
    yield Part(path + ("bias",), {f"{name}.bias": (width,)}, lambda x: x[0])
