"""A feature net whose layers take turns, one for each stretch of levels."""

from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp

from spec_jax.core import types
from spec_jax.models import decoder
from spec_jax.models import feature_net


class SpecialistNet(feature_net.FeatureNet):
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
                            feature_net.guess_of(features).astype(self.dtype))
    angles = decoder.angles_of(self.config, positions)
    last = self.config.num_layers - 1
    chosen = 0 if level is None else jnp.minimum(level // self.span, last)
    shape = (x.shape[0], self.config.num_kv_heads, x.shape[1],
             self.config.head_dim)
    nothing = jnp.zeros(shape, self.dtype)
    guess, keys, values = residual, [], []
    for i, layer in enumerate(self.layers):
      around = feature_net.surroundings(i, positions, mask, cache, past)
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
    return {feature_net.HIDDEN: guess}, types.FreshKV(
        tuple(keys), tuple(values), positions)
