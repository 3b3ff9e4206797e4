"""Draft heads with a recurrent state; see `models.token_heads`."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from spec_jax.models import token_heads


class RecurrentHead(token_heads.TokenHeads):
  """One head for all levels, its state a recurrence over drafted tokens.

  Zhang et al. 2024 (ReDrafter, arXiv 2403.09919), Sec. 3.1 and the repository.
  The head reads the feature and the state side by side.

  Attributes:
    num_layers: residual blocks before the output head.
    is_rnn: whether the state is `silu(W e + U s + b)`; else the sum of the
      embeddings.
    exit_size: width that the two are projected to before the blocks; 0 = none,
      the blocks are as wide as both.
  """

  num_layers: int = 2
  is_rnn: bool = True
  exit_size: int = 0

  def setup(self):
    both = self.exit_size or 2 * self.width
    if self.is_rnn:
      self.read = nn.Dense(self.width, use_bias=False)
      self.keep = nn.Dense(self.width)
    if self.exit_size:
      self.enter = nn.Dense(
          self.exit_size, kernel_init=token_heads.identity)
    self.blocks = [nn.Dense(both, kernel_init=nn.initializers.zeros,
                            name=f"block_{layer}")
                   for layer in range(self.num_layers)]
    self.out = nn.Dense(self.vocab_size, use_bias=False, name="out_0")

  def begin(self, feature):
    return feature, jnp.zeros_like(feature)

  def step(self, state, tokens, level, ends):
    feature, memory = state
    embedded = ends.embed(tokens)
    if self.is_rnn:
      memory = nn.silu(self.read(embedded) + self.keep(memory))
    else:
      memory = memory + embedded
    z = jnp.concatenate([feature, memory], axis=-1)
    if self.exit_size:
      z = self.enter(z)
    for block in self.blocks:
      z = z + nn.silu(block(z))
    return (feature, memory), self.out(z)


class StagedNorm(nn.Module):
  """`x / rms(x)` with a weight and a bias, or alone."""

  is_affine: bool = True

  @nn.compact
  def __call__(self, x):
    x = x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-6)
    if not self.is_affine:
      return x
    lead = (1,) * (x.ndim - 1)
    scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
    bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
    return x * scale.reshape(lead + (-1,)) + bias.reshape(lead + (-1,))


class MlpSpeculator(token_heads.TokenHeads):
  """A stage for each level, mixing the state with the token just drafted.

  Wertheimer et al. 2024 (arXiv 2404.19124), Sec. 3, and the published code:
  `state = gelu(norm(a proj(state) + b emb(token)))` with weights that keep the
  share of the target's feature in the last of `num_stages` states at one half.
  Embeddings and output heads are the speculator's own.

  Attributes:
    num_stages: levels trained for; the weights depend on it.
    inner: width of the state; 0 = that of the feature.
    is_tied: one embedding, head and norm for all stages, one projection for
      all but the first.
    scales_input: whether the feature is normalised first.
  """

  num_stages: int = 3
  inner: int = 0
  is_tied: bool = False
  scales_input: bool = False

  @property
  def num_levels(self):
    return self.num_stages

  @property
  def weights(self) -> tuple[float, float]:
    """Of the state and of the embedding."""
    state = 0.5 ** (0.5 / self.num_stages)
    size = self.inner or self.width
    return state, math.sqrt((1 - state ** 2) * size / 2)

  def setup(self):
    size, num = self.inner or self.width, self.num_stages
    init = nn.initializers.truncated_normal(1 / math.sqrt(size))
    own = 1 if self.is_tied else num
    linear = lambda features, name: nn.Dense(
        features, use_bias=False, kernel_init=init, name=name)
    self.embs = [nn.Embed(self.vocab_size, size, embedding_init=init,
                          name=f"emb_{i}") for i in range(own)]
    self.heads = [linear(self.vocab_size, f"head_{i}") for i in range(own)]
    self.norms = [StagedNorm(name=f"ln_{i}") for i in range(own)]
    self.projs = [linear(size, f"proj_{i}")
                  for i in range(min(num, 2) if self.is_tied else num)]
    if self.scales_input:
      self.norm_in = StagedNorm(is_affine=False)

  def begin(self, feature):
    if not self.scales_input:
      return feature
    return self.norm_in(feature) / math.sqrt(2)

  def step(self, state, tokens, level, ends):
    at = lambda stages: stages[min(level, len(stages) - 1)]
    keep, add = self.weights
    mixed = keep * at(self.projs)(state) + add * at(self.embs)(tokens)
    state = nn.gelu(at(self.norms)(mixed), approximate=False)
    return state, at(self.heads)(state)
