"""A feature net that guesses a block of features at once.

Falcon (Gao et al. 2024, arXiv 2412.12639): a pair i, the feature of token i and
token i + 1, leads to a guess of the feature of token i + k. Pairs are read by a
recurrence, then by one attention layer in which all pairs of a block of k see
each other and everything before the block (relaxed causal). Keys and values of
a pair depend on the pairs up to it alone, so blocks may begin anywhere.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from spec_jax.core import types
from spec_jax.models import decoder
from spec_jax.models import feature_net

MEMORY = "memory"


class Recurrence(nn.Module):
  """LSTM layers.

  Attributes:
    width: E, of every layer.
    num_layers: R.
    dtype: of computation.
  """

  width: int
  num_layers: int
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x, memory):
    """Reads sequences on from what was remembered.

    Args:
      x: `f[B, W, K, I]`, W sequences of K steps.
      memory: `f[B, W, R, 2, E]`, by layer its output and its cell.

    Returns:
      `f[B, W, K, E]`, and the memory after each step, `f[B, W, K, R, 2, E]`.
    """
    kept = []
    for layer in range(self.num_layers):
      gates = decoder.Linear((x.shape[-1],), (4 * self.width,), True,
                             self.dtype, name=f"read_{layer}")(x)
      recur = self.param(
          f"recur_{layer}", nn.initializers.orthogonal(),
          (self.width, 4 * self.width), jnp.float32).astype(self.dtype)

      def step(carry, given, recur=recur):
        out, cell = carry
        let_in, keep, new, show = jnp.split(given + out @ recur, 4, axis=-1)
        # What is remembered is kept unless something says otherwise.
        cell = (nn.sigmoid(keep + 1) * cell
                + nn.sigmoid(let_in) * jnp.tanh(new))
        carry = nn.sigmoid(show) * jnp.tanh(cell), cell
        return carry, jnp.stack(carry, axis=-2)

      start = memory[:, :, layer, 0], memory[:, :, layer, 1]
      found = jax.lax.scan(step, start, jnp.moveaxis(gates, 2, 0))[1]
      found = jnp.moveaxis(found, 0, 2)
      x = found[..., 0, :]
      kept.append(found)
    return x, jnp.stack(kept, axis=3)


class BlockNet(feature_net.FeatureNet):
  """Maps blocks of pairs to guesses k tokens further on.

  Attributes:
    block: k.
    num_recurrent: layers of the recurrence; 0 for EAGLE's linear map instead.
  """

  block: int = 2
  num_recurrent: int = 2

  def setup(self):
    super().setup()
    if self.config.num_layers != 1:
      raise ValueError(
          f"num_layers={self.config.num_layers}, expected 1: deeper ones would"
          " see the blocks of committed pairs.")
    if self.num_recurrent:
      self.recur = Recurrence(
          self.config.d_model, self.num_recurrent, self.dtype)

  def __call__(self, embeds, features, positions, mask, cache=None, past=None,
               memory=None):
    """Runs sequences of fresh pairs.

    Args:
      embeds: `f[B, W, K, E]`, of the tokens.
      features: `f[B, W, K, E]`, of the token before each.
      positions: `i32[B, W K]`, of the features.
      mask: `bool[B, W K, F]`.
      cache: of committed pairs, or None.
      past: in-flight keys and values, or None.
      memory: `f[B, W, R, 2, E]`, of the pairs before each sequence; None for
        none.

    Returns:
      By name, guesses `f[B, W, K, E]` of the features k tokens further on than
      those read, and `MEMORY` after each pair; fresh keys and values of W K
      pairs.
    """
    batch, num, size, _ = embeds.shape
    flat = lambda a: a.reshape(batch, num * size, -1)
    if memory is None:
      memory = self.blank(batch, num)
    if self.num_recurrent:
      both = jnp.concatenate([embeds, features], axis=-1).astype(self.dtype)
      x, memory = self.recur(both, memory)
      x = residual = flat(x)
    else:
      x, residual = self.fuse(
          flat(embeds).astype(self.dtype), flat(features).astype(self.dtype))
      memory = jnp.zeros((batch, num, size) + memory.shape[2:], self.dtype)
    out, keys, values = self.layers[0](
        x, residual, decoder.angles_of(self.config, positions),
        *feature_net.surroundings(0, positions, mask, cache, past))
    return {feature_net.HIDDEN: out.reshape(batch, num, size, -1),
            MEMORY: memory}, types.FreshKV((keys,), (values,), positions)

  def blank(self, batch: int, num: int) -> jax.Array:
    """The memory of nothing, `f[B, W, R, 2, E]`."""
    return jnp.zeros((batch, num, self.num_recurrent, 2, self.config.d_model),
                     self.dtype)

  def everything(self, embeds, features, positions, mask):
    return self(embeds[:, None], self.enter(features)[:, None], positions,
                mask)


def end_of_block(pairs: jax.Array, block: int, offset) -> jax.Array:
  """The last pair of the block that each of some pairs is in, `i32[...]`.

  Args:
    pairs: `i32[...]`, numbers from 0.
    block: k.
    offset: a pair that a block begins with; may be traced.
  """
  return offset + block * ((pairs - offset) // block + 1) - 1


def relaxed_mask(width: int, block: int, offset) -> jax.Array:
  """`bool[1, W, W]`, which pairs of a text each of them sees."""
  pairs = jnp.arange(width)
  ends = end_of_block(pairs, block, offset)
  return (pairs[None] <= ends[:, None])[None]
