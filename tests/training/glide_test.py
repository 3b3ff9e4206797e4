"""GliDe's training: the measure is decoding itself, and it learns."""

import functools
import tempfile

import jax
import jax.numpy as jnp
import numpy as np

from spec_jax.core import types
from spec_jax.drafters import glide_drafter
from spec_jax.models import glide as networks
from spec_jax.training import data
from spec_jax.training import glide
from spec_jax.training import loop
from spec_jax.trees import likelihood
from tests import rounds
from tests import toy
from tests.training import features_test

OPTIONS = glide.GlideRecipe(
    {"d_model": 16, "num_heads": 2, "num_kv_heads": 2, "head_dim": 8,
     "d_ff": 32, "embed_scale": 4.0, "tie_embeddings": False},
    num_steps=150, batch=8, length=16, learning_rate=2e-2, judged_depth=3,
    dtype="float32")


@functools.cache
def trained():
  recipe = glide.recipe(OPTIONS, toy.bundle().target)
  with tempfile.TemporaryDirectory() as folder:
    params = loop.fit(
        recipe, data.Rows(features_test.texts(), OPTIONS.batch),
        frozen=features_test.frozen(), num_steps=OPTIONS.num_steps,
        folder=folder)
  return recipe.init(jax.random.key(0)), params


def test_measured_acceptance_is_that_of_decoding():
  """One round of decoding from every prefix, at temperature 0."""
  depth, target = 3, toy.bundle().target
  frozen, own = features_test.frozen()["target"], trained()[1]
  model = networks.from_hyper(target, OPTIONS.hyper)
  tokens = features_test.texts(2, 12).astype(np.int32)
  found = np.asarray(jax.jit(functools.partial(
      glide.accepted, model, target, depth=depth))(
          own, frozen, tokens=jnp.asarray(tokens)))
  system = rounds.compose(glide_drafter.GlideDrafter(
      model, likelihood.MostLikely(depth + 1, 1, depth, 1)), target)
  prefixes = [text[:size] for text in tokens for size in range(1, 13)]
  played = rounds.play(system, types.Params(frozen, own),
                       rounds.prompts_of(prefixes), depth + 1, num_rounds=1)
  count = next(iter(played)).outcome.verdict.count
  wanted = count[:, None] - 1 >= 1 + np.arange(depth)
  np.testing.assert_array_equal(found.reshape(-1, depth), wanted)
  assert 0 < wanted.sum() < wanted.size


def test_training_raises_acceptance():
  evaluate = glide.evaluator(
      OPTIONS, toy.bundle().target, features_test.frozen(),
      features_test.texts(80)[64:])
  before, after = map(evaluate, trained())
  assert after["tokens_per_call"] > before["tokens_per_call"] + .25
