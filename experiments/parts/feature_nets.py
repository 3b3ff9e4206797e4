"""Nets that guess the target's features, and what hangs on them."""

import functools
from types import MappingProxyType
from typing import Any

import numpy as np

from experiments.parts import run as run_lib
from experiments.parts import vocabularies
from spec_jax.models import block_model
from spec_jax.models import feature_model
from spec_jax.models import grouped_model
from spec_jax.systems import registration
from spec_jax.systems.features import coral as coral_system
from spec_jax.training import adversarial
from spec_jax.training import blocks
from spec_jax.training import data
from spec_jax.training import draft_lengths
from spec_jax.training import features
from spec_jax.training import groups


def feature_net(name: str, options: features.FeatureRecipe, run: run_lib.Run
                ) -> tuple[dict[str, Any], Any]:
  """A net that guesses features; goes on from its last checkpoint."""
  options = run.adapt(options)
  return _fit_features(name, options, run, options.hyper, {})


def eagle_3(options: features.FeatureRecipe, run: run_lib.Run
            ) -> tuple[dict[str, Any], Any]:
  """Three taps of the target, and a head for its most frequent tokens."""
  options, config = run.adapt(options), run.bundle.target.config
  own = run.own_text(options, run.train)
  ids = vocabularies.written(options, run, own, options.vocabulary)
  taps = feature_model.three_depths(config.num_layers)
  return _fit_features("eagle_3", options, run, {
      "taps": taps, "tap_scale": features.tap_scale(
          run.bundle.target, run.bundle.params["target"], taps,
          own[:4].astype(np.int32)),
      "fusion": "attend", "head_size": len(ids), **options.hyper},
                       {feature_model.TOKEN_IDS: ids})


def poss(options: features.FeatureRecipe, run: run_lib.Run
         ) -> tuple[dict[str, Any], Any]:
  """Specialists that begin as copies of EAGLE's layer."""
  known = registration.Parts(
      run.bundle.target, {}, heads=run.bundle.heads).head("eagle_2")
  net = run.bundle.params["eagle_2"]
  layers = {**known.get("layers", {}), **options.hyper["layers"]}
  count = layers["num_layers"]
  begin = {"fuse": net["fuse"]} | {
      f"layers_{i}": net["layers_0"] for i in range(count)}
  hyper = {**known, **options.hyper, "layers": layers}
  return _fit_features("poss", run.adapt(options), run, hyper, {}, begin)


def coral(options: features.FeatureRecipe, run: run_lib.Run
          ) -> tuple[dict[str, Any], Any]:
  """A net whose steps agree, and a router to groups of the target's rows."""
  target, hyper = run.bundle.target, options.hyper
  rows = np.asarray(target.output_table(run.bundle.params["target"]))
  ids = groups.balanced(
      rows, min(hyper["num_groups"], len(rows)), run.seed)
  make = functools.partial(grouped_model.from_hyper, target, "coral", hyper)
  return _fit_features(
      "coral", run.adapt(options), run, hyper, {grouped_model.GROUPS: ids},
      models=(make(active=0), make(active=coral_system.ACTIVE)))


def falcon(options: blocks.BlockRecipe, run: run_lib.Run
           ) -> tuple[dict[str, Any], Any]:
  """A net that guesses blocks of features."""
  options = run.adapt(options)
  model = block_model.from_hyper(run.bundle.target, "falcon", options.hyper)
  frozen = {"target": run.bundle.params["target"]}
  return options.hyper, _fit(
      options, run, blocks.recipe(options, model), frozen, functools.partial(
          blocks.evaluator, options, model, frozen))


def length_predictor(options: draft_lengths.LengthRecipe, run: run_lib.Run
                     ) -> tuple[dict[str, Any], Any]:
  """How many of EAGLE's drafts will be accepted."""
  bundle, options = run.bundle, run.adapt(options)
  model = feature_model.from_hyper(
      bundle.target, "eagle_2", registration.Parts(
          bundle.target, {}, heads=bundle.heads).head("eagle_2"))
  frozen = {name: bundle.params[name] for name in ("target", "eagle_2")}
  windows = data.Rows(run.own_text(options, run.train), options.batch, run.seed)
  judged = run.judged(options, options.judged_windows)
  params = run.fit(
      draft_lengths.recipe(options, model), windows, options.num_steps, frozen,
      evaluate=draft_lengths.evaluator(options, model, frozen, judged))
  return options.hyper, params


def _fit_features(name, options, run, hyper, fixed, begin=None, models=None):
  """Trains a net; `fixed` are parameters of its part that are not trained.

  Of two `models` the first is trained and the second judged.
  """
  bundle = run.bundle
  model, judged_model = models or 2 * (feature_model.from_hyper(
      bundle.target, name, hyper, name if fixed else None),)
  frozen = {"target": bundle.params["target"], name: fixed}
  params = _fit(
      options, run, features.recipe(options, model, frozen, begin), frozen,
      functools.partial(features.evaluator, options, judged_model, frozen))
  params = {name: part for name, part in params.items()
            if name != adversarial.DISCRIMINATOR}
  return hyper, {**params, **fixed}


def _fit(options, run, recipe, frozen, evaluator_fn):
  """Trains on the corpus and on the target's own text."""
  return run.fit(
      recipe, run.mixed(options), options.num_steps, frozen,
      evaluate_every=max(1, options.num_steps // 4),
      evaluate=evaluator_fn(run.judged(options, options.judged_windows)))


TRAINERS = MappingProxyType({
    "eagle_2": functools.partial(
        feature_net, "eagle_2", features.FeatureRecipe()),
    # KOALA's net is deeper than its host's, by one layer here.
    "koala_eagle": functools.partial(
        feature_net, "koala_eagle", features.FeatureRecipe(
            {"layers": {"num_layers": 2}}, adversarial_weight=0.1)),
    "eagle_3": functools.partial(eagle_3, features.FeatureRecipe(
        num_steps=1500, batch=4, learning_rate=4e-3, steps=3,
        feature_weight=0.0, law_weight=1.0, noise=0.0)),
    "poss": functools.partial(poss, features.FeatureRecipe(
        {"layers": {"num_layers": 3}, "span": 1}, num_steps=150,
        learning_rate=5e-4, steps=4, step_decay=1.0, is_detached=True)),
    "jakiro": functools.partial(feature_net, "jakiro", features.FeatureRecipe(
        {"num_experts": 2}, num_steps=300, ahead_weights=(0.5,))),
    # Two residual blocks a head: with five, as published, the heads would weigh
    # half as much as the target.
    "gumiho": functools.partial(feature_net, "gumiho", features.FeatureRecipe(
        {"layers": {"num_layers": 2}, "num_heads": 5, "num_blocks": 2},
        num_steps=220, batch=8, steps=2, step_decay=1.0, judged_depth=7,
        ahead_weights=tuple(0.8 ** (i + 1) / 9 for i in range(5)))),
    "coral": functools.partial(coral, features.FeatureRecipe(
        {"num_groups": 16}, num_steps=250, batch=8, steps=3, step_decay=1.0,
        is_detached=True, align_weight=0.05, router_weight=1.0)),
    "fspad": functools.partial(feature_net, "fspad", features.FeatureRecipe(
        {"fusion": "sample", "is_split": True})),
    # Pre-trained: on law alone, more than others, on the corpus for a half.
    "scylla": functools.partial(feature_net, "scylla", features.FeatureRecipe(
        {"layers": {"num_layers": 3}}, num_steps=500, batch=8,
        feature_weight=0.0, law_weight=1.0, noise=0.0)),
    "falcon": functools.partial(falcon, blocks.BlockRecipe(
        {"block": 2}, num_steps=300, batch=8, judged_depth=6)),
    "ada_eagle": functools.partial(
        length_predictor, draft_lengths.LengthRecipe()),
})
