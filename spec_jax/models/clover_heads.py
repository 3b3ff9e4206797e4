"""Clover-2's heads: a feature that is regressed from drafted token to token.

Xiao et al. 2024 (arXiv 2408.00264) and repository; see `models.token_heads`.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from spec_jax.models import token_heads

_ZERO = nn.initializers.zeros


class RmsNorm(nn.Module):
  """`x / rms(x)` with a weight."""

  eps: float = 1e-5

  @nn.compact
  def __call__(self, x):
    scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
    x = x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + self.eps)
    return x * scale.reshape((1,) * (x.ndim - 1) + (-1,))


class ResidualAttention(nn.Module):
  """Attention of a feature to one token, gated by their likeness.

  `x + rms(x) (W_v y) cos(W_q norm(x), W_k y)`, the cosine taken head by head: a
  softmax over a single key would always be 1. The values start at zero; they
  are in units of `x`, as residual streams may be hundreds of times larger than
  embeddings.

  Attributes:
    num_heads: cosines; divides the width.
  """

  num_heads: int

  @nn.compact
  def __call__(self, x, y):
    width = x.shape[-1]
    split = lambda a: a.reshape(a.shape[:-1] + (self.num_heads, -1))
    project = lambda name, init: nn.Dense(width, kernel_init=init, name=name)
    normed = RmsNorm(name="norm")(x)
    query = split(project("query", token_heads.identity)(normed))
    key = split(project("key", token_heads.identity)(y))
    value = split(project("value", _ZERO)(y))
    norm = lambda a: jnp.sqrt((a * a).sum(-1, keepdims=True))
    gate = (query * key).sum(-1, keepdims=True) / jnp.maximum(
        norm(query) * norm(key), 1e-8)
    size = jnp.sqrt((x * x).mean(-1, keepdims=True))
    return x + size * (value * gate).reshape(x.shape)


class CloverHeads(token_heads.TokenHeads):
  """A recurrence over drafted tokens behind an encoder of pairs.

  The encoder reads the target's residual stream before the final norm, fused
  with the token that follows. Level 0 projects its output; every later level
  first attends to the token just drafted, with the same weights for all. The
  projections are guesses of the target's own features.

  Attributes:
    num_layers: of the target.
    num_heads: levels.
    num_cosines: heads of the residual attention.
    norm_eps: of the target's final norm, which guesses are given too.
  """

  num_layers: int = 1
  num_heads: int = 5
  num_cosines: int = 1
  norm_eps: float = 1e-5

  is_paired = True

  @property
  def tap(self):
    return self.num_layers

  @property
  def num_levels(self):
    return self.num_heads

  @classmethod
  def for_target(cls, target, **hyper):
    config = target.config
    if config.norm == "layer":
      raise ValueError(
          f"norm={config.norm!r} of the target, expected 'rms' or"
          " 'rms_plus_one': guesses are normalised as its features.")
    return cls(target.vocab_size, config.d_model, config.num_layers,
               num_cosines=config.num_heads, norm_eps=config.norm_eps, **hyper)

  @staticmethod
  def start_as(params, target, frozen):
    """See `TokenHeads`: all that can be begins as the target's own.

    The encoder's layers are copies of the target's last one, the embeddings of
    tokens are rows of its output head, and guesses are normalised as its
    features.
    """
    heads, encoder = dict(params["heads"]), dict(params["encoder"])
    last = frozen[f"layers_{target.config.num_layers - 1}"]
    encoder |= {name: last for name in encoder if name.startswith("layers_")}
    heads["embed"] = {"embedding": target.output_table(frozen)}
    scale = frozen["final_norm"]["scale"]
    if target.config.norm == "rms_plus_one":
      scale = scale + 1
    heads["norm"] = {"scale": scale}
    wide = lambda tree: jax.tree.map(lambda a: a.astype(jnp.float32), tree)
    return wide({"heads": heads, "encoder": encoder})

  def setup(self):
    linear = lambda name: nn.Dense(
        self.width, use_bias=False, kernel_init=token_heads.identity, name=name)
    self.embedding = nn.Embed(self.vocab_size, self.width, name="embed")
    self.enter = ResidualAttention(self.num_cosines)
    self.attend = ResidualAttention(self.num_cosines)
    self.first, self.later = linear("first_map"), linear("later_map")
    self.norm = RmsNorm(self.norm_eps, name="norm")

  def fuse(self, feature, tokens):
    """What the encoder reads of `f32[..., E]` and the tokens after them."""
    return self.enter(feature, self.embedding(tokens))

  def guess(self, state, tokens, level):
    """As `step`, with the feature in place of its logits."""
    if level == 0:  # The encoder has read this token.
      return state, self.norm(self.first(state))
    embedded = self.embedding(tokens)
    state = self.attend(state, embedded)
    both = jnp.concatenate([state, embedded], axis=-1)
    return state, self.norm(self.later(both))

  def step(self, state, tokens, level, ends):
    state, feature = self.guess(state, tokens, level)
    return state, ends.unembed(feature)

  def guesses(self, feature, tokens):
    """`f32[..., D, E]` along a path; arguments as of a call."""
    state, levels = self.begin(feature), []
    for level in range(tokens.shape[-1]):
      state, found = self.guess(state, tokens[..., level], level)
      levels.append(found)
    return jnp.stack(levels, axis=-2)

  def __call__(self, feature, tokens, ends):
    if self.is_initializing():
      self.fuse(feature, tokens[..., 0])
    return ends.unembed(self.guesses(feature, tokens))

