"""Trains feature nets on what the target says, see `training.recorded`.

EAGLE (Li et al. 2024, arXiv 2401.15077, Sec. 4.2): the next feature, SmoothL1,
and the law that follows from it, with noise on the features that are read.
EAGLE-3 (Li et al. 2025, arXiv 2503.01840, Sec. 3.2): the law alone, over steps
in which the net reads its own guesses. Both are sums over such steps.
"""

from collections.abc import Callable
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from spec_jax.core import types
from spec_jax.models import contract
from spec_jax.models import feature_model
from spec_jax.training import adversarial
from spec_jax.training import alignment
from spec_jax.training import columns
from spec_jax.training import loop
from spec_jax.training import losses
from spec_jax.training import optimizers
from spec_jax.training import part_recipe
from spec_jax.training import recorded

_WANTED = "final"  # The feature that is guessed.
_NOISE_LENGTH = 512  # Of windows whose noise is as strong as the recipe says.


@dataclasses.dataclass(frozen=True)
class FeatureRecipe(part_recipe.PartRecipe):
  """How a feature net is trained.

  Attributes, beside those of every part:
    steps: of guessing, in each window and from each column (n).
    step_decay: weight of a step over that of the one before.
    is_detached: whether a step's guess is a constant to the next one.
    feature_weight: of SmoothL1 of the features, a mean over their width.
    law_weight: of the cross-entropy from the target's law.
    rejection_weight: of how often rejection turns a draft down, see
      `losses.rejection`.
    ahead_weights: of what the net says of tokens further ahead, one for each
      of these; both terms above are taken times it.
    adversarial_weight: of being told from the target by a discriminator, see
      `training.adversarial`; 0 trains none.
    align_weight: of the agreement of steps, see `training.alignment`.
    temperature: of that.
    router_weight: of the cross-entropy of a grouped model's router from the
      target's law over groups; it has no part in what the net learns.
    noise: amplitude of uniform noise on the target's features that are read,
      in windows of 512 tokens; more in shorter ones (EAGLE's repository).
    vocabulary: tokens of a net with a head of its own, at most. What a target
      writes besides is never drafted: a small vocabulary is better left whole.
  """

  num_steps: int = 400
  steps: int = 1
  step_decay: float = 0.8
  is_detached: bool = False
  feature_weight: float = 1.0
  law_weight: float = 0.1
  rejection_weight: float = 0.0
  ahead_weights: tuple[float, ...] = ()
  adversarial_weight: float = 0.0
  align_weight: float = 0.0
  temperature: float = 0.1
  router_weight: float = 0.0
  noise: float = 0.1
  vocabulary: int = 2048
  judged_depth: int = 5


def recipe(options: FeatureRecipe, model: feature_model.FeatureModel,
           frozen: Any = None, begin: Any = None) -> loop.Recipe:
  """For `loop.fit`; `frozen` are all other parts' parameters, by part.

  Args:
    options: of the training.
    model: the net; its dtype is that of the recipe.
    frozen: gives an output head of the net's own its start, see `start`.
    begin: parameters to begin with; None for fresh ones.
  """
  model = in_dtype(model, options.dtype)
  rule = optimizers.of_part(options)
  if options.adversarial_weight:
    rule = adversarial.apart(rule)

  def init(key):
    params = start(model, frozen, key) if begin is None else begin
    if not options.adversarial_weight:
      return params
    return adversarial.beside(
        params, model.net.head_size or model.vocab_size, key)

  def loss(params, frozen, tokens, key):
    return objective(options, model, params, frozen, tokens, key)

  return loop.Recipe(init, loss, rule, reads(model))


def reads(model: feature_model.FeatureModel) -> recorded.Reads:
  """What is asked of a target: what the net reads, and what it guesses."""
  return recorded.Reads(model.target, (*model.taps, _WANTED))


def start(model: feature_model.FeatureModel, frozen: Any, key: jax.Array
          ) -> Any:
  """Fresh parameters; a head of its own is the target's, rows and norm.

  That of a net of another width is fresh too.
  """
  params = near_identity(model.init(key))
  has_rows = model.config.d_model == model.target.config.d_model
  if not model.net.head_size or frozen is None or not has_rows:
    return params
  target = frozen["target"]
  rows = target["embedding" if model.target.config.tie_embeddings else "head"]
  ids = model.token_ids(frozen)
  return {**params, "head_norm": target["final_norm"],
          "head": rows if ids is None else rows[ids]}


def tap_scale(target: contract.LinenModel, params: Any, taps: tuple[Any, ...],
              tokens: jax.Array) -> float:
  """Root mean square of some features of texts `i32[B, T]`."""
  found = target.score(params, tokens, taps=taps, with_logits=False).taps
  squares = [jnp.square(found[tap].astype(jnp.float32)).mean() for tap in taps]
  return float(jnp.sqrt(sum(squares) / len(squares)))


def near_identity(params: Any, scale: float = 0.1) -> Any:
  """Fresh parameters that guess the feature again, and little else.

  A net that begins with guesses of the wrong size spends its first hundreds of
  steps on that alone. Several features enter small, so that what the first
  layer says of the token is not drowned by what they say of the one before.
  """

  def shrink(path, leaf):
    names = [entry.key for entry in path]
    if names[-2:] == ["project", "kernel"]:  # The feature comes last.
      return (scale * leaf).at[-leaf.shape[1]:].add(
          jnp.eye(leaf.shape[1], dtype=leaf.dtype))
    is_small = names[-2:] in (
        ["out", "kernel"], ["down", "kernel"], ["entry", "kernel"],
        ["guess", "kernel"], ["speech", "kernel"])
    return scale * leaf if is_small else leaf

  return jax.tree_util.tree_map_with_path(shrink, params)


def in_dtype(model: feature_model.FeatureModel, dtype
             ) -> feature_model.FeatureModel:
  """The same net and target, computing in `dtype`."""
  dtype = jnp.dtype(dtype)
  return dataclasses.replace(
      model, net=model.net.clone(dtype=dtype),
      target=contract.decoder_model(model.target.config, dtype))


def objective(options: FeatureRecipe, model: feature_model.FeatureModel,
              params: Any, frozen: Any, tokens: jax.Array, key: jax.Array
              ) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Loss and metrics of windows `i32[B, T]`."""
  known = {**frozen, model.part: {**frozen.get(model.part, {}), **params}}
  truth = recorded.said(model.target, known, tokens, reads(model).taps)
  taps, p_logits = truth.taps, truth.logits
  features = model.enter(known, taps)
  if options.noise:
    most = options.noise * _NOISE_LENGTH / tokens.shape[1]
    features += jax.random.uniform(
        key, features.shape, features.dtype, -most, most)
  outs = columns.run(
      model, known, tokens, features, options.steps,
      is_detached=options.is_detached)
  at = lambda array, by: columns.shifted(array, by, tokens.shape[1] - 1)
  total, metrics = 0.0, {}
  for step, out in enumerate(outs):
    for ahead, (weight, said) in enumerate(
        _guesses(options, model, known, step, out)):
      by = step + ahead + 1
      is_real = jnp.arange(out.logits.shape[1]) < out.logits.shape[1] + 1 - by
      parts = step_losses(options, model, known, said, at(p_logits, by),
                          at(taps[_WANTED], by), is_real[None])
      total += options.step_decay ** step * weight * (
          options.feature_weight * parts["feature"]
          + options.law_weight * parts["law"]
          + options.rejection_weight * parts.get("rejection", 0.0)
          + options.router_weight * parts.get("router", 0.0)
          + options.adversarial_weight * parts.get("fooled", 0.0))
      # The discriminator's own loss moves nothing else.
      total += parts.get("judged", 0.0)
      name = f"{step + 1}" + f"_ahead_{ahead}" * bool(ahead)
      metrics |= {f"{key}_{name}": value for key, value in parts.items()}
  if options.align_weight:
    metrics["contrast"] = alignment.contrast(
        [out.taps[feature_model.HIDDEN] for out in outs], options.temperature)
    total += options.align_weight * metrics["contrast"]
  return total, metrics


def _guesses(options, model, params, step, out):
  """What a forward says of the next feature and of later ones, weighted."""
  yield 1.0, out
  if options.ahead_weights and step + 1 >= model.net.num_serial:
    guesses, logits = model.ahead(params, out.taps)
    for ahead, weight in enumerate(options.ahead_weights):
      yield weight, types.ModelOut(
          logits[:, :, ahead], None,
          {feature_model.HIDDEN: guesses[:, :, ahead]})


def step_losses(options, model, params, out, p_logits, features, is_real):
  """Means over the real columns of a step.

  Where the draft has a vocabulary of its own, the law is the target's given
  that vocabulary, and columns whose most likely token is outside count as 0.
  """
  best, ids = jnp.argmax(p_logits, axis=-1), model.token_ids(params)
  in_reach = is_real
  if ids is not None:
    is_known = jnp.zeros((model.vocab_size,), bool).at[ids].set(True)
    p_logits, in_reach = p_logits[..., ids], is_real & is_known[best]
  own = jnp.argmax(out.logits, axis=-1)
  own = own if ids is None else ids[own]
  mean = lambda a, where: jnp.where(where, a, 0).sum() / (
      jnp.broadcast_to(is_real, a.shape).sum())
  law = optax.safe_softmax_cross_entropy(out.logits, jax.nn.softmax(p_logits))
  parts = {"law": mean(law, in_reach),
           "agreement": mean((own == best).astype(jnp.float32), is_real)}
  if options.rejection_weight:
    parts["rejection"] = mean(
        losses.refusals(p_logits, out.logits), in_reach)
  wide = lambda a: a.astype(jnp.float32)
  parts["feature"] = jnp.zeros(())
  if options.feature_weight:
    distance = optax.huber_loss(
        wide(out.taps[feature_model.HIDDEN]), wide(features))
    parts["feature"] = mean(distance.mean(-1), is_real)
  if options.adversarial_weight:
    both = adversarial.losses(
        adversarial.NETWORK, params[model.part][adversarial.DISCRIMINATOR],
        p_logits, out.logits)
    parts |= {name: mean(value, in_reach) for name, value in zip(
        ("fooled", "judged"), both)}
  if options.router_weight:
    hidden = jax.lax.stop_gradient(out.taps[feature_model.HIDDEN])
    parts["router"] = mean(optax.safe_softmax_cross_entropy(
        model.route(params, hidden),
        model.group_law(params, jax.nn.softmax(p_logits))), is_real)
  return parts


def evaluator(options: FeatureRecipe, model: feature_model.FeatureModel,
              frozen: Any, windows: np.ndarray,
              accepted_fn: Callable[..., jax.Array] = columns.accepted
              ) -> Callable[[Any], dict[str, float]]:
  """`params -> metrics` on held-out windows; see `columns.evaluator`."""

  def accepted(params, frozen, tokens):
    known = {**frozen, model.part: {**frozen.get(model.part, {}), **params}}
    return accepted_fn(model, known, tokens, options.judged_depth)

  return columns.evaluator(accepted, frozen, windows)
