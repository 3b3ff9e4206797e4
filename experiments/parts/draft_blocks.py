"""Small models that read a target's keys and values, or all its features."""

import functools
from types import MappingProxyType
from typing import Any

from experiments.parts import run as run_lib
from spec_jax.models import chimera as networks
from spec_jax.training import chimera
from spec_jax.training import glide


def draft_block(options: glide.GlideRecipe, run: run_lib.Run
                ) -> tuple[dict[str, Any], Any]:
  """A model beside the target's cache; goes on from its last checkpoint."""
  target, options = run.bundle.target, run.adapt(options)
  frozen = {"target": run.bundle.params["target"]}
  judged = run.judged(options, options.judged_windows)
  params = run.fit(
      glide.recipe(options, target), run.mixed(options), options.num_steps,
      frozen, evaluate=glide.evaluator(options, target, frozen, judged))
  return dict(options.hyper), params


def full_context(options: chimera.ChimeraRecipe, run: run_lib.Run
                 ) -> tuple[dict[str, Any], Any]:
  """A net that reads all features; goes on from its last checkpoint."""
  options = run.adapt(options)
  model = networks.from_hyper(run.bundle.target, "chimera", options.hyper)
  frozen = {"target": run.bundle.params["target"]}
  judged = run.judged(options, options.judged_windows)
  params = run.fit(
      chimera.recipe(options, model, frozen), run.mixed(options),
      options.num_steps, frozen,
      evaluate=chimera.evaluator(options, model, frozen, judged))
  return dict(options.hyper), params


# As wide beside the target as the published model beside its own, or so.
TRAINERS = MappingProxyType({
    "glide": functools.partial(draft_block, glide.GlideRecipe({
        "d_model": 128, "num_heads": 2, "num_kv_heads": 2, "head_dim": 64,
        "d_ff": 352, "embed_scale": 128 ** 0.5, "tie_embeddings": False})),
    "chimera": functools.partial(
        full_context, chimera.ChimeraRecipe({"is_shared": True})),
})
