"""Trains draft heads on the features of a frozen target.

Features are computed as the text comes by: nothing is stored. At every place of
a text all levels are trained at once, each given the text's own tokens up to
it, as they are given on the accepted path of a tree. Labels are the text's next
tokens (Medusa-1, Hydra, the MLP speculator, ReDrafter) or the target's laws
(Hydra++). Level i counts `decay ** i` (Cai et al. 2024, Sec. 2.2.1).
"""

from collections.abc import Callable
from collections.abc import Mapping
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from spec_jax.core import tree as tree_lib
from spec_jax.core import types
from spec_jax.models import contract
from spec_jax.models import lora
from spec_jax.models import token_heads
from spec_jax.training import adversarial
from spec_jax.training import loop
from spec_jax.training import recorded


@dataclasses.dataclass(frozen=True)
class TokenHeadRecipe:
  """How heads are trained.

  Attributes:
    network: what kind of heads.
    hyper: of the network; what a bundle keeps.
    levels: trained at once.
    encoder_layers: of the encoder between target and heads; 0 = none.
    num_steps: optimiser steps.
    batch: windows per step.
    length: tokens per window.
    own_windows: windows that the target writes; if there are any, half of each
      batch is of them (self-distillation, Medusa, Sec. 2.3.2).
    learning_rate: peak; falls to `floor` of it along a cosine.
    floor: see there.
    warmup: share of the steps in which the rate rises from 0.
    weight_decay: of AdamW.
    decay: weight of a level beside the one before.
    is_taught: whether the target's laws are the labels.
    feature_weight: of the smooth L1 distance between the heads' guesses of the
      target's features and these; only for networks that have `guesses`.
    adversarial_weight: of being told from the target by a discriminator, see
      `training.adversarial`; 0 trains none.
  """

  network: type[token_heads.TokenHeads]
  hyper: Mapping[str, Any]
  levels: int = 4
  encoder_layers: int = 0
  num_steps: int = 300
  batch: int = 16
  length: int = 256
  own_windows: int = 512
  learning_rate: float = 2e-3
  floor: float = 0.0
  warmup: float = 0.05
  weight_decay: float = 0.0
  decay: float = 0.8
  is_taught: bool = False
  feature_weight: float = 0.0
  adversarial_weight: float = 0.0

  def __post_init__(self):
    if self.length < self.levels + 2:
      raise ValueError(
          f"length={self.length}, expected at least levels={self.levels} and"
          " two more tokens.")


@dataclasses.dataclass(frozen=True)
class Heads:
  """Heads and what they hang on.

  Attributes:
    target: the model.
    network: the heads.
    encoder: between the two, or None.
  """

  target: contract.LinenModel
  network: token_heads.TokenHeads
  encoder: contract.LinenModel | None

  @property
  def taps(self) -> tuple[Any, ...]:
    """What heads start from, and what they may have to guess."""
    return (self.network.tap, "final")

  def read(self, frozen: Any, tokens: jax.Array, with_logits: bool = False
           ) -> types.ModelOut:
    """What the target says of `i32[B, T]`."""
    return self.target.score(
        frozen, tokens, taps=self.taps, with_logits=with_logits)

  def ground(self, params: Any, out: types.ModelOut, tokens: jax.Array
             ) -> jax.Array:
    """What the heads start from after each token but the last, `[B, T-1, E]`.

    Args:
      params: of heads and encoder.
      out: from `read`.
      tokens: `i32[B, T]`.
    """
    found = out.taps[self.network.tap].astype(jnp.float32)[:, :-1]
    if self.network.is_paired:
      found = self.network.apply(
          {"params": params["heads"]}, found, tokens[:, 1:], method="fuse")
    if self.encoder is None:
      return found
    out = self.encoder.score(
        params["encoder"], tokens[:, :-1], embeds=found, taps=("final",),
        with_logits=False)
    return out.taps["final"].astype(jnp.float32)


def assemble(options: TokenHeadRecipe, target: contract.LinenModel) -> Heads:
  """The networks of a recipe."""
  network = options.network.for_target(target, **options.hyper)
  encoder = None
  if options.encoder_layers:
    encoder = token_heads.encoder_of(target, options.encoder_layers)
  return Heads(target, network, encoder)


def recipe(options: TokenHeadRecipe, target: contract.LinenModel, frozen: Any
           ) -> loop.Recipe:
  """For `loop.fit`, whose frozen is `{"target": params}`; here the params."""
  heads = assemble(options, target)

  def loss(params, frozen, tokens, key):
    return loss_of(options, heads, params, frozen, tokens, key)

  rule = optimizer(options, options.learning_rate)
  if options.adversarial_weight:
    rule = adversarial.apart(rule)
  return loop.Recipe(
      lambda key: start(options, heads, frozen, key), loss, rule,
      recorded.Reads(target, heads.taps))


def start(options: TokenHeadRecipe, heads: Heads, frozen: Any, key: jax.Array
          ) -> Any:
  """The parameters that training begins with; the key is consumed."""
  target = heads.target
  heads_key, encoder_key = jax.random.split(key)
  params = heads.network.init(
      heads_key, jnp.zeros((1, target.config.d_model)),
      jnp.zeros((1, options.levels), jnp.int32),
      contract.Ends(target, frozen))["params"]
  params = {"heads": params}
  if heads.encoder is not None:
    params["encoder"] = heads.encoder.init(encoder_key)
  if options.adversarial_weight:
    params = adversarial.beside(params, target.vocab_size, key)
  return heads.network.start_as(params, target, frozen)


def optimizer(options: TokenHeadRecipe, learning_rate: float, waiting: int = 0
              ) -> optax.GradientTransformation:
  """AdamW; its rate is 0 for `waiting` steps, then rises, then falls."""
  num_steps = options.num_steps - waiting
  schedule = optax.warmup_cosine_decay_schedule(
      0.0, learning_rate, max(1, round(options.warmup * num_steps)), num_steps,
      options.floor * learning_rate)
  if waiting:
    schedule = optax.join_schedules(
        [optax.constant_schedule(0.0), schedule], [waiting])
  return optax.chain(
      optax.clip_by_global_norm(1.0),
      optax.adamw(schedule, weight_decay=options.weight_decay))


def target_params(params: Any, frozen: Any) -> Any:
  """The target's parameters, with what was trained of them beside its heads."""
  return lora.merged(frozen, params.get(lora.CHANGE, {}))


def loss_of(options: TokenHeadRecipe, heads: Heads, params: Any, frozen: Any,
            tokens: jax.Array, key: jax.Array
            ) -> tuple[jax.Array, dict[str, jax.Array]]:
  """The weighted sum over levels, and how often each of them is right.

  A level's loss is its cross-entropy in nats, and what `feature_weight` adds.

  Args:
    options: gives levels, weights and labels.
    heads: from `assemble`.
    params: of them.
    frozen: by part, the target's alone, and what was recorded of it, if it was.
    tokens: `i32[B, T]`.
    key: of dropout.
  """
  out = recorded.said(
      heads.target, frozen, tokens, heads.taps,
      options.is_taught or options.adversarial_weight > 0)
  return loss_given(
      options, heads, params, frozen["target"], out, tokens, key)


def loss_given(options: TokenHeadRecipe, heads: Heads, params: Any, frozen: Any,
               out: types.ModelOut, tokens: jax.Array, key: jax.Array
               ) -> tuple[jax.Array, dict[str, jax.Array]]:
  """As `loss_of`, given what the target says of the tokens, `Heads.read`."""
  path = following(tokens, options.levels + 1)
  num, ends = path.shape[1], contract.Ends(heads.target, frozen)
  apply = functools.partial(
      heads.network.apply, {"params": params["heads"]},
      heads.ground(params, out, tokens)[:, :num], path[..., :-1])
  if options.feature_weight:
    guesses = apply(method="guesses")
    found = ends.unembed(guesses)
  else:
    found = apply(ends, rngs={"dropout": key})
  labels = path[..., 1:]
  # The law of the text's token t + 2 + i is the one after token t + 1 + i, and
  # so is its feature.
  laws = lambda: following(out.logits, options.levels)[:, :num]
  if options.is_taught:
    terms = optax.safe_softmax_cross_entropy(found, jax.nn.softmax(laws()))
  else:
    terms = optax.softmax_cross_entropy_with_integer_labels(found, labels)
  if options.feature_weight:
    wanted = following(out.taps["final"].astype(jnp.float32), options.levels)
    terms += options.feature_weight * optax.huber_loss(
        guesses, wanted[:, :num]).mean(-1)
  judged = 0.0
  if options.adversarial_weight:
    fooled, judged = adversarial.losses(
        adversarial.NETWORK, params[adversarial.DISCRIMINATOR], laws(), found)
    terms, judged = terms + options.adversarial_weight * fooled, judged.mean()
  weights = options.decay ** jnp.arange(options.levels)
  right = (jnp.argmax(found, -1) == labels).mean((0, 1))
  return (terms.mean((0, 1)) * weights).sum() + judged, {
      f"right_{i + 1}": right[i] for i in range(options.levels)}


def following(array: jax.Array, count: int) -> jax.Array:
  """`[B, T, ...] -> [B, T - count, count, ...]`: what comes after each place.

  Places with fewer than `count` behind them are left out.
  """
  num = array.shape[1] - count
  return jnp.stack([array[:, i + 1:i + 1 + num] for i in range(count)], axis=2)


def accepted(tree: types.DraftTree, text: jax.Array) -> jax.Array:
  """`i32[B]`, how deep a tree follows what the target writes.

  Args:
    tree: B trees.
    text: `i32[B, D]`, the tokens after the root, D the depth of the tree.
  """
  depth = tree_lib.depths(tree.parents)
  wanted = jnp.take_along_axis(text, jnp.maximum(depth - 1, 0), axis=1)
  misses = (depth > 0) & (tree.tokens != wanted)
  path = tree_lib.ancestor_mask(tree.parents, tree.valid)
  is_right = tree.valid & ~(path & misses[:, None, :]).any(-1)
  return jnp.where(is_right, depth, 0).max(-1)


def evaluator(options: TokenHeadRecipe, target: contract.LinenModel,
              frozen: Any, plan: Any, windows: np.ndarray, start: int
              ) -> Callable[[Any], dict[str, float]]:
  """`params -> metrics`: what decoding at temperature 0 would measure.

  Args:
    options: gives the networks.
    target: the model.
    frozen: its parameters.
    plan: a `trees.expansion.Plan`.
    windows: `u16[n, T]`, that the target wrote itself at temperature 0 from
      token `start` on.
    start: at least 2: the heads need a feature before the pending token.

  Returns:
    A function. Of its metrics "accept_d" is the share of all places where at
    least d drafts would be accepted, "block_efficiency" the mean of tokens per
    round if rounds follow each other from `start` on.
  """
  heads = assemble(options, target)
  tokens = jnp.asarray(windows.astype(np.int32))
  depth = plan.depth

  @jax.jit
  def depths(params, frozen, tokens):
    return jax.lax.map(lambda window: simulated(
        heads, params, frozen, plan, window), tokens)

  def evaluate(params):
    found = np.asarray(depths(params, frozen, tokens))[:, start - 2:]
    metrics = {f"accept_{d}": float((found >= d).mean())
               for d in range(1, depth + 1)}
    return metrics | {"block_efficiency": block_efficiency(found)}

  return evaluate


def simulated(heads: Heads, params: Any, frozen: Any, plan: Any,
              window: jax.Array) -> jax.Array:
  """Drafts accepted at every place of a text that the target wrote.

  Args:
    heads: from `assemble`.
    params: of them.
    frozen: of the target.
    plan: a `trees.expansion.Plan` of D levels.
    window: `i32[T]`.

  Returns:
    `i32[T - D - 1]`: at place t the drafts if token t + 1 is the pending one.
  """
  frozen = target_params(params, frozen)
  features = heads.ground(
      params, heads.read(frozen, window[None]), window[None])
  path = following(window[None], plan.depth + 1)[0]
  tree = plan.grow(path[:, 0], token_heads.Expander(
      heads.network, params["heads"], features[0, :path.shape[0]],
      contract.Ends(heads.target, frozen)))
  return accepted(tree, path[:, 1:])


def rank_accuracy(options: TokenHeadRecipe, target: contract.LinenModel,
                  frozen: Any, params: Any, windows: np.ndarray, start: int,
                  num_ranks: int) -> np.ndarray:
  """How often the token of each rank is the right one, level by level.

  What `trees.shapes.calibrated` plans a tree with (Medusa, Sec. 2.3.3).

  Args:
    options: gives the networks and the levels.
    target: the model.
    frozen: its parameters.
    params: the heads'.
    windows: see `evaluator`.
    start: see `evaluator`.
    num_ranks: R.

  Returns:
    `f64[D, R]`, given that all levels before were right. A rank counts no
    more than the one before it: it is drafted only beside that.
  """
  heads = assemble(options, target)

  @jax.jit
  def ranks(params, known, window):
    tokens, frozen = window[None], target_params(params, known)
    path = following(tokens, options.levels + 1)
    grounds = heads.ground(params, heads.read(frozen, tokens), tokens)
    found = heads.network.apply(
        {"params": params["heads"]}, grounds[:, :path.shape[1]], path[..., :-1],
        contract.Ends(heads.target, frozen))
    top = jax.lax.top_k(found, num_ranks)[1]
    return (top == path[..., 1:, None])[0, start - 2:].mean(0)

  found = np.mean(
      [np.asarray(ranks(params, frozen, window.astype(np.int32)), np.float64)
       for window in windows], axis=0)
  return np.minimum.accumulate(found, axis=1)


def block_efficiency(found: np.ndarray) -> float:
  """Tokens per round, given what each place `i32[n, T]` would accept."""
  num_rounds = num_tokens = 0
  for row in found:
    place = 0
    while place < len(row):
      num_rounds, num_tokens = num_rounds + 1, num_tokens + int(row[place]) + 1
      place += int(row[place]) + 1
  return num_tokens / num_rounds
