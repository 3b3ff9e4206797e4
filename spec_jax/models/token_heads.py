"""Draft heads: small networks that speak for a target's next tokens.

One interface for independent heads (Medusa, blockwise parallel decoding) and
recurrent ones (Hydra, ReDrafter, the MLP speculator): grounded on one feature
of the target, a network maps `(state, token) -> (state, logits)`. The feature
belongs to the token *before* the pending one: the target computed it in the
round that emitted the pending token. All of them compute in float32.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from spec_jax.models import contract

# Among the parameters of heads with fewer rows than there are tokens: which
# tokens the rows stand for, `i32[Z]`.
TOKEN_IDS = "token_ids"
_ZERO = nn.initializers.zeros


def identity(key, shape, dtype=jnp.float32):
  """Ones on the diagonal: what is read first is passed on, the rest is not."""
  del key
  return jnp.eye(*shape, dtype=dtype)


class TokenHeads(nn.Module):
  """What all have in common; a subclass has `step` and may have `begin`.

  Attributes:
    vocab_size: V.
    width: E, of the target's features.
    tap: the target's feature that is read.
    is_parallel: whether tokens are ignored; then one answer serves a level.
    num_levels: levels that there are heads for, None = any.
    is_paired: whether there is `fuse(feature, tokens)`: then an encoder reads
      pairs of a feature and the token after it.
  """

  vocab_size: int
  width: int

  tap = "final"
  is_parallel = False
  num_levels = None
  is_paired = False

  @property
  def num_rows(self) -> int:
    """Z, rows of the logits; below V, the parameters have `token_ids`."""
    return self.vocab_size

  @classmethod
  def for_target(cls, target: contract.LinenModel, **hyper) -> "TokenHeads":
    """Heads of a target's sizes."""
    return cls(target.vocab_size, target.config.d_model, **hyper)

  @staticmethod
  def start_as(params: Any, target: contract.LinenModel, frozen: Any) -> Any:
    """The parameters as training starts them, given random ones.

    Every output head `out_*` is a copy of the target's; one that reads more
    than the feature starts with zeros for the rest.

    Args:
      params: `{"heads": ...}`, perhaps "encoder".
      target: the model.
      frozen: its parameters.
    """
    return params | {"heads": _with_output_table(
        params["heads"], target.output_table(frozen))}

  def __call__(self, feature: jax.Array, tokens: jax.Array, ends
               ) -> jax.Array:
    """Every level along a given path.

    Args:
      feature: `f32[..., E]`.
      tokens: `i32[..., D]`, the pending token and those after it.
      ends: the target's, `models.contract.Ends`.

    Returns:
      `f32[..., D, Z]`: logits of the token after each of them.
    """
    state, levels = self.begin(feature), []
    for level in range(tokens.shape[-1]):
      state, logits = self.step(state, tokens[..., level], level, ends)
      levels.append(logits)
    return jnp.stack(levels, axis=-2)

  def begin(self, feature: jax.Array) -> Any:
    """The state before the pending token is read; any leading axes."""
    return feature

  def step(self, state: Any, tokens: jax.Array, level: int,
           ends: contract.Ends) -> tuple[Any, jax.Array]:
    """Reads `tokens` `i32[...]` of one level, the root's being 0.

    Returns:
      The state after them and logits `f32[..., Z]` of the tokens that follow.
    """
    raise NotImplementedError


def _with_output_table(params, table):
  def start(path, kernel):
    names = [getattr(entry, "key", "") for entry in path]
    if names[-1] != "kernel" or not names[-2].startswith("out_"):
      return kernel
    rest = kernel.shape[0] - table.shape[1]
    if rest < 0:  # Behind a projection to less there is no whole feature.
      return kernel
    return jnp.pad(table.T, ((0, rest), (0, 0))).astype(kernel.dtype)

  return jax.tree_util.tree_map_with_path(start, params)


def encoder_of(target: contract.LinenModel, num_layers: int, **fields: Any
               ) -> contract.LinenModel:
  """Decoder layers like the target's, that read its features.

  They are given in place of embeddings: of the vocabulary there is one unused
  row. `fields` of the configuration may differ from the target's.
  """
  config = dataclasses.replace(
      target.config, vocab_size=1, real_vocab_size=None, num_layers=num_layers,
      windows=(), embed_scale=1.0, tie_embeddings=True, **fields)
  return contract.decoder_model(config, target.dtype)


class Expander:
  """A network as `trees.expansion.Expand`; keeps the states of a level.

  To be used once, while it is traced.
  """

  def __init__(self, network: TokenHeads, params: Any, feature: jax.Array,
               ends: contract.Ends):
    """Grounds the heads on `feature` `f32[B, E]`."""
    self._network, self._params, self._ends = network, params, ends
    is_whole = network.num_rows == network.vocab_size
    self._token_ids = None if is_whole else params[TOKEN_IDS]
    self._state = self._apply("begin", feature[:, None])

  def __call__(self, level, tokens, places, k):
    shape = tokens.shape + (k,)
    if self._network.is_parallel:
      tokens = tokens[:, :1]
    else:
      self._state = jax.tree.map(lambda a: _at(a, places), self._state)
    self._state, logits = self._apply(
        "step", self._state, tokens, level, self._ends)
    log_probs, found = jax.lax.top_k(jax.nn.log_softmax(logits), k)
    if self._token_ids is not None:
      found = self._token_ids[found]
    return (jnp.broadcast_to(log_probs, shape),
            jnp.broadcast_to(found.astype(jnp.int32), shape))

  def _apply(self, method, *args):
    return self._network.apply({"params": self._params}, *args, method=method)


def _at(array, places):
  """Rows of `[B, W, ...]` at `places`, the same for all or each its own."""
  if isinstance(places, np.ndarray):
    return array[:, places]
  places = places.reshape(places.shape + (1,) * (array.ndim - 2))
  return jnp.take_along_axis(array, places, axis=1)


def _residual(layers, x):
  for layer in layers:
    x = x + nn.silu(layer(x))
  return x


class MedusaHeads(TokenHeads):
  """Heads that know the feature alone (Cai et al. 2024, Sec. 2.1.1).

  Attributes:
    num_heads: one for each level.
    num_layers: residual blocks `z + silu(A z + b)` of a head.
    is_shared: whether all heads end in the target's own output head.
    head_size: rows of the heads' own output heads; 0 = all tokens.
  """

  num_heads: int = 5
  num_layers: int = 1
  is_shared: bool = False
  head_size: int = 0

  is_parallel = True

  @property
  def num_rows(self):
    return self.head_size or self.vocab_size

  @property
  def num_levels(self):
    return self.num_heads

  def setup(self):
    self.blocks = [[nn.Dense(self.width, kernel_init=_ZERO,
                             name=f"block_{head}_{layer}")
                    for layer in range(self.num_layers)]
                   for head in range(self.num_heads)]
    if not self.is_shared:
      self.outs = [nn.Dense(self.num_rows, use_bias=False, name=f"out_{head}")
                   for head in range(self.num_heads)]

  def step(self, state, tokens, level, ends):
    z = _residual(self.blocks[level], state)
    return state, ends.unembed(z) if self.is_shared else self.outs[level](z)


class BlockwiseHeads(TokenHeads):
  """One hidden layer for all heads, then the target's own output head.

  Stern et al. 2018, Sec. 6. The residual connection goes around the layer,
  whose outer map starts at zero: every head begins as the target's own.

  Attributes:
    num_heads: one for each level.
    hidden: width of the hidden layer for each head.
  """

  num_heads: int = 4
  hidden: int = 1024

  is_parallel = True

  @property
  def num_levels(self):
    return self.num_heads

  def setup(self):
    self.inner = nn.Dense(self.num_heads * self.hidden)
    self.outer = nn.Dense(self.num_heads * self.width, kernel_init=_ZERO)

  def begin(self, feature):
    found = self.outer(nn.relu(self.inner(feature)))
    found = found.reshape(feature.shape[:-1] + (self.num_heads, self.width))
    return found + feature[..., None, :]

  def step(self, state, tokens, level, ends):
    return state, ends.unembed(state[..., level, :])


class HydraHeads(TokenHeads):
  """Heads that also read the tokens on their path (Ankner et al. 2024, Sec. 3).

  Head i sees the feature and the target's embeddings of the i + 1 tokens from
  the pending one on: `R c + silu(A c)`, then residual blocks, then an output
  head with a bias. `R` starts as the identity of the feature.

  Attributes:
    num_heads: one for each level.
    num_layers: blocks of a head, the first one included.
    dropout: before each block and the output head, where there is a key
      "dropout".
    is_shared: whether all heads end in the target's own output head.
  """

  num_heads: int = 4
  num_layers: int = 1
  dropout: float = 0.0
  is_shared: bool = False

  @property
  def num_levels(self):
    return self.num_heads

  def setup(self):
    heads, width = range(self.num_heads), self.width
    self.firsts = [nn.Dense(width, kernel_init=_ZERO, name=f"block_{head}_0")
                   for head in heads]
    self.maps = [nn.Dense(width, kernel_init=identity, name=f"map_{head}")
                 for head in heads]
    self.blocks = [[nn.Dense(width, kernel_init=_ZERO,
                             name=f"block_{head}_{layer}")
                    for layer in range(1, self.num_layers)] for head in heads]
    if not self.is_shared:
      self.outs = [nn.Dense(self.vocab_size, name=f"out_{head}")
                   for head in heads]
    self.drop = nn.Dropout(self.dropout)

  def step(self, state, tokens, level, ends):
    state = jnp.concatenate([state, ends.embed(tokens)], axis=-1)
    drop = lambda x: self.drop(
        x, deterministic=not self.has_rng("dropout"))
    c = drop(state)
    z = self.maps[level](c) + nn.silu(self.firsts[level](c))
    for block in self.blocks[level]:
      z = drop(z)
      z = z + nn.silu(block(z))
    z = drop(z)
    return state, ends.unembed(z) if self.is_shared else self.outs[level](z)
