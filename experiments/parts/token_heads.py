"""Draft heads on the target's features."""

import functools
from types import MappingProxyType
from typing import Any

from experiments.parts import run as run_lib
from spec_jax.evaluation import report
from spec_jax.models import clover_heads
from spec_jax.models import recurrent_heads
from spec_jax.models import token_heads as networks
from spec_jax.systems.heads import clover_2
from spec_jax.systems.heads import hydra_pp
from spec_jax.training import adversarial
from spec_jax.training import data
from spec_jax.training import joint_heads as joint
from spec_jax.training import staged_heads as staged
from spec_jax.training import token_heads
from spec_jax.trees import expansion
from spec_jax.trees import shapes

_JUDGED = 32  # Windows that heads are judged by.
# Trees are planned for so many nodes, of so many ranks.
_CALIBRATED, _RANKS = (4, 6, 8, 12, 16, 32, 64), 10


def draft_heads(options: token_heads.TokenHeadRecipe, run: run_lib.Run
                ) -> tuple[dict[str, Any], Any]:
  """Heads on the target's features; goes on from its last checkpoint.

  Beside the log it writes calibration.json: how often the token of each rank is
  right, and the trees that this suits, by their number of nodes.
  """
  return _trained(options, run, token_heads.recipe, run_lib.Run.mixed)


def staged_heads(options: staged.StagedRecipe, run: run_lib.Run
                 ) -> tuple[dict[str, Any], Any]:
  """The same on ordinary text first, then on what the target wrote."""
  return _trained(options, run, token_heads.recipe, in_stages)


def in_stages(run: run_lib.Run, options: staged.StagedRecipe
              ) -> data.Windows | data.Stages:
  """Batches of the corpus, then shorter windows of the target's own text."""
  first = data.Windows(run.train, options.batch, options.length, run.seed)
  if options.switch == options.num_steps:
    return first
  second = options.second
  own = run.own_text(
      second, run.train, temperatures=(options.own_temperature,),
      top_k=options.own_top_k)
  return data.Stages(
      first, data.Rows(own, second.batch, run.seed), options.switch)


def joint_heads(options: joint.JointRecipe, run: run_lib.Run
                ) -> tuple[dict[str, Any], Any]:
  """The same with adapters of the target, which the part then holds.

  They are judged with the target as it has become, on texts that it wrote as
  it was.
  """
  return _trained(options, run, joint.recipe, run_lib.Run.mixed)


def _trained(options, run, recipe_fn, batches_fn):
  target, frozen = run.bundle.target, run.bundle.params["target"]
  options = run.adapt(options)
  judged = run.judged(options, _JUDGED, temperatures=(0.0,))
  start = run_lib.begun(options.length)
  evaluate = token_heads.evaluator(
      options, target, frozen, expansion.Shape((1,) * options.levels), judged,
      start)
  params = run.fit(
      recipe_fn(options, target, frozen), batches_fn(run, options),
      options.num_steps, {"target": frozen}, evaluate=evaluate)
  params.pop(adversarial.DISCRIMINATOR, None)
  accepts = token_heads.rank_accuracy(
      options, target, frozen, params, judged, start, _RANKS)
  report.write_json(run.folder / "calibration.json", {
      "accepts": accepts.tolist(),
      "trees": {nodes: shapes.calibrated(accepts, nodes)
                for nodes in _CALIBRATED}})
  return dict(options.hyper), params


# Draft heads by system. Four levels: the depth of the published trees. Heads
# that a bundle is to hold end in the target's output head: with one of their
# own each, as published, they would weigh more than the target.
HEADS: MappingProxyType[str, token_heads.TokenHeadRecipe] = MappingProxyType({
    "medusa_1": token_heads.TokenHeadRecipe(
        networks.MedusaHeads,
        {"num_heads": 4, "num_layers": 2, "is_shared": True}),
    # KOALA's heads are deeper than those of its host, by one block here.
    "koala": token_heads.TokenHeadRecipe(
        networks.MedusaHeads,
        {"num_heads": 4, "num_layers": 3, "is_shared": True},
        adversarial_weight=0.1),
    "hydra": token_heads.TokenHeadRecipe(
        networks.HydraHeads, {"num_heads": 4}, learning_rate=1e-3, decay=1.0),
    "hydra_pp": token_heads.TokenHeadRecipe(
        networks.HydraHeads,
        {"num_heads": 4, "num_layers": 2, "dropout": 0.2, "is_shared": True},
        encoder_layers=hydra_pp.PREFIX_LAYERS, num_steps=150,
        learning_rate=1e-3, floor=1 / 3, weight_decay=0.1, decay=1.0,
        is_taught=True),
    "clover_2": token_heads.TokenHeadRecipe(
        clover_heads.CloverHeads, {"num_heads": 5}, levels=5,
        encoder_layers=clover_2.ENCODER_LAYERS, num_steps=130,
        learning_rate=1e-3, decay=0.7, is_taught=True, feature_weight=10.0),
    "recurrent_drafter": token_heads.TokenHeadRecipe(
        recurrent_heads.RecurrentHead, {}, levels=5, warmup=0.1, decay=1.0),
    "bpd": token_heads.TokenHeadRecipe(
        networks.BlockwiseHeads, {"num_heads": 4, "hidden": 384}, decay=1.0),
})

STAGED_HEADS: MappingProxyType[str, staged.StagedRecipe] = MappingProxyType({
    "token_embedding_speculator": staged.StagedRecipe(
        recurrent_heads.MlpSpeculator,
        {"num_stages": 4, "is_tied": True, "scales_input": True}, decay=1.0),
})

# Heads that are trained with their target. The published rank is 32, of targets
# ten times as wide as the shipped one.
JOINT_HEADS: MappingProxyType[str, joint.JointRecipe] = MappingProxyType({
    "medusa_2": joint.JointRecipe(
        networks.MedusaHeads,
        {"num_heads": 4, "num_layers": 2, "is_shared": True}, rank=8),
})

TRAINERS = MappingProxyType({
    name: functools.partial(train_fn, recipe)
    for train_fn, recipes in (
        (draft_heads, HEADS), (staged_heads, STAGED_HEADS),
        (joint_heads, JOINT_HEADS))
    for name, recipe in recipes.items()})
