"""The border between model code and the rest: a model as a hashable value."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from spec_jax.core import types
from spec_jax.kernels import backend as backend_lib
from spec_jax.models import config as config_lib
from spec_jax.models import decoder


@dataclasses.dataclass(frozen=True)
class LinenModel:
  """A causal language model: a linen module with its parameters outside.

  Serves as a target and as a draft model alike. Implements
  `spec_jax.core.protocols.TargetModel`.

  Attributes:
    module: maps `(tokens, positions, mask, ...)` to a `types.ModelOut`.
  """

  module: nn.Module

  @property
  def config(self) -> config_lib.DecoderConfig:
    return self.module.config

  @property
  def dtype(self) -> jnp.dtype:
    return self.module.dtype

  @property
  def vocab_size(self) -> int:
    return self.config.vocab_size

  def with_backend(self, backend: str) -> "LinenModel":
    """The same model, its attention computed by "auto", "pallas" or "xla".

    Raises:
      ValueError: no such backend, or the module does not let one choose.
    """
    backend_lib.check(backend)
    if not hasattr(self.module, "backend"):
      raise ValueError(
          f"backend={backend!r}: a {type(self.module).__name__} has no field"
          " `backend`, expected a module such as models.decoder.Decoder.")
    return dataclasses.replace(self, module=self.module.clone(backend=backend))

  def init(self, key: jax.Array) -> Any:
    """Random parameters; the key is consumed."""
    tokens = jnp.zeros((1, 1), jnp.int32)
    mask = jnp.ones((1, 1, 1), bool)
    return self.module.init(key, tokens, tokens, mask)["params"]

  def forward(self, params, tokens, positions, mask, cache=None, *, past=None,
              embeds=None, taps=(), gates=None, with_logits=True, layers=None
              ) -> types.ModelOut:
    """See `spec_jax.core.protocols.TargetModel.forward`."""
    return self.module.apply(
        {"params": params}, tokens, positions, mask, cache, past, embeds,
        tuple(taps), gates, with_logits, layers)

  def score(self, params, tokens: jax.Array, **kwargs) -> types.ModelOut:
    """Plain causal forward of whole sequences `i32[B, T]`, no cache."""
    batch, length = tokens.shape
    positions = jnp.broadcast_to(jnp.arange(length), (batch, length))
    mask = jnp.broadcast_to(
        jnp.tril(jnp.ones((length, length), bool)), (batch, length, length))
    return self.forward(params, tokens, positions, mask, **kwargs)

  def run_layer(self, params, layer: int, x, positions, mask, cache
                ) -> jax.Array:
    """One block on `x` `f[B, T, E]`, the residual stream that enters it."""
    return self.module.apply(
        {"params": params}, layer, x, positions, mask, cache,
        method="run_layer")

  def read_out(self, params, x) -> jax.Array:
    """Logits `f32[..., V]` of a residual stream `f[..., E]` at any depth."""
    return self.module.apply({"params": params}, x, method="read_out")

  def embed(self, params, tokens: jax.Array) -> jax.Array:
    """Embeddings `f[B, T, E]` of `i32[B, T]`, as the first block gets them."""
    return self.module.apply({"params": params}, tokens, method="embed")

  def unembed(self, params, x, ids: jax.Array | None = None) -> jax.Array:
    """Logits `f32[..., V]` of features after the final norm, `f[..., E]`.

    With `ids` `i32[Z]` those of these tokens only, `f32[..., Z]`.
    """
    return self.module.apply({"params": params}, x, ids, method="unembed")

  def input_table(self, params) -> jax.Array:
    """`f[V, E]`, the token embeddings, not scaled."""
    return params["embedding"]

  def output_table(self, params) -> jax.Array:
    """`f[V, E]`, the output head."""
    return params["embedding" if self.config.tie_embeddings else "head"]

  def empty_scratch(self, batch: int, num_tokens: int) -> types.FreshKV:
    """Zeroed room for the keys and values of in-flight tokens."""
    return empty_scratch(self, batch, num_tokens)


def empty_scratch(model, batch: int, num_tokens: int) -> types.FreshKV:
  """As `LinenModel.empty_scratch`, of anything with `config` and `dtype`."""
  c = model.config
  shape = (batch, c.num_kv_heads, num_tokens, c.head_dim)
  zeros = tuple(jnp.zeros(shape, model.dtype) for _ in range(c.num_layers))
  return types.FreshKV(
      zeros, zeros, jnp.zeros((batch, num_tokens), jnp.int32))


@dataclasses.dataclass(frozen=True, eq=False)
class Ends:
  """A model's two ends with its parameters: tokens in, logits out.

  What draft heads share with their target.

  Attributes:
    model: a `LinenModel`.
    params: its parameters.
  """

  model: LinenModel
  params: Any

  def embed(self, tokens: jax.Array) -> jax.Array:
    """`i32[...]` -> `f32[..., E]`, rows of the table, not scaled."""
    return self.model.input_table(self.params)[tokens].astype(jnp.float32)

  def unembed(self, x: jax.Array) -> jax.Array:
    """`f[..., E]` after the final norm -> logits `f32[..., V]`."""
    return self.model.unembed(self.params, x.astype(self.model.dtype))


def decoder_model(config: config_lib.DecoderConfig,
                  dtype: jnp.dtype = jnp.float32) -> LinenModel:
  """The decoder family as a model; `dtype` is the dtype of computation."""
  return LinenModel(decoder.Decoder(config, jnp.dtype(dtype)))
