"""Feature nets whose forward also speaks for tokens further ahead.

What is said of a token after the next one cannot know the next one: it is one
law for all that may be drafted in between.
"""

from collections.abc import Mapping
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from spec_jax.models import config as config_lib
from spec_jax.models import decoder
from spec_jax.models import feature_net

# What is handed on besides guesses: the second guess; what the fusion said of
# the node above and of the node itself.
_RIGHT = "right"
_FUSED = "fused"


class Experts(nn.Module):
  """Feed-forward sub-layers, two of which are combined in two ways.

  Jakiro (Huang et al. 2025, arXiv 2502.06282) and repository: a gate weighs the
  experts once for the next position and once for the one after. The first
  output is the weighted sum of the best two, the second their difference, the
  larger weight first.

  Attributes:
    config: of each expert.
    num_experts: at least two.
    dtype: of computation.
  """

  config: config_lib.DecoderConfig
  num_experts: int
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x):
    """`f[B, T, E]` -> two of that shape."""
    found = jnp.stack([
        decoder.FeedForward(self.config, self.dtype, name=f"experts_{i}")(x)
        for i in range(self.num_experts)], axis=-2)
    gate = decoder.Linear((x.shape[-1],), (2, self.num_experts), False,
                          self.dtype, name="gate")(x)
    best, which = jax.lax.top_k(gate, 2)
    weights = jax.nn.softmax(best, axis=-1)
    picked = jnp.take_along_axis(
        found[..., None, :, :], which[..., None], axis=-2)
    terms = weights[..., None] * picked
    return terms[..., 0, :, :].sum(-2), terms[..., 1, 0, :] - (
        terms[..., 1, 1, :])


class DecoupledBlock(feature_net.FeatureBlock):
  """A layer with two outputs, see `Experts`."""

  num_experts: int = 2

  def make_mlp(self):
    return Experts(self.config, self.num_experts, self.dtype)

  def feed(self, x):
    left, right = self.mlp(self.mlp_norm(x))
    return x + left, x + right


class DecoupledNet(feature_net.FeatureNet):
  """Guesses the next feature, and the one after it without the token between.

  Jakiro (Huang et al. 2025, arXiv 2502.06282): the last layer is a mixture of
  experts which answers both from one attention.

  Attributes:
    num_experts: of the last layer.
  """

  num_experts: int = 2
  num_ahead: ClassVar[int] = 1

  def make_layer(self, index):
    if index + 1 < self.config.num_layers:
      return super().make_layer(index)
    return DecoupledBlock(self.config, index > 0, self.dtype, self.backend,
                          self.num_experts)

  def say(self, x, fused, features):
    del fused, features
    left, right = x
    return {feature_net.HIDDEN: left, _RIGHT: right}

  def ahead(self, said):
    """`f[B, T, 1, E]` of what a forward said."""
    return said[_RIGHT][:, :, None]


class ParallelHeads(nn.Module):
  """Heads that read two vectors and guess the features of later tokens.

  Each is `silu(A c)`, then residual blocks `z + silu(B z + b)`; all linear maps
  start at zero, as in Gumiho's repository.

  Attributes:
    num_heads: K.
    num_blocks: of each head.
    width: E.
    dtype: of computation.
  """

  num_heads: int
  num_blocks: int
  width: int
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x):
    """`f[B, T, 2 E]` -> `f[B, T, K, E]`."""
    def linear(name, x):
      shape = (self.num_heads, x.shape[-1], self.width)
      kernel = self.param(
          f"{name}_kernel", nn.initializers.zeros, shape, jnp.float32)
      bias = self.param(f"{name}_bias", nn.initializers.zeros,
                        (self.num_heads, self.width), jnp.float32)
      return nn.silu(jnp.einsum(
          "btke,kef->btkf", x, kernel.astype(self.dtype))
                     + bias.astype(self.dtype)[None, None])

    x = jnp.broadcast_to(
        x[:, :, None], x.shape[:2] + (self.num_heads, x.shape[2]))
    z = linear("enter", x)
    for block in range(self.num_blocks):
      z = z + linear(f"block_{block}", z)
    return z


class HybridNet(feature_net.FeatureNet):
  """Guesses two features one after the other, and all later ones at once.

  Gumiho (Li et al. 2025, arXiv 2503.10135), Sec. 3: parallel heads read what
  the fusion said in two forwards, of a node and of the one above it.

  Attributes:
    num_heads: features that are guessed at once.
    num_blocks: residual blocks of each head.
  """

  num_heads: int = 5
  num_blocks: int = 5
  num_serial: ClassVar[int] = 2

  @property
  def num_ahead(self) -> int:
    return self.num_heads

  def setup(self):
    super().setup()
    self.heads = ParallelHeads(
        self.num_heads, self.num_blocks, self.config.d_model, self.dtype)

  def say(self, x, fused, features):
    # What was said above; there is nothing above a committed pair.
    before = features.get(_FUSED) if isinstance(features, Mapping) else None
    before = jnp.zeros_like(fused) if before is None else (
        before[..., fused.shape[-1]:])
    return {feature_net.HIDDEN: x,
            _FUSED: jnp.concatenate([before, fused], axis=-1)}

  def ahead(self, said):
    """`f[B, T, K, E]` of what a forward said."""
    return self.heads(said[_FUSED])
