"""Scylla: what a faithful implementation must show."""

import functools

import jax
import numpy as np

from spec_jax import systems
from spec_jax.core import keys as keys_lib
from spec_jax.core import sampling as sampling_lib
from spec_jax.evaluation import counts as counts_lib
from spec_jax.executors import fused
from spec_jax.models import feature_model
from spec_jax.training import data
from spec_jax.training import features
from spec_jax.training import loop
from tests import toy
from tests.training import features_test
from theory import scaling

DEPTH, BATCH, LENGTH = 3, 8, 16


def tokens_per_call(model, num_steps, folder):
  """Of a net trained on so many steps of the target's text."""
  frozen = {"target": toy.bundle().params["target"]}
  options = features.FeatureRecipe(
      num_steps=num_steps, batch=BATCH, length=LENGTH, learning_rate=1e-2,
      feature_weight=0.0, law_weight=1.0, noise=0.0, judged_depth=DEPTH,
      dtype="float32")
  params = loop.fit(
      features.recipe(options, model),
      data.Rows(features_test.texts(256), BATCH), frozen=frozen,
      num_steps=num_steps, folder=folder / str(num_steps))
  return features.evaluator(
      options, model, frozen, features_test.texts(80)[64:])(params)[
          "tokens_per_call"]


def test_tokens_per_call_rise_with_the_logarithm_of_the_data(tmp_path):
  """The law fitted to small amounts says what a larger one brings."""
  model = feature_model.from_hyper(
      toy.bundle().target, "scylla", toy.HEADS["scylla"])
  steps = np.asarray([8, 16, 32, 64])
  with jax.numpy_dtype_promotion("standard"):
    found = [tokens_per_call(model, int(num), tmp_path) for num in steps]
  assert (np.diff(found) > 0).all()
  law = scaling.fit(steps[:3] * BATCH * LENGTH, found[:3])
  assert law.slope > 0 and law.r_squared > .8
  predicted = law.predict(steps[3] * BATCH * LENGTH, ceiling=1 + DEPTH)
  assert abs(predicted - found[3]) < .35


@functools.cache
def drafted(top_k):
  """Tokens per call and nodes of trees of a width."""
  system, params = systems.build(
      "scylla", toy.bundle(), budget=1 + 2 * top_k, depth=2, top_k=top_k)
  system = system.with_sampling(sampling_lib.GREEDY)
  counts = fused.Fused().run(
      system, params, toy.prompts(), keys_lib.row_keys(0, 4), 24).counts
  return counts_lib.stats(counts).block_efficiency, 1 + 2 * top_k


def test_best_width_falls_with_the_batch():
  """Wide trees pay while the target's forward waits for its weights."""
  tokens, nodes = zip(*(drafted(top_k) for top_k in (1, 3, 6)))
  assert tokens[-1] > tokens[0]
  device = scaling.Roofline(1e9, 2e9, 1e12, 1e14)
  best = [scaling.best_width(tokens, nodes, batch, device)
          for batch in (1, 4, 16, 64, 256)]
  assert best[0] > best[-1] == 0 and (np.diff(best) <= 0).all()
