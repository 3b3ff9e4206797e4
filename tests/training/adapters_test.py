"""Adapters: the measure is decoding itself, the loss, and learning."""

import dataclasses
import functools
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spec_jax.controllers import fixed
from spec_jax.core import types
from spec_jax.drafters import early_exit_drafter
from spec_jax.models import early_exit
from spec_jax.training import adapters
from spec_jax.training import data
from spec_jax.training import loop
from tests import rounds
from tests import toy
from tests.training import features_test

OPTIONS = adapters.AdapterRecipe(
    toy.HEADS["kangaroo"], num_steps=80, batch=8, length=16, learning_rate=1e-2,
    judged_depth=3, dtype="float32")
RECIPES = {"kangaroo": OPTIONS, "eesd": dataclasses.replace(
    OPTIONS, hyper=toy.HEADS["eesd"], is_self_taught=True)}


def windows(options):
  """Text of the target; but for the self-taught half of it is a corpus's."""
  own = features_test.texts()
  if options.is_self_taught:
    return data.Rows(own, options.batch)
  corpus = np.random.default_rng(2).integers(0, toy.VOCAB, 2048)
  return data.Mixed(data.Windows(
      corpus.astype(np.uint16), options.batch, options.length), own)


@functools.cache
def trained(name="kangaroo"):
  options, frozen = RECIPES[name], features_test.frozen()
  model = early_exit.from_hyper(toy.bundle().target, name, options.hyper)
  recipe = adapters.recipe(options, model, frozen)
  with tempfile.TemporaryDirectory() as folder:
    params = loop.fit(
        recipe, windows(options), frozen=frozen, num_steps=options.num_steps,
        folder=folder)
  return model, recipe.init(jax.random.key(0)), params


@pytest.mark.parametrize("name", RECIPES)
def test_measured_acceptance_is_that_of_decoding(name):
  """One round of decoding from every prefix, at temperature 0."""
  depth, (model, _, own) = 3, trained(name)
  params = {**features_test.frozen(), name: own}
  tokens = features_test.texts(2, 12).astype(np.int32)
  found = np.asarray(adapters.accepted(model, params, tokens, depth))
  system = rounds.compose(early_exit_drafter.EarlyExitDrafter(
      model, fixed.Fixed(), depth, "top_k"), model.target)
  prefixes = [text[:size] for text in tokens for size in range(1, 13)]
  played = rounds.play(
      system, types.Params(params["target"], params),
      rounds.prompts_of(prefixes), depth + 1, num_rounds=1)
  count = next(iter(played)).outcome.verdict.count
  wanted = count[:, None] - 1 >= 1 + np.arange(depth)
  np.testing.assert_array_equal(found.reshape(-1, depth), wanted)
  assert 0 < wanted.sum() < wanted.size


@pytest.mark.parametrize("name", RECIPES)
def test_training_raises_acceptance(name):
  model, before, after = trained(name)
  evaluate = adapters.evaluator(
      RECIPES[name], model, features_test.frozen(),
      features_test.texts(80)[64:])
  before, after = evaluate(before), evaluate(after)
  assert after["tokens_per_call"] > before["tokens_per_call"] + .1


def test_the_loss_is_least_where_the_law_is_the_targets():
  """The target's entropy, reached by features that are the target's own."""
  model, before, _ = trained()
  frozen = features_test.frozen()
  tokens = features_test.texts(4).astype(np.int32)
  loss, _ = adapters.objective(model, before, frozen, tokens)
  law = jax.nn.softmax(model.target.score(frozen["target"], tokens).logits)
  entropy = -(law * jnp.log(jnp.maximum(law, 1e-30))).sum(-1).mean()
  assert float(loss) > float(entropy) + .01
  whole = dataclasses.replace(model, adapter=Perfect(model))
  least, metrics = adapters.objective(whole, {}, frozen, tokens)
  np.testing.assert_allclose(least, entropy, rtol=1e-4)
  assert float(metrics["agreement"]) == 1


@dataclasses.dataclass(frozen=True)
class Perfect:
  """Stands in for an adapter; runs the target's own last layers."""

  model: early_exit.EarlyExit

  def score(self, params, tokens, embeds, taps, with_logits):
    del params
    target = self.model.target
    return target.score(
        features_test.frozen()["target"], tokens, embeds=embeds, taps=taps,
        with_logits=with_logits,
        layers=(self.model.exit_layer, target.config.num_layers))
