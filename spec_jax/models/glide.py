"""GliDe: a one-layer decoder that looks into the target's keys and values.

Du et al. 2024 (arXiv 2402.02082), Sec. 3.1, and repository. The keys and values
of its own layer come from embeddings alone, so what the cache holds of a token
does not depend on what could be seen of the target when the token was read.
"""

import dataclasses
from typing import Any

from flax import struct
import flax.linen as nn
import jax
import jax.numpy as jnp

from spec_jax.core import types
from spec_jax.kernels import tree_attention
from spec_jax.models import attention
from spec_jax.models import config as config_lib
from spec_jax.models import contract
from spec_jax.models import decoder


@struct.dataclass
class Beside:
  """A cache with a second one beside it that is only looked at.

  Attributes:
    own: the cache that is written.
    other: the target's.
  """

  own: Any
  other: Any

  @property
  def length(self) -> jax.Array:
    return self.own.length

  def view(self, layer: int) -> tuple[jax.Array, ...]:
    return self.own.view(layer)

  def commit(self, fresh: types.FreshKV, path: jax.Array, count: jax.Array
             ) -> "Beside":
    return self.replace(own=self.own.commit(fresh, path, count))


@struct.dataclass
class Memory:
  """Keys and values of the target's last layer, rotated as they are.

  Attributes:
    keys: `[B, K, S, C]`.
    values: likewise.
    mask: `bool[B, T, S]`, which of them each query sees.
    prefix: committed ones that all queries see, or None.
  """

  keys: jax.Array
  values: jax.Array
  mask: jax.Array
  prefix: tree_attention.Prefix | None = None

  @property
  def sees(self) -> jax.Array:
    """`bool[B, T]`, whether there is anything to see."""
    found = self.mask.any(-1)
    if self.prefix is None:
      return found
    return found | (self.prefix.length > 0)[:, None]


def memory_of(cache: Any, target: config_lib.DecoderConfig, num_tokens: int
              ) -> Memory:
  """All that a target's cache holds, for `num_tokens` queries a row."""
  prefix = decoder.prefix_of(cache, target.num_layers - 1)
  # Attention wants one more segment; here its only token is hidden.
  batch = prefix.length.shape[0]
  nothing = jnp.zeros(
      (batch, target.num_kv_heads, 1, target.head_dim), prefix.keys.dtype)
  return Memory(
      nothing, nothing, jnp.zeros((batch, num_tokens, 1), bool), prefix)


class CrossAttention(nn.Module):
  """Queries of the small model over keys and values of the target.

  No norm stands before it. Where nothing is to be seen it gives zeros.

  Attributes:
    width: of the small model.
    target: the target's sizes, positions and window.
    dtype: of computation.
    backend: of attention.
  """

  width: int
  target: config_lib.DecoderConfig
  dtype: jnp.dtype
  backend: str

  @nn.compact
  def __call__(self, x, positions, memory):
    c = self.target
    shape = (c.num_kv_heads, c.num_groups, c.head_dim)
    queries = decoder.Linear(
        (self.width,), shape, False, self.dtype, name="queries")(x)
    angles = decoder.angles_of(c, positions)
    if angles is not None:
      queries = attention.rotate(queries, angles)
    scale = c.head_dim ** -0.5 if c.query_scale is None else c.query_scale
    queries = (queries * scale).astype(memory.keys.dtype).swapaxes(1, 2)
    mixed = attention.two_segment_attention(
        queries, memory.keys, memory.values, memory.mask, memory.prefix,
        positions, c.window(c.num_layers - 1), c.attn_softcap, self.backend)
    out = decoder.Linear(shape, (self.width,), False, self.dtype, name="out")(
        mixed.swapaxes(1, 2).astype(self.dtype))
    return jnp.where(memory.sees[:, :, None], out, 0)


class GlideNet(nn.Module):
  """Self-attention, cross-attention, feed-forward; ends of its own.

  Attributes:
    config: of one layer.
    target: the target's configuration.
    dtype: of computation.
    backend: of attention, see `kernels.backend.BACKENDS`.
  """

  config: config_lib.DecoderConfig
  target: config_lib.DecoderConfig
  dtype: jnp.dtype = jnp.float32
  backend: str = "auto"

  def setup(self):
    c = self.config
    if c.num_layers != 1:
      raise ValueError(f"num_layers={c.num_layers}, expected 1.")
    self.ends = decoder.Decoder(
        dataclasses.replace(c, num_layers=0), self.dtype, self.backend)
    self.block = decoder.Block(c, self.dtype, self.backend)
    self.cross = CrossAttention(
        c.d_model, self.target, self.dtype, self.backend)

  def __call__(self, tokens, positions, mask, memory=None, cache=None,
               past=None, taps=(), with_logits=True):
    """Runs fresh tokens against read-only caches.

    Args:
      tokens: `i32[B, T]`.
      positions: `i32[B, T]`.
      mask: `bool[B, T, F]`, see `core.protocols.TargetModel`.
      memory: what is seen of the target; None for nothing.
      cache: its own, or None.
      past: in-flight keys and values, or None.
      taps: features to return; "final" is all there is.
      with_logits: False leaves out the output head.

    Returns:
      A `types.ModelOut`.
    """
    scope = decoder.Scope(mask, decoder.prefix_of(cache, 0), positions, 0)
    x, keys, values = self.block.attend(
        self.ends.embed(tokens), decoder.angles_of(self.config, positions),
        scope, None if past is None else (past.k[0], past.v[0]))
    if memory is not None:
      x = x + self.cross(x, positions, memory)
    x = self.block.feed(x)
    logits = self.ends.read_out(x) if with_logits else None
    return types.ModelOut(
        logits, types.FreshKV((keys,), (values,), positions),
        {name: self.ends.final_norm(x) for name in taps})


@dataclasses.dataclass(frozen=True)
class GlideModel:
  """The net as a draft model; parameters are outside.

  It sees of the target what stands beside its own cache, see `Beside`.

  Attributes:
    net: the network.
  """

  net: GlideNet

  @property
  def config(self) -> config_lib.DecoderConfig:
    return self.net.config

  @property
  def dtype(self) -> jnp.dtype:
    return self.net.dtype

  @property
  def vocab_size(self) -> int:
    return self.config.vocab_size

  def init(self, key: jax.Array) -> Any:
    """Random parameters; the key is consumed."""
    one = jnp.zeros((1, 1), jnp.int32)
    seen = jnp.ones((1, 1, 1), bool)
    c = self.net.target
    keys = jnp.zeros((1, c.num_kv_heads, 1, c.head_dim), self.dtype)
    return self.net.init(
        key, one, one, seen, Memory(keys, keys, seen))["params"]

  def forward(self, params, tokens, positions, mask, cache=None, *, past=None,
              embeds=None, taps=(), with_logits=True, memory=None
              ) -> types.ModelOut:
    """See `GlideNet`; it reads tokens only."""
    if embeds is not None or set(taps) - {"final"}:
      raise ValueError(
          f"taps={taps} and embeds, expected ('final',) at most and none.")
    if isinstance(cache, Beside):
      memory = memory_of(cache.other, self.net.target, tokens.shape[1])
    return self.net.apply(
        {"params": params}, tokens, positions, mask, memory, cache, past, taps,
        with_logits)

  def score(self, params, tokens: jax.Array, memory: Memory | None = None
            ) -> types.ModelOut:
    """Plain causal forward of whole sequences `i32[B, T]`."""
    batch, length = tokens.shape
    causal = jnp.tril(jnp.ones((length, length), bool))
    return self.forward(
        params, tokens, jnp.broadcast_to(
            jnp.arange(length, dtype=jnp.int32)[None], tokens.shape),
        jnp.broadcast_to(causal[None], (batch, length, length)),
        memory=memory)

  def empty_scratch(self, batch: int, num_tokens: int) -> types.FreshKV:
    """Zeroed room for the keys and values of in-flight tokens."""
    return contract.empty_scratch(self, batch, num_tokens)


def from_hyper(target: contract.LinenModel, hyper: dict[str, Any]
               ) -> GlideModel:
  """The model of a trained part.

  Args:
    target: gives vocabulary, and what its keys and values look like.
    hyper: what the bundle keeps: fields of the layer's configuration.

  Raises:
    ValueError: for a hyper-parameter that it does not have.
  """
  c = target.config
  try:
    config = config_lib.DecoderConfig(
        vocab_size=c.vocab_size, real_vocab_size=c.real_vocab_size,
        num_layers=1, max_positions=c.max_positions, **hyper)
  except TypeError as error:
    raise ValueError(f"trained part of GliDe: {error}") from error
  return GlideModel(GlideNet(
      config, c, target.dtype, target.module.backend))
