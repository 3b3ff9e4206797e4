"""Networks that guess the target's next feature from the last one.

All of them are `[E(next token); feature] -> fusion -> layers -> next feature`,
as in EAGLE (Li et al. 2024, arXiv 2401.15077, Sec. 4.1), with a fusion and an
output head of their own. A *pair* i is the feature of token i and token i + 1.
"""

from collections.abc import Mapping
from typing import Any
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from spec_jax.core import types
from spec_jax.models import config as config_lib
from spec_jax.models import decoder
from spec_jax.models import fusions

# What a net says of each pair, by name: its guess of the token's feature, and
# what the output head reads where that is something else.
HIDDEN = "hidden"
SPOKEN = "spoken"


class FeatureBlock(nn.Module):
  """A decoder layer whose attention may read something else than it adds to.

  Attributes:
    config: of the layers.
    has_norm: whether the attention's input is normalised here; the first layer
      of a draft net gets it from the fusion, as it is.
    dtype: of computation.
    backend: of attention.
  """

  config: config_lib.DecoderConfig
  has_norm: bool
  dtype: jnp.dtype
  backend: str

  def setup(self):
    c = self.config
    if self.has_norm:
      self.attn_norm = decoder.Norm(c.norm, c.norm_eps)
    self.attn = decoder.Attention(c, self.dtype, self.backend)
    self.mlp_norm = decoder.Norm(c.norm, c.norm_eps)
    self.mlp = self.make_mlp()

  def make_mlp(self) -> nn.Module:
    """What follows the attention; the network it is part of reads it."""
    return decoder.FeedForward(self.config, self.dtype)

  def __call__(self, x, residual, angles, scope, past):
    if self.has_norm:
      x = self.attn_norm(x)
    out, keys, values = self.attn(x, angles, scope, past)
    x = residual + out
    return self.feed(x), keys, values

  def feed(self, x):
    """The second half of the layer."""
    return x + self.mlp(self.mlp_norm(x))


class FeatureNet(nn.Module):
  """Maps pairs, given those before, to the next features and fresh KV.

  Attributes:
    config: of the layers; `d_model` is the width of what is handed on.
    taps: target features it reads; several are mapped to one by `enter`.
    fusion: by `fusions.FUSIONS`.
    use_bias: of "project".
    tap_scale: what several taps are divided by before they are mapped; a
      residual stream may be a hundred times larger than what a step of the
      optimiser is made for. It only scales that map's weights.
    head_size: rows of an output head of its own (with a norm before it); 0
      where the target's head reads the features.
    dtype: of computation.
    backend: of attention, see `kernels.backend.BACKENDS`.
  """

  config: config_lib.DecoderConfig
  taps: tuple[Any, ...] = ("final",)
  fusion: str = "project"
  use_bias: bool = True
  tap_scale: float = 1.0
  head_size: int = 0
  dtype: jnp.dtype = jnp.float32
  backend: str = "auto"
  is_parallel: ClassVar[bool] = False
  # Guesses of later features that one forward gives, and after how many
  # forwards of a round they may be read.
  num_ahead: ClassVar[int] = 0
  num_serial: ClassVar[int] = 1

  def setup(self):
    c = self.config
    if self.fusion not in fusions.FUSIONS:
      raise ValueError(
          f"fusion={self.fusion!r}, expected one of {tuple(fusions.FUSIONS)}.")
    if c.positions != "rope":
      raise ValueError(f"positions={c.positions!r}, expected 'rope'.")
    self.fuse = fusions.FUSIONS[self.fusion](c, self.use_bias, self.dtype)
    self.layers = [self.make_layer(i) for i in range(c.num_layers)]
    if len(self.taps) > 1:
      self.entry = Entry(c.d_model, self.dtype)
    if self.head_size:
      self.head_norm = decoder.Norm(c.norm, c.norm_eps)
      self.head = self.param("head", nn.initializers.normal(0.02),
                             (self.head_size, c.d_model), jnp.float32)

  def make_layer(self, index: int) -> nn.Module:
    """The layer of that number, from 0."""
    return FeatureBlock(self.config, index > 0 and not self.is_parallel,
                        self.dtype, self.backend)

  def __call__(self, embeds, features, positions, mask, cache=None, past=None,
               level=None):
    """Runs fresh pairs against a read-only cache of earlier ones.

    Args:
      embeds: `f[B, T, E]`, of the tokens.
      features: `f[B, T, E]`, of the token before each, from `enter`; or all
        that this network said of it.
      positions: `i32[B, T]`, of the features.
      mask: `bool[B, T, F]`, see `core.protocols.TargetModel`.
      cache: of committed pairs, or None.
      past: in-flight keys and values, or None.
      level: of the tokens below the root; None of committed pairs.

    Returns:
      What it says of the tokens by name, each `[B, T, ...]`, under `HIDDEN`
      guesses of their features `f[B, T, E]`; and `types.FreshKV`.
    """
    del level
    fused, residual = self.fuse(embeds.astype(self.dtype),
                                guess_of(features).astype(self.dtype))
    x = fused
    angles = decoder.angles_of(self.config, positions)
    keys, values = [], []
    for i, layer in enumerate(self.layers):
      x, k, v = layer(x, residual, angles, *surroundings(
          i, positions, mask, cache, past))
      residual = x
      keys.append(k)
      values.append(v)
    return self.say(x, fused, features), types.FreshKV(
        tuple(keys), tuple(values), positions)

  def say(self, x, fused, features) -> dict[str, jax.Array]:
    """What is said, given the last layer's output, the fusion's, the input."""
    del fused, features
    return {HIDDEN: x}

  def enter(self, features):
    """The target's features by tap -> what a pair holds, `f[B, T, E]`."""
    if len(self.taps) == 1:
      return features[self.taps[0]].astype(self.dtype)
    return self.entry(jnp.concatenate(
        [features[name].astype(self.dtype) for name in self.taps], axis=-1)
                      / jnp.asarray(self.tap_scale, self.dtype))

  def ahead(self, said: dict[str, jax.Array]) -> jax.Array:
    """Guesses of features further ahead, `f[B, T, K, E]`, if there are any."""
    raise NotImplementedError

  def everything(self, embeds, features, positions, mask):
    """Uses every parameter once; what `init` traces."""
    said, _ = self(embeds, self.enter(features), positions, mask)
    if self.num_ahead:
      self.ahead(said)
    return self.logits(said[HIDDEN]) if self.head_size else said

  def logits(self, x):
    """Features `f[..., E]` -> `f32[..., head_size]`."""
    return self.project(self.head_norm(x))

  def project(self, x):
    """What the net's own head says of normalised features."""
    return jax.lax.dot_general(
        x, self.head.astype(self.dtype), (((x.ndim - 1,), (1,)), ((), ())),
        preferred_element_type=jnp.float32)


def guess_of(features: Any) -> jax.Array:
  """The features among what a net was given, see `FeatureNet.__call__`."""
  return features[HIDDEN] if isinstance(features, Mapping) else features


def surroundings(layer, positions, mask, cache, past):
  """What the attention of a layer may look at."""
  scope = decoder.Scope(
      mask, decoder.prefix_of(cache, layer), positions, window=0)
  return scope, None if past is None else (past.k[layer], past.v[layer])


class Entry(nn.Module):
  """Several features of the target to one, without a bias (EAGLE-3)."""

  width: int
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x):
    return decoder.Linear((x.shape[-1],), (self.width,), False, self.dtype,
                          name="entry")(x)
