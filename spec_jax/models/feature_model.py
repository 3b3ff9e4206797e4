"""A feature net with what it borrows of its target, as a hashable value."""

from collections.abc import Mapping
import dataclasses
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp

from spec_jax.core import types
from spec_jax.models import ahead_nets
from spec_jax.models import block_net
from spec_jax.models import config as config_lib
from spec_jax.models import contract
from spec_jax.models import feature_net
from spec_jax.models import normed_net
from spec_jax.models import specialist_net
from spec_jax.models import split_net

HIDDEN = feature_net.HIDDEN
TOKEN_IDS = "token_ids"
EMBEDDING = "embedding"
_TARGET = "target"
# Whose embeddings a net reads, see `FeatureModel.embeds`.
SCALED, ROWS, OWN = "scaled", "rows", "own"
# Kinds of nets by a hyper-parameter that no other kind has.
_KINDS: Mapping[str, type[feature_net.FeatureNet]] = MappingProxyType({
    "span": specialist_net.SpecialistNet,
    "is_split": split_net.SplitNet,
    "tap_norm": normed_net.NormedNet,
    "block": block_net.BlockNet,
    "num_experts": ahead_nets.DecoupledNet,
    "num_heads": ahead_nets.HybridNet})


@dataclasses.dataclass(frozen=True)
class FeatureModel:
  """Guesses next features and their tokens; parameters are outside, by part.

  Attributes:
    net: the network.
    target: lends the embedding and, to nets without a head of their own, the
      output head.
    part: the name of the net's parameters.
    vocabulary: the name of the part whose `token_ids` `i32[Z]` say which tokens
      the rows of the output head stand for; None where they are all tokens.
    embeds: what is read of a token: "scaled", as the target's first block gets
      it; "rows", of the target's table, as published drafts do; "own", of the
      table `embedding` `f[V, E]` among the net's own parameters.
  """

  net: feature_net.FeatureNet
  target: contract.LinenModel
  part: str
  vocabulary: str | None = None
  embeds: str = SCALED

  @property
  def config(self) -> config_lib.DecoderConfig:
    return self.net.config

  @property
  def dtype(self) -> jnp.dtype:
    return self.net.dtype

  @property
  def vocab_size(self) -> int:
    """V, of the tokens that are read and proposed."""
    return self.target.vocab_size

  @property
  def taps(self) -> tuple[Any, ...]:
    return self.net.taps

  def init(self, key: jax.Array) -> Any:
    """Random parameters of the net alone; the key is consumed."""
    width = self.target.config.d_model
    one = jnp.zeros((1, 1, width), self.dtype)
    read = one if self.embeds != OWN else jnp.zeros(
        (1, 1, self.config.d_model), self.dtype)
    position = jnp.zeros((1, 1), jnp.int32)
    return self.net.init(
        key, read, {tap: one for tap in self.taps}, position,
        jnp.ones((1, 1, 1), bool), method="everything")["params"]

  def embed(self, params, tokens: jax.Array) -> jax.Array:
    """What the net reads of tokens `i32[B, T]`, `f[B, T, E]`."""
    if self.embeds == SCALED:
      return self.target.embed(params[_TARGET], tokens)
    table = (params[self.part][EMBEDDING] if self.embeds == OWN else
             self.target.input_table(params[_TARGET]))
    return table[tokens]

  def enter(self, params, features: Mapping[Any, jax.Array]) -> jax.Array:
    """Features of the target by tap -> what a pair holds, `f[B, T, E]`."""
    return self.net.apply(
        {"params": params[self.part]}, features, method="enter")

  def forward(self, params, tokens, features, positions, mask, cache=None, *,
              past=None, with_logits=True, level=None) -> types.ModelOut:
    """Runs pairs; see `feature_net.FeatureNet`.

    Args:
      params: by part, the target's under "target".
      tokens: `i32[B, T]`.
      features: `f[B, T, E]`, of the token before each; or the taps of its
        forward.
      positions: `i32[B, T]`, of the features.
      mask: `bool[B, T, F]`.
      cache: of committed pairs, or None.
      past: in-flight keys and values, or None.
      with_logits: False leaves out the output head.
      level: of the pairs' tokens below the root, may be traced; None of
        committed pairs.

    Returns:
      `logits` `f32[B, T, Z]`, of the token after; `taps["hidden"]`, the
      guesses of the tokens' own features, beside what else the net says.
    """
    said, fresh = self.net.apply(
        {"params": params[self.part]}, self.embed(params, tokens), features,
        positions, mask, cache, past, level)
    logits = self.speak(params, said) if with_logits else None
    return types.ModelOut(logits, fresh, said)

  def speak(self, params, said: Mapping[str, jax.Array]) -> jax.Array:
    """Logits `f32[B, T, Z]` of what the net said in a forward."""
    return self.logits(
        params, said.get(feature_net.SPOKEN, said[HIDDEN]))

  def ahead(self, params, said: Mapping[str, jax.Array]
            ) -> tuple[jax.Array, jax.Array]:
    """What a forward says of tokens further on, those between unknown.

    Args:
      params: by part.
      said: the taps of the forward.

    Returns:
      For the tokens 1, 2, ..., K behind the one that follows: guesses of the
      features before them `f[B, T, K, E]` and their logits `f32[B, T, K, Z]`.
    """
    guesses = self.net.apply(
        {"params": params[self.part]}, said, method="ahead")
    return guesses, self.logits(params, guesses)

  def logits(self, params, hidden) -> jax.Array:
    """Features -> `f32[..., Z]`, rows as `token_ids` lists them."""
    if self.net.head_size:
      return self.net.apply(
          {"params": params[self.part]}, hidden, method="logits")
    return self.target.unembed(
        params[_TARGET], hidden, self.token_ids(params))

  def token_ids(self, params) -> jax.Array | None:
    """`i32[Z]`, the tokens that may be proposed; None if these are all."""
    if self.vocabulary is None:
      return None
    return params[self.vocabulary][TOKEN_IDS]

  def empty_scratch(self, batch: int, num_tokens: int) -> types.FreshKV:
    """Zeroed room for the keys and values of in-flight pairs."""
    return contract.empty_scratch(self, batch, num_tokens)


def layer_config(target: config_lib.DecoderConfig, num_layers: int = 1
                 ) -> config_lib.DecoderConfig:
  """Layers of the target's own sizes, positions by rotation, all unlimited."""
  return dataclasses.replace(
      target, num_layers=num_layers, windows=(), positions="rope",
      post_norms=False)


def three_depths(num_layers: int) -> tuple[int, int, int]:
  """EAGLE-3's taps: what enters the layers 2, M / 2 and M - 3 of M.

  From the repository of arXiv 2503.01840; layers count from 0. Where M is below
  7, so that these are not three depths, what leaves the quarters of the layers:
  from M = 4 on three that published layouts have words for, since each enters
  a layer (1 to M - 1). Below that what leaves the thirds, the last layer's
  output among them.
  """
  taps = 2, num_layers // 2, num_layers - 3
  if taps[0] < taps[1] < taps[2]:
    return taps
  pieces = 4 if num_layers >= 4 else 3
  first, second, third = (-(-i * num_layers // pieces) for i in (1, 2, 3))
  return first, second, third


def from_hyper(target: contract.LinenModel, part: str, hyper: dict[str, Any],
               vocabulary: str | None = None) -> FeatureModel:
  """The model of a trained part.

  Args:
    target: whose features it reads.
    part: its name.
    hyper: what the bundle keeps of it: `num_layers` and further fields of the
      layers' configuration under "layers"; "embeds", see `FeatureModel`;
      "is_trimmed", whether the part itself holds the `token_ids`; the rest
      fields of the net.
    vocabulary: see `FeatureModel`; the part's own one if None.

  Raises:
    ValueError: for a hyper-parameter that none of them has.
  """
  hyper = dict(hyper)
  embeds = hyper.pop("embeds", SCALED)
  if embeds not in (SCALED, ROWS, OWN):
    raise ValueError(f"trained part {part!r}: embeds={embeds!r}, expected one"
                     f" of {(SCALED, ROWS, OWN)}.")
  if hyper.pop("is_trimmed", False) and vocabulary is None:
    vocabulary = part
  layers = dict(hyper.pop("layers", {}))
  if layers.get("rope_scaling"):
    layers["rope_scaling"] = config_lib.RopeScaling(**layers["rope_scaling"])
  taps = tuple(hyper.pop("taps", ("final",)))
  try:
    config = dataclasses.replace(layer_config(target.config), **layers)
    net = _kind(hyper)(
        config, taps, dtype=target.dtype, backend=target.module.backend,
        **hyper)
  except TypeError as error:
    raise ValueError(f"trained part {part!r}: {error}") from error
  return FeatureModel(net, target, part, vocabulary, embeds)


def _kind(hyper):
  """The kind of net that has such hyper-parameters."""
  kinds = [kind for name, kind in _KINDS.items() if name in hyper]
  return kinds[0] if kinds else feature_net.FeatureNet
