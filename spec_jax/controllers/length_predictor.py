"""AdaEAGLE: how far to draft, said by the target's feature before drafting."""

import flax.linen as nn
import jax
import jax.numpy as jnp


class LengthPredictor(nn.Module):
  """Residual blocks `x + silu(W x + b)`, then one number: accepted drafts.

  Zhang et al. 2024 (arXiv 2412.18910), Sec. 3.

  Attributes:
    num_blocks: of the residual kind.
  """

  num_blocks: int = 3

  @nn.compact
  def __call__(self, embeds: jax.Array, features: jax.Array) -> jax.Array:
    """Of a token, both `[..., E]`, -> `f32[...]`."""
    x = jnp.concatenate([embeds, features], axis=-1).astype(jnp.float32)
    for i in range(self.num_blocks):
      x = x + nn.silu(nn.Dense(x.shape[-1], name=f"block_{i}")(x))
    return nn.Dense(1, name="out")(x)[..., 0]
