"""How a feature net reads a token's embedding and the feature before it.

Each maps both, `f[B, T, E]` each, to what the layers read and what they add to.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp

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


class Sample(nn.Module):
  """The token says which of many aspects of the feature count.

  FSPAD (Gui et al. 2024, arXiv 2408.15562), feature sampling: in a wider space
  the embedding gates what the feature holds; the rest adds to the feature.
  """

  config: config_lib.DecoderConfig
  use_bias: bool
  dtype: jnp.dtype
  widening: ClassVar[int] = 2

  @nn.compact
  def __call__(self, embeds, features):
    narrow = (self.config.d_model,)
    wide = (self.widening * self.config.d_model,)
    linear = lambda name, inner, outer, x: decoder.Linear(
        inner, outer, self.use_bias, self.dtype, name=name)(x)
    aspects = linear("aspects", (features.shape[-1],), wide, features)
    gate = linear("gate", (embeds.shape[-1],), wide, embeds)
    x = features + linear("sample", wide, narrow, aspects * nn.silu(gate))
    return x, x


FUSIONS: Mapping[str, type[nn.Module]] = MappingProxyType({
    "project": Project, "attend": Attend, "attend_normed": AttendNormed,
    "sample": Sample})
