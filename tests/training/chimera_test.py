"""Chimera's training: the measure is decoding itself, and it learns."""

import dataclasses
import functools
import tempfile

import jax
import jax.numpy as jnp
import numpy as np

from spec_jax.core import types
from spec_jax.drafters import chimera_drafter
from spec_jax.models import chimera as networks
from spec_jax.training import chimera
from spec_jax.training import data
from spec_jax.training import loop
from tests import rounds
from tests import toy
from tests.training import features_test

OPTIONS = chimera.ChimeraRecipe(
    steps=2, num_steps=100, batch=8, length=16, learning_rate=1e-2,
    judged_depth=3, dtype="float32")


def model_of():
  return networks.from_hyper(toy.bundle().target, "chimera", OPTIONS.hyper)


@functools.cache
def trained():
  frozen = features_test.frozen()
  recipe = chimera.recipe(OPTIONS, model_of(), frozen)
  with tempfile.TemporaryDirectory() as folder:
    params = loop.fit(
        recipe, data.Rows(features_test.texts(), OPTIONS.batch), frozen=frozen,
        num_steps=OPTIONS.num_steps, folder=folder)
  return recipe.init(jax.random.key(0)), params


def known(own):
  return {**features_test.frozen(), "chimera": own}


def test_measured_acceptance_is_that_of_decoding():
  """One round of decoding from every prefix, at temperature 0."""
  depth, params = 3, known(trained()[1])
  tokens = features_test.texts(2, 12).astype(np.int32)
  found = np.asarray(chimera.accepted(
      model_of(), params, jnp.asarray(tokens), depth))
  system = rounds.compose(chimera_drafter.ChimeraDrafter(
      model_of(), (1,) * depth), toy.bundle().target)
  prefixes = [text[:size] for text in tokens for size in range(1, 13)]
  played = rounds.play(
      system, types.Params(params["target"], params),
      rounds.prompts_of(prefixes), depth + 1, num_rounds=1)
  count = next(iter(played)).outcome.verdict.count
  wanted = count[:, None] - 1 >= 1 + np.arange(depth)
  np.testing.assert_array_equal(found.reshape(-1, depth), wanted)
  assert 0 < wanted.sum() < wanted.size


def test_training_raises_acceptance():
  evaluate = chimera.evaluator(
      OPTIONS, model_of(), features_test.frozen(),
      features_test.texts(80)[64:])
  before, after = map(evaluate, trained())
  assert after["tokens_per_call"] > before["tokens_per_call"] + .25


def test_the_trigram_matters():
  """Without what it knows of the tokens, fewer drafts are accepted."""
  evaluate = chimera.evaluator(
      OPTIONS, model_of(), features_test.frozen(),
      features_test.texts(80)[64:])
  own = trained()[1]
  blind = {**own, "trigram_map": {
      **own["trigram_map"], "kernel": 0 * own["trigram_map"]["kernel"]}}
  assert evaluate(own)["accept_1"] > evaluate(blind)["accept_1"] + .1


def test_losses_of_a_perfect_guess():
  """Only the cross-entropy of the text is left, and its padding is ignored."""
  truth = toy.bundle().target.score(
      features_test.frozen()["target"], features_test.texts(2).astype(np.int32),
      taps=("final",))
  logits = truth.logits.at[..., 3].set(-jnp.inf)
  out = dataclasses.replace(
      truth, logits=logits, taps={networks.GUESS: truth.taps["final"]})
  labels = jnp.zeros(logits.shape[:2], jnp.int32)
  parts = chimera.step_losses(out, truth.taps["final"], logits, labels)
  assert not np.any(parts["feature"]) and not np.any(parts["logit"])
  np.testing.assert_allclose(
      parts["token"], -jax.nn.log_softmax(logits)[..., 0], rtol=1e-5)
  further = chimera.step_losses(
      out, truth.taps["final"] + 2, logits + 1, labels)
  np.testing.assert_allclose(further["feature"], 4, rtol=1e-4)
  np.testing.assert_allclose(further["logit"], 1 - 1 / toy.VOCAB, rtol=1e-3)


def test_columns_behind_the_end_do_not_count():
  params, tokens = trained()[0], features_test.texts(2, 8).astype(np.int32)
  frozen = features_test.frozen()
  total, metrics = chimera.objective(
      OPTIONS, model_of(), params, frozen, jnp.asarray(tokens))
  truth = model_of().target.score(
      frozen["target"], tokens, taps=("final",))
  outs = chimera.run(model_of(), known(params), jnp.asarray(tokens),
                     truth.taps["final"], 2)
  wanted = 0.0
  for step, out in enumerate(outs):
    logits = np.asarray(out.logits)[:, :7 - step]
    labels = tokens[:, step + 1:]
    entropy = -np.take_along_axis(np.asarray(jax.nn.log_softmax(
        logits)), labels[..., None], axis=2).mean()
    np.testing.assert_allclose(
        metrics[f"token_{step + 1}"], entropy, rtol=1e-4)
    wanted += (entropy + metrics[f"feature_{step + 1}"]
               + .01 * metrics[f"logit_{step + 1}"]) / 2
  np.testing.assert_allclose(total, wanted, rtol=1e-4)
