"""Chimera: three tokens at a time, and all of the target's features.

Zeng et al. 2024 (arXiv 2402.15758), Sec. 3, and repository. A token's trigram
queries one decoder layer whose other keys are the target's last features; what
comes out is a guess of the token's own feature. The guess stands in for the
feature in the steps after, and gives the next token together with the last
feature that the target gave.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from spec_jax.core import types
from spec_jax.models import config as config_lib
from spec_jax.models import contract
from spec_jax.models import decoder
from spec_jax.models import feature_model

HIDDEN, GUESS = "hidden", "guess"
_TARGET = "target"


class ChimeraNet(nn.Module):
  """Trigram encoder, full-context encoder, and a head.

  Attributes:
    config: of the one layer; vocabulary and width are the target's.
    is_shared: whether the target's output head reads the sum of both features:
      the head of the paper as it begins, two copies of the target's, for good.
    dtype: of computation.
    backend: of attention, see `kernels.backend.BACKENDS`.
  """

  config: config_lib.DecoderConfig
  is_shared: bool = False
  dtype: jnp.dtype = jnp.float32
  backend: str = "auto"

  def setup(self):
    c = self.config
    linear = lambda size, name, init, bias: nn.Dense(
        size, use_bias=bias, kernel_init=init, name=name, dtype=self.dtype)
    self.inner = linear(
        3 * c.d_model, "trigram_block", nn.initializers.zeros, True)
    self.map = linear(c.d_model, "trigram_map", nn.initializers.lecun_normal(),
                      True)
    self.block = decoder.Block(c, self.dtype, self.backend)
    if not self.is_shared:
      self.out = linear(c.vocab_size, "out", nn.initializers.zeros, False)

  def __call__(self, trigrams, positions, mask, cache=None, past=None):
    """Guesses features; nothing is seen but what was read before.

    Args:
      trigrams: `f[B, T, 3, E]`, embeddings of two tokens and the one itself.
      positions: `i32[B, T]`.
      mask: `bool[B, T, F]`, in-flight features, then these T trigrams.
      cache: keys and values of committed features, or None.
      past: those of features in flight, or None.

    Returns:
      `f[B, T, E]`, and the `types.FreshKV` of these guesses as features.
    """
    u = self.trigram(trigrams)
    scope = decoder.Scope(mask, decoder.prefix_of(cache, 0), positions, 0)
    x = self.block.attend(
        u, decoder.angles_of(self.config, positions), scope,
        None if past is None else (past.k[0], past.v[0]))[0]
    guess = self.block.feed(x)
    return guess, self.read(guess, positions)

  def trigram(self, trigrams):
    """`f[..., 3, E]` -> `f[..., E]`."""
    x = trigrams.astype(self.dtype)
    x = x.reshape(x.shape[:-2] + (-1,))
    return self.map(x + nn.silu(self.inner(x)))

  def read(self, features, positions):
    """Keys and values of features `f[B, T, E]`, true or guessed."""
    itself = jnp.broadcast_to(
        jnp.eye(positions.shape[1], dtype=bool)[None],
        positions.shape + positions.shape[1:])
    _, keys, values = self.block.attend(
        features.astype(self.dtype), decoder.angles_of(self.config, positions),
        decoder.Scope(itself, None, positions, 0), None)
    return types.FreshKV((keys,), (values,), positions)

  def head(self, last, guess):
    """Logits `f32[..., V]` of `f[..., E]`: the target's feature, a guess."""
    both = jnp.concatenate([last.astype(self.dtype), guess], axis=-1)
    return self.out(both).astype(jnp.float32)

  def everything(self, trigrams, positions, mask):
    """Uses every parameter once; what `init` traces."""
    guess, _ = self(trigrams, positions, mask)
    return guess if self.is_shared else self.head(guess, guess)


@dataclasses.dataclass(frozen=True)
class ChimeraModel:
  """The net with what it borrows of its target; parameters are by part.

  Attributes:
    net: the network.
    target: lends its embeddings, and perhaps its output head.
    part: the name of the net's parameters.
  """

  net: ChimeraNet
  target: contract.LinenModel
  part: str

  @property
  def config(self) -> config_lib.DecoderConfig:
    return self.net.config

  @property
  def dtype(self) -> jnp.dtype:
    return self.net.dtype

  @property
  def vocab_size(self) -> int:
    return self.target.vocab_size

  def init(self, key: jax.Array) -> Any:
    """Random parameters of the net alone; the key is consumed."""
    one = jnp.zeros((1, 1), jnp.int32)
    return self.net.init(
        key, jnp.zeros((1, 1, 3, self.config.d_model)), one,
        jnp.ones((1, 1, 1), bool), method="everything")["params"]

  def start_as(self, params: Any, frozen: Any) -> Any:
    """Fresh parameters whose head is two copies of the target's."""
    if self.net.is_shared:
      return params
    table = self.target.output_table(frozen).T.astype(jnp.float32)
    return {**params, "out": {"kernel": jnp.concatenate([table, table])}}

  def embed(self, params, tokens) -> jax.Array:
    """`i32[...]` -> `f32[..., E]`, as the target's first layer gets them."""
    return self.target.embed(params[_TARGET], tokens).astype(jnp.float32)

  def first(self, params, tokens, last) -> jax.Array:
    """What the token after some text is told of it, `f32[B, T, 3, E]`.

    Args:
      params: by part.
      tokens: `i32[B, T, 2]`, the two tokens before it.
      last: `f[B, T, E]`, the target's last feature.
    """
    return jnp.concatenate([
        self.embed(params, tokens), last.astype(jnp.float32)[:, :, None]],
                           axis=2)

  def forward(self, params, tokens, told, positions, mask, cache=None, *,
              past=None) -> types.ModelOut:
    """Runs tokens.

    Args:
      params: by part, the target's under "target".
      tokens: `i32[B, T]`.
      told: `f32[B, T, 3, E]`, see `first`.
      positions: `i32[B, T]`.
      mask: see `ChimeraNet`.
      cache: of committed features, or None.
      past: of guesses in flight, or None.

    Returns:
      Logits of the tokens after; `taps["guess"]` of the tokens' own features
      `f[B, T, E]`, `taps["hidden"]`, what tokens after them are to be told.
    """
    own = {"params": params[self.part]}
    embedded = self.embed(params, tokens)[:, :, None]
    trigrams = jnp.concatenate([told[:, :, :2], embedded], axis=2)
    guess, fresh = self.net.apply(own, trigrams, positions, mask, cache, past)
    last = told[:, :, 2]
    if self.net.is_shared:
      logits = self.target.unembed(
          params[_TARGET], last.astype(guess.dtype) + guess)
    else:
      logits = self.net.apply(own, last, guess, method="head")
    return types.ModelOut(logits, fresh, {GUESS: guess, HIDDEN: jnp.concatenate(
        [told[:, :, 1:2], embedded, told[:, :, 2:]], axis=2)})

  def read(self, params, features, positions) -> types.FreshKV:
    """Keys and values of the target's features `f[B, T, E]`."""
    return self.net.apply(
        {"params": params[self.part]}, features, positions, method="read")

  def score(self, params, tokens: jax.Array) -> types.ModelOut:
    """Keys and values of all features of texts `i32[B, T]`; no logits."""
    out = self.target.score(
        params[_TARGET], tokens, taps=("final",), with_logits=False)
    positions = jnp.broadcast_to(
        jnp.arange(tokens.shape[1], dtype=jnp.int32)[None], tokens.shape)
    return types.ModelOut(
        None, self.read(params, out.taps["final"], positions), {})

  def empty_scratch(self, batch: int, num_tokens: int) -> types.FreshKV:
    """Zeroed room for the keys and values of guesses."""
    return contract.empty_scratch(self, batch, num_tokens)


def from_hyper(target: contract.LinenModel, part: str, hyper: dict[str, Any]
               ) -> ChimeraModel:
  """The model of a trained part; `hyper` are fields of the net."""
  try:
    net = ChimeraNet(
        feature_model.layer_config(target.config), dtype=target.dtype,
        backend=target.module.backend, **hyper)
  except TypeError as error:
    raise ValueError(f"trained part {part!r}: {error}") from error
  return ChimeraModel(net, target, part)
