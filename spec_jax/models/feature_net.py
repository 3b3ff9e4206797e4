"""Networks that guess the target's next feature from the last one.

All of them are `[E(next token); feature] -> fusion -> layers -> next feature`,
as in EAGLE (Li et al. 2024, arXiv 2401.15077, Sec. 4.1), with a fusion and an
output head of their own. A *pair* i is the feature of token i and token i + 1.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from spec_jax.core import types
from spec_jax.models import config as config_lib
from spec_jax.models import decoder


class Project(nn.Module):
  """One linear map of both; what the layers add to and what they read.

  EAGLE-1 (arXiv 2401.15077), Sec. 4.1; embedding first, as in its repository.
  """

  config: config_lib.DecoderConfig
  use_bias: bool
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, embeds, features):
    both = jnp.concatenate([embeds, features], axis=-1)
    x = decoder.Linear((both.shape[-1],), (self.config.d_model,),
                       self.use_bias, self.dtype, name="project")(both)
    return x, x


class Attend(nn.Module):
  """The first attention reads both, normalised; the layers add to the feature.

  EAGLE-3 (Li et al. 2025, arXiv 2503.01840), Sec. 3.1 and repository.
  """

  config: config_lib.DecoderConfig
  use_bias: bool
  dtype: jnp.dtype
  has_normed_residual: ClassVar[bool] = False

  @nn.compact
  def __call__(self, embeds, features):
    c = self.config
    both = [decoder.Norm(c.norm, c.norm_eps, name="embed_norm")(embeds),
            decoder.Norm(c.norm, c.norm_eps, name="feature_norm")(features)]
    return jnp.concatenate(both, axis=-1), (
        both[1] if self.has_normed_residual else features)


class AttendNormed(Attend):
  """The layers add to the normalised feature: `norm_before_residual`."""

  has_normed_residual: ClassVar[bool] = True


FUSIONS: Mapping[str, type[nn.Module]] = MappingProxyType({
    "project": Project, "attend": Attend, "attend_normed": AttendNormed})


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

  @nn.compact
  def __call__(self, x, residual, angles, scope, past):
    c = self.config
    if self.has_norm:
      x = decoder.Norm(c.norm, c.norm_eps, name="attn_norm")(x)
    out, keys, values = decoder.Attention(
        c, self.dtype, self.backend, name="attn")(x, angles, scope, past)
    x = residual + out
    fed = decoder.Norm(c.norm, c.norm_eps, name="mlp_norm")(x)
    return x + decoder.FeedForward(c, self.dtype, name="mlp")(fed), keys, values


class FeatureNet(nn.Module):
  """Maps pairs, given those before, to the next features and fresh KV.

  Attributes:
    config: of the layers; `d_model` is the width of what is handed on.
    taps: target features it reads; several are mapped to one by `enter`.
    fusion: by `FUSIONS`.
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

  def setup(self):
    c = self.config
    if self.fusion not in FUSIONS:
      raise ValueError(
          f"fusion={self.fusion!r}, expected one of {tuple(FUSIONS)}.")
    if c.positions != "rope":
      raise ValueError(f"positions={c.positions!r}, expected 'rope'.")
    self.fuse = FUSIONS[self.fusion](c, self.use_bias, self.dtype)
    self.layers = [
        FeatureBlock(c, i > 0 and not self.is_parallel, self.dtype,
                     self.backend) for i in range(c.num_layers)]
    if len(self.taps) > 1:
      self.entry = Entry(c.d_model, self.dtype)
    if self.head_size:
      self.head_norm = decoder.Norm(c.norm, c.norm_eps)
      self.head = self.param("head", nn.initializers.normal(0.02),
                             (self.head_size, c.d_model), jnp.float32)

  def __call__(self, embeds, features, positions, mask, cache=None, past=None,
               level=None):
    """Runs fresh pairs against a read-only cache of earlier ones.

    Args:
      embeds: `f[B, T, E]`, of the tokens.
      features: `f[B, T, E]`, of the token before each, from `enter` or from
        this network.
      positions: `i32[B, T]`, of the features.
      mask: `bool[B, T, F]`, see `core.protocols.TargetModel`.
      cache: of committed pairs, or None.
      past: in-flight keys and values, or None.
      level: of the tokens below the root; None of committed pairs.

    Returns:
      `f[B, T, E]`, guesses of the features of the tokens, and `types.FreshKV`.
    """
    del level
    x, residual = self.fuse(embeds.astype(self.dtype),
                            features.astype(self.dtype))
    angles = decoder.angles_of(self.config, positions)
    keys, values = [], []
    for i, layer in enumerate(self.layers):
      x, k, v = layer(x, residual, angles, *_surroundings(
          i, positions, mask, cache, past))
      residual = x
      keys.append(k)
      values.append(v)
    return x, types.FreshKV(tuple(keys), tuple(values), positions)

  def enter(self, features):
    """The target's features by tap -> what a pair holds, `f[B, T, E]`."""
    if len(self.taps) == 1:
      return features[self.taps[0]].astype(self.dtype)
    return self.entry(jnp.concatenate(
        [features[name].astype(self.dtype) for name in self.taps], axis=-1)
                      / jnp.asarray(self.tap_scale, self.dtype))

  def everything(self, embeds, features, positions, mask):
    """Uses every parameter once; what `init` traces."""
    x, _ = self(embeds, self.enter(features), positions, mask)
    return self.logits(x) if self.head_size else x

  def logits(self, x):
    """Features `f[..., E]` -> `f32[..., head_size]`."""
    x = self.head_norm(x)
    return jax.lax.dot_general(
        x, self.head.astype(self.dtype), (((x.ndim - 1,), (1,)), ((), ())),
        preferred_element_type=jnp.float32)


class SpecialistNet(FeatureNet):
  """A layer for each stretch of levels, all reading what the fusion says.

  PosS (Huang et al. 2025, arXiv 2506.03566), Sec. 3: guesses are the less
  reliable the deeper they are, and each specialist learns one range of that.
  Each has keys and values of all committed pairs and of the nodes above its
  own; layers of levels that have passed are not run.

  Attributes:
    span: levels per specialist; `config.num_layers` of them.
  """

  span: int = 1
  is_parallel: ClassVar[bool] = True

  def __call__(self, embeds, features, positions, mask, cache=None, past=None,
               level=None):
    """As `FeatureNet`; committed pairs get the guesses of the first."""
    x, residual = self.fuse(embeds.astype(self.dtype),
                            features.astype(self.dtype))
    angles = decoder.angles_of(self.config, positions)
    last = self.config.num_layers - 1
    chosen = 0 if level is None else jnp.minimum(level // self.span, last)
    shape = (x.shape[0], self.config.num_kv_heads, x.shape[1],
             self.config.head_dim)
    nothing = jnp.zeros(shape, self.dtype)
    guess, keys, values = residual, [], []
    for i, layer in enumerate(self.layers):
      around = _surroundings(i, positions, mask, cache, past)
      run = lambda m, x, i=i, around=around: m.layers[i](
          x, residual, angles, *around)
      if level is None or self.is_initializing():
        out, k, v = layer(x, residual, angles, *around)
      else:
        out, k, v = nn.cond(
            i >= chosen, run, lambda m, x: (residual, nothing, nothing), self,
            x)
      guess = jnp.where(chosen == i, out, guess)
      keys.append(k)
      values.append(v)
    return guess, types.FreshKV(tuple(keys), tuple(values), positions)


def _surroundings(layer, positions, mask, cache, past):
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
