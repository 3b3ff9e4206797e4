"""AdaEAGLE: what a faithful implementation must show."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spec_jax import systems
from spec_jax.core import keys as keys_lib
from spec_jax.core import sampling as sampling_lib
from spec_jax.core import types
from spec_jax.executors import fused
from spec_jax.training import data
from spec_jax.training import draft_lengths
from spec_jax.training import loop
from tests import rounds
from tests import toy
from tests.training import features_test

BUDGET, LENGTHS = 24, (4, 7, 2)


class Nearest(nn.Module):
  """Says what the nearest of the tokens it knows said."""

  @nn.compact
  def __call__(self, embeds, features):
    asked = jnp.concatenate([embeds, features], axis=-1)
    known = self.get_variable("params", "known")
    labels = self.get_variable("params", "labels")
    gap = ((asked[:, :, None] - known[None, None]) ** 2).sum(-1)
    return labels[jnp.argmin(gap, axis=-1)]


def decode(system, params):
  return jax.device_get(fused.Fused().run(
      system.with_sampling(sampling_lib.GREEDY), params,
      toy.prompts(LENGTHS), keys_lib.row_keys(0, 3), BUDGET))


def always(length, depth=4):
  """A predictor that says one number."""
  system, params = systems.build("ada_eagle", toy.bundle(), depth=depth)
  lengths = params.drafter["ada_eagle"]
  own = {**lengths, "out": {
      "kernel": 0 * lengths["out"]["kernel"],
      "bias": jnp.full((1,), length, jnp.float32)}}
  return system, params.replace(drafter={**params.drafter, "ada_eagle": own})


@pytest.mark.parametrize("said,length", [(1.9, 2), (2.4, 2), (9., 4)])
def test_one_number_is_a_fixed_length(said, length):
  ours = decode(*always(said))
  theirs = decode(*systems.build(
      "eagle_2", toy.bundle(), budget=length + 1, depth=length, top_k=1))
  np.testing.assert_array_equal(ours.tokens, theirs.tokens)
  np.testing.assert_array_equal(
      ours.counts.drafted[:, :length], theirs.counts.drafted)
  assert not ours.counts.drafted[:, length:].any()


@pytest.mark.parametrize("said", [0.4, -3.0])
def test_nothing_predicted_is_plain_decoding(said):
  counts = decode(*always(said)).counts
  assert not counts.drafted.any()
  np.testing.assert_array_equal(counts.target_calls, counts.emitted)


def test_labels_as_predictions_waste_nothing():
  """And take as many rounds as drafting the whole depth each time."""
  depth = 3
  whole = decode(*always(depth, depth))
  system, params = systems.build("ada_eagle", toy.bundle(), depth=depth)
  examples = jax.jit(functools.partial(
      draft_lengths.examples, system.drafter.model, depth=depth))
  known, labels = [], []
  for text, length in zip(whole.tokens, whole.length):
    embeds, features, counts = examples(params.drafter, text[None, :length])
    known.append(jnp.concatenate([embeds, features], axis=-1)[0])
    labels.append(counts[0])
  system = dataclasses.replace(system, drafter=dataclasses.replace(
      system.drafter, predictor=Nearest())).with_sampling(sampling_lib.GREEDY)
  params = params.replace(drafter={**params.drafter, "ada_eagle": {
      "known": jnp.concatenate(known), "labels": jnp.concatenate(labels)}})
  oracle = decode(system, params)
  np.testing.assert_array_equal(oracle.tokens, whole.tokens)
  np.testing.assert_array_equal(
      oracle.counts.target_calls, whole.counts.target_calls)
  assert (whole.counts.drafted.sum(1) > oracle.counts.drafted.sum(1)).all()
  assert oracle.counts.accepted.sum() > 0
  for each in rounds.play(system, params, toy.prompts(LENGTHS), BUDGET):
    is_running = each.before.status == types.Status.RUNNING
    # The last round of a row is cut by its budget.
    most = np.asarray(LENGTHS) + BUDGET - each.before.length
    wanted = np.minimum(each.tree.valid.sum(1), most)
    np.testing.assert_array_equal(
        each.outcome.verdict.count[is_running], wanted[is_running])


def test_error_towards_too_few_costs_more():
  predicted, labels = jnp.asarray([1., 3.]), jnp.asarray([2., 2.])
  assert float(draft_lengths.asymmetric(predicted, labels, 1.)) == 1
  assert float(draft_lengths.asymmetric(predicted, labels, 3.)) == 2


def test_what_is_judged_is_what_decoding_does():
  """One round from every prefix, at temperature 0."""
  depth = 4
  system, params = systems.build("ada_eagle", toy.bundle(), depth=depth)
  lengths = params.drafter["ada_eagle"]
  wide = {**lengths, "out": {
      "kernel": 30 * lengths["out"]["kernel"],
      "bias": jnp.full((1,), 1.5, jnp.float32)}}
  with jax.numpy_dtype_promotion("standard"):
    net = features_test.trained(features_test.OPTIONS)
  params = params.replace(drafter={
      **params.drafter, "ada_eagle": wide, "eagle_2": net})
  tokens = features_test.texts(2, 12)
  options = draft_lengths.LengthRecipe(
      network=system.drafter.predictor, depth=depth)
  with jax.numpy_dtype_promotion("standard"):
    found = draft_lengths.evaluator(
        options, system.drafter.model, params.drafter, tokens)(wide)
  prefixes = [text[:size] for text in tokens.astype(np.int32)
              for size in range(2, 13)]
  each = next(iter(rounds.play(
      system.with_sampling(sampling_lib.GREEDY), params,
      rounds.prompts_of(prefixes), depth + 1, num_rounds=1)))
  made, taken = each.tree.valid.sum(1) - 1, each.outcome.verdict.count - 1
  assert 0 < taken.sum() < made.sum() < depth * len(prefixes)
  wanted = {f"accept_{d}": (taken >= d).mean() for d in range(1, depth + 1)}
  wanted |= {"tokens_per_call": 1 + taken.mean(),
             "wasted": (made - taken).mean()}
  assert {key: found[key] for key in wanted} == pytest.approx(wanted, abs=1e-6)


def test_lengths_are_judged_by_hand():
  """A length is rounded, kept within the depth, and cut by what is right."""
  found = draft_lengths.decoded(
      jnp.asarray([[1.6, 9.0, -2.0, 1.4]]), jnp.asarray([[3., 2., 1., 0.]]), 3)
  assert {key: float(value) for key, value in found.items()} == pytest.approx({
      "accept_1": .5, "accept_2": .5, "accept_3": 0, "tokens_per_call": 2,
      "wasted": .5, "missed": .5})


def test_a_trained_predictor_beats_a_constant(tmp_path):
  """On texts that it has not seen, of a net which is trained itself."""
  model, part = features_test.model_of({}), features_test.PART
  texts = features_test.texts(576)
  options = draft_lengths.LengthRecipe(
      num_steps=150, batch=8, depth=3, learning_rate=1e-2, short_weight=1.)
  with jax.numpy_dtype_promotion("standard"):
    held = {**features_test.frozen(),
            part: features_test.trained(features_test.OPTIONS)}
    recipe = draft_lengths.recipe(options, model)
    evaluate = draft_lengths.evaluator(options, model, held, texts[512:])
    before = evaluate(recipe.init(jax.random.key(0)))
    after = evaluate(loop.fit(
        recipe, data.Rows(texts[:512], options.batch), frozen=held,
        num_steps=options.num_steps, folder=tmp_path))
  assert after["error"] < min(after["constant"], before["error"]) - .1


def test_weight_on_short_predictions_raises_them(tmp_path):
  """So that rather too many are drafted than too few."""
  system, params = systems.build("ada_eagle", toy.bundle())
  held = {key: params.drafter[key] for key in ("target", "eagle_2")}
  windows = np.random.default_rng(0).integers(
      0, toy.VOCAB, (32, 12)).astype(np.uint16)
  bias = []
  with jax.numpy_dtype_promotion("standard"):
    for weight in (1., 8.):
      options = draft_lengths.LengthRecipe(
          num_steps=40, batch=8, depth=2, learning_rate=3e-3,
          short_weight=weight)
      recipe = draft_lengths.recipe(options, system.drafter.model)
      own = loop.fit(
          recipe, data.Rows(windows, 8), frozen=held, num_steps=40,
          folder=tmp_path / str(weight))
      bias.append(float(jax.jit(recipe.loss)(
          own, held, windows.astype(np.int32), jax.random.key(0))[1]["bias"]))
  assert bias[1] > max(0, bias[0] + .1)
