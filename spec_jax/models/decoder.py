"""One flax.linen decoder family: Llama, Mistral, Qwen, Gemma, GPT-2, OPT.

Layers are unrolled: under `lax.scan` each step would first copy the layer's
weights out of the stack (on CPU that doubles the bytes moved per token).
"""

import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from spec_jax.core import types
from spec_jax.kernels import tree_attention
from spec_jax.models import attention
from spec_jax.models import config as config_lib
from spec_jax.models import products

_ACTIVATIONS = {
    "swiglu": jax.nn.silu,
    "geglu": functools.partial(jax.nn.gelu, approximate=True),
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
}
_GATED = ("swiglu", "geglu")
# Leading axes of a layer's kernels that are inputs, by the linear map's name.
INPUT_AXES = {"qkv": 1, "out": 3, "up": 1, "down": 1}


class Norm(nn.Module):
  """RMS norm (scale w or 1 + w) or LayerNorm, computed in float32."""

  kind: str
  eps: float

  @nn.compact
  def __call__(self, x):
    width = x.shape[-1]
    wide = x.astype(jnp.float32)
    init = nn.initializers.zeros if self.kind == "rms_plus_one" else (
        nn.initializers.ones)
    scale = self.param("scale", init, (width,), jnp.float32)
    if self.kind == "rms_plus_one":
      scale = 1.0 + scale.astype(jnp.float32)
    if self.kind == "layer":
      wide = wide - wide.mean(-1, keepdims=True)
    wide = wide * jax.lax.rsqrt((wide * wide).mean(-1, keepdims=True)
                                + self.eps)
    wide = wide * _like(scale, wide)
    if self.kind == "layer":
      bias = self.param("bias", nn.initializers.zeros, (width,), jnp.float32)
      wide += _like(bias, wide)
    return wide.astype(x.dtype)


def _like(vector, x):
  """`vector` with leading axes added, to the rank of `x`."""
  return vector.reshape((1,) * (x.ndim - vector.ndim) + vector.shape)


class Linear(nn.Module):
  """`x @ kernel + bias`; the kernel keeps its structure `in + out` in shape.

  One matrix product whatever the shape: fused projections cost one dispatch,
  and the head axis stays visible to a sharding.
  """

  in_shape: tuple[int, ...]
  out_shape: tuple[int, ...]
  use_bias: bool
  dtype: jnp.dtype
  init_scale: float = 1.0

  @nn.compact
  def __call__(self, x):
    num_in = len(self.in_shape)
    init = nn.initializers.variance_scaling(
        self.init_scale, "fan_in", "normal", in_axis=tuple(range(num_in)),
        out_axis=tuple(range(num_in, num_in + len(self.out_shape))))
    kernel = self.param(
        "kernel", init, self.in_shape + self.out_shape, jnp.float32)
    y = products.matmul(x, kernel, num_in)
    if self.use_bias:
      bias = self.param(
          "bias", nn.initializers.zeros, self.out_shape, jnp.float32)
      y += _like(bias.astype(self.dtype), y)
    return y


class Attention(nn.Module):
  """Grouped-query self-attention; returns its output and the fresh KV."""

  config: config_lib.DecoderConfig
  dtype: jnp.dtype
  backend: str

  @nn.compact
  def __call__(self, x, angles, scope, past):
    c = self.config
    heads, groups, size = c.num_kv_heads, c.num_groups, c.head_dim
    qkv = Linear((x.shape[-1],), (heads, groups + 2, size), c.qkv_bias,
                 self.dtype, name="qkv")(x)
    queries, keys, values = jnp.split(qkv, [groups, groups + 1], axis=3)
    if c.qk_norm:
      queries = Norm("rms", c.norm_eps, name="q_norm")(queries)
      keys = Norm("rms", c.norm_eps, name="k_norm")(keys)
    if angles is not None:
      queries = attention.rotate(queries, angles)
      keys = attention.rotate(keys, angles)
    scale = size ** -0.5 if c.query_scale is None else c.query_scale
    queries = (queries * scale).astype(self.dtype).swapaxes(1, 2)
    # Heads before tokens: that is the layout in which the cache is read.
    keys, values = (a[:, :, :, 0].swapaxes(1, 2) for a in (keys, values))
    all_keys, all_values = keys, values
    if past is not None:
      all_keys = jnp.concatenate([past[0].astype(keys.dtype), keys], axis=2)
      all_values = jnp.concatenate(
          [past[1].astype(values.dtype), values], axis=2)
    mixed = attention.two_segment_attention(
        queries, all_keys, all_values, scope.fresh_mask, scope.prefix,
        scope.positions, scope.window, c.attn_softcap, self.backend)
    out = Linear((heads, groups, size), (c.d_model,), c.out_bias, self.dtype,
                 1.0 / c.num_layers, name="out")(mixed.swapaxes(1, 2))
    return out, keys, values


class FeedForward(nn.Module):
  """Gated or plain feed-forward sub-layer."""

  config: config_lib.DecoderConfig
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x):
    c = self.config
    act = _ACTIVATIONS[c.mlp]
    ways = 2 if c.mlp in _GATED else 1
    hidden = Linear((c.d_model,), (ways, c.d_ff), c.mlp_bias, self.dtype,
                    name="up")(x)
    hidden = act(hidden[..., 0, :]) * (hidden[..., 1, :] if ways == 2 else 1)
    return Linear((c.d_ff,), (c.d_model,), c.mlp_bias, self.dtype,
                  1.0 / c.num_layers, name="down")(hidden)


class Block(nn.Module):
  """Pre-norm attention and feed-forward, each with a run-time gate."""

  config: config_lib.DecoderConfig
  dtype: jnp.dtype
  backend: str

  def setup(self):
    c = self.config
    norm = functools.partial(Norm, c.norm, c.norm_eps)
    self.attn_norm = norm()
    if c.post_norms:
      self.attn_post_norm = norm()
    self.attn = Attention(c, self.dtype, self.backend)
    if c.mlp == "none":
      return
    self.mlp_norm = norm()
    if c.post_norms:
      self.mlp_post_norm = norm()
    self.mlp = FeedForward(c, self.dtype)

  def attend(self, x, angles, scope, past):
    out, keys, values = self.attn(self.attn_norm(x), angles, scope, past)
    if self.config.post_norms:
      out = self.attn_post_norm(out)
    return x + out, keys, values

  def feed(self, x):
    if self.config.mlp == "none":
      return x
    out = self.mlp(self.mlp_norm(x))
    if self.config.post_norms:
      out = self.mlp_post_norm(out)
    return x + out

  def __call__(self, x, angles, scope, past, gate):
    if gate is None or self.is_initializing():
      x, keys, values = self.attend(x, angles, scope, past)
      return self.feed(x), keys, values
    c = self.config
    shape = (x.shape[0], c.num_kv_heads, x.shape[1], c.head_dim)
    skipped = jnp.zeros(shape, self.dtype)
    attended, keys, values = nn.cond(
        gate[..., 0].any(),
        lambda m, x: m.attend(x, angles, scope, past),
        lambda m, x: (x, skipped, skipped), self, x)
    x = _where_open(gate[..., 0], attended, x)
    fed = nn.cond(gate[..., 1].any(), lambda m, x: m.feed(x),
                  lambda m, x: x, self, x)
    return _where_open(gate[..., 1], fed, x), keys, values


def _where_open(gate, new, old):
  """Row by row where `gate` is `bool[B]`, for all rows where it is a scalar."""
  return jnp.where(gate.reshape(-1, 1, 1), new, old)


class Decoder(nn.Module):
  """Maps fresh tokens, given a read-only cache, to logits and fresh KV.

  Use it through `spec_jax.models.contract.LinenModel`.
  """

  config: config_lib.DecoderConfig
  dtype: jnp.dtype = jnp.float32
  backend: str = "auto"  # Of attention, see `kernels.backend.BACKENDS`.

  def setup(self):
    c = self.config
    init = nn.initializers.normal(0.02)
    self.embedding = self.param(
        "embedding", init, (c.vocab_size, c.d_model), jnp.float32)
    if c.positions == "learned":
      self.position_embedding = self.param(
          "position_embedding", init,
          (c.max_positions + c.position_offset, c.d_model), jnp.float32)
    self.layers = [Block(c, self.dtype, self.backend)
                   for _ in range(c.num_layers)]
    self.final_norm = Norm(c.norm, c.norm_eps)
    if not c.tie_embeddings:
      self.head = self.param("head", init, (c.vocab_size, c.d_model),
                             jnp.float32)

  def __call__(self, tokens, positions, mask, cache=None, past=None,
               embeds=None, taps=(), gates=None, with_logits=True, layers=None):
    """See `spec_jax.core.protocols.TargetModel.forward`."""
    c = self.config
    first, stop = layers or (0, c.num_layers)
    x = self.embed(tokens) if embeds is None else embeds.astype(self.dtype)
    if c.positions == "learned" and first == 0:
      x += self.position_embedding[
          positions + c.position_offset].astype(self.dtype)
    angles = angles_of(c, positions)
    features = {first: x} if first in taps else {}
    keys, values = [], []
    masks = FreshMasks(positions, mask, past)
    for i, layer in enumerate(self.layers[first:stop], first):
      x, k, v = layer(
          x, angles, Scope(masks.get(c.window(i)), prefix_of(cache, i),
                            positions, c.window(i)),
          None if past is None else (past.k[i - first], past.v[i - first]),
          None if gates is None else gates[..., i, :])
      keys.append(k)
      values.append(v)
      if i + 1 in taps:
        features[i + 1] = x
    x = self.final_norm(x)
    if "final" in taps:
      features["final"] = x
    fresh = types.FreshKV(tuple(keys), tuple(values), positions)
    logits = self.unembed(x) if with_logits else None
    return types.ModelOut(logits, fresh, features)

  def run_layer(self, layer, x, positions, mask, cache):
    """One block alone: `[B, T, E]` -> `[B, T, E]`; arguments as the whole."""
    window = self.config.window(layer)
    scope = Scope(FreshMasks(positions, mask, None).get(window),
                   prefix_of(cache, layer), positions, window)
    return self.layers[layer](
        x, angles_of(self.config, positions), scope, None, None)[0]

  def read_out(self, x):
    """Logits of a residual stream `[..., E]` at any depth."""
    return self.unembed(self.final_norm(x))

  def embed(self, tokens):
    """`i32[B, T]` -> `[B, T, E]`, scaled as the architecture asks."""
    x = self.embedding[tokens].astype(self.dtype)
    if self.config.embed_scale != 1.0:
      x = x * jnp.asarray(self.config.embed_scale, self.dtype)
    return x

  def unembed(self, x, ids=None):
    """Normalised features `[..., E]` -> logits `f32[..., V]`.

    With `ids` `i32[Z]` those of these tokens only, `f32[..., Z]`.
    """
    c = self.config
    head = self.embedding if c.tie_embeddings else self.head
    head = head if ids is None else head[ids]
    logits = products.logits(x, head)
    if c.final_softcap:
      logits = c.final_softcap * jnp.tanh(logits / c.final_softcap)
    if c.real_vocab_size is not None:
      ids = jnp.arange(c.vocab_size) if ids is None else ids
      is_token = ids < c.real_vocab_size
      logits = jnp.where(_like(is_token, logits), logits, -jnp.inf)
    return logits


def angles_of(config, positions):
  """Rotary angles `f32[B, T, C/2]`; None where positions are learned."""
  if config.positions != "rope":
    return None
  frequencies = attention.rope_frequencies(
      config.head_dim, config.rope_theta, config.rope_scaling)
  return _like(frequencies, positions[..., None]) * (
      positions[..., None].astype(jnp.float32))


class Scope(NamedTuple):
  """What the fresh tokens of a layer may look at."""

  fresh_mask: jax.Array
  prefix: tree_attention.Prefix | None
  positions: jax.Array
  window: int


def prefix_of(cache, layer):
  """What a layer's attention may read of a cache; None of no cache."""
  if cache is None:
    return None
  keys, values, *table = cache.view(layer)
  return tree_attention.Prefix(keys, values, cache.length, *table)


class FreshMasks:
  """Who sees whom, per sliding window; each mask is built once."""

  def __init__(self, positions, mask, past):
    self._positions, self._past = positions, past
    self._masks = {0: mask}

  def get(self, window):
    if window not in self._masks:
      keys = self._positions
      if self._past is not None:
        keys = jnp.concatenate([self._past.positions, keys], axis=1)
      distance = self._positions[:, :, None] - keys[:, None, :]
      self._masks[window] = self._masks[0] & (distance < window)
    return self._masks[window]
