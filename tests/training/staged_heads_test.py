"""Two stages of training: the switch, and a run that goes on across it."""

import dataclasses

import jax
import numpy as np
import pytest

from experiments.parts import run as run_lib
from experiments.parts import token_heads as parts
from spec_jax.models import recurrent_heads
from spec_jax.training import data
from spec_jax.training import loop
from spec_jax.training import staged_heads
from spec_jax.training import token_heads
from spec_jax.trees import expansion
from tests import toy
from tests.training import interrupted
from tests.training import token_heads_test

OPTIONS = staged_heads.StagedRecipe(
    recurrent_heads.MlpSpeculator, {"num_stages": 3, "is_tied": True},
    levels=3, num_steps=6, batch=2, length=24, own_windows=4, cut=2,
    learning_rate=1e-2)
TARGET = toy.bundle().target


def batches(options=OPTIONS):
  """Long windows, then short ones of other texts."""
  own = token_heads_test.own_texts()
  return data.Stages(
      data.Rows(own[:8], options.batch),
      data.Rows(own[8:, :12], options.second.batch), options.switch)


def recipe(options=OPTIONS):
  return token_heads.recipe(options, TARGET, token_heads_test.frozen())


def fit(folder, num_steps=OPTIONS.num_steps, make=None, **more):
  return loop.fit(
      make or recipe(), batches(), num_steps=num_steps, folder=folder,
      frozen=token_heads_test.by_part(), checkpoint_every=2, **more)


def test_the_second_stage_begins_at_its_step():
  """With its own first batch, whatever was asked before."""
  stages = batches()
  assert OPTIONS.switch == stages.switch == 3
  assert [stages(step).shape for step in (5, 0, 2, 3)] == [
      (4, 12), (2, 24), (2, 24), (4, 12)]
  for step in range(3):
    np.testing.assert_array_equal(stages(step), stages.first(step))
    np.testing.assert_array_equal(stages(3 + step), stages.second(step))


def test_tokens_of_a_step_and_of_the_own_text_stay_as_many():
  second = OPTIONS.second
  assert (second.batch, second.length, second.own_windows) == (4, 12, 8)
  assert second.batch * second.length == OPTIONS.batch * OPTIONS.length
  assert second.second == second


@pytest.mark.parametrize("interrupted_at", [1, 2, 3, 4, 5])
def test_resumed_across_the_switch_equals_uninterrupted(
    tmp_path, interrupted_at):
  log = interrupted.resumed_log(tmp_path, fit, interrupted_at)
  assert len(log) == OPTIONS.num_steps


def test_one_compilation_for_each_stage(tmp_path):
  make, shapes = recipe(), []
  def loss(params, frozen, tokens, key):
    shapes.append(tokens.shape)
    return make.loss(params, frozen, tokens, key)
  fit(tmp_path, make=dataclasses.replace(make, loss=loss))
  assert shapes == [(2, 24), (4, 12)]


def test_training_in_stages_raises_acceptance(tmp_path):
  options, texts = dataclasses.replace(
      OPTIONS, num_steps=60, batch=8, first_stage=.7), (
          token_heads_test.own_texts())
  stages = data.Stages(
      data.Rows(texts[:16], options.batch),
      data.Rows(texts[:16, 12:], options.batch), options.switch)
  evaluate = token_heads.evaluator(
      options, TARGET, token_heads_test.frozen(),
      expansion.Shape((1, 1, 1)), texts[16:], 4)
  make = recipe(options)
  params = loop.fit(make, stages, num_steps=60, folder=tmp_path,
                    frozen=token_heads_test.by_part())
  before = evaluate(make.init(jax.random.key(0)))
  assert evaluate(params)["accept_1"] > before["accept_1"] + .1


def run(folder, asked, **more):
  """A run whose target writes twos."""
  def own_text(options, stream, **how):
    asked.append((options.own_windows, options.length, stream[0], how))
    return np.full((options.own_windows, options.length), 2, np.uint16)
  return run_lib.Run(
      toy.bundle(), np.full(200, 1, np.uint16), np.zeros(200, np.uint16),
      own_text, folder, seed=0, checkpoint_every=9, changes={},
      progress=None, made_for="abc", **more)


def test_the_target_writes_the_second_stage(tmp_path):
  """Hot, among few tokens, on the corpus's beginnings; the first is corpus."""
  asked = []
  found = parts.in_stages(run(tmp_path, asked), OPTIONS)
  assert asked == [(8, 12, 1, {"temperatures": (1.0,), "top_k": 10})]
  assert (found(2) == 1).all() and (found(3) == 2).all()
  assert found(2).shape == (2, 24) and found(3).shape == (4, 12)


@pytest.mark.parametrize("changes", [{"first_stage": 1.0}, {"own_windows": 0}])
def test_there_may_be_no_second_stage(changes, tmp_path):
  asked = []
  found = parts.in_stages(
      run(tmp_path, asked), dataclasses.replace(OPTIONS, **changes))
  assert isinstance(found, data.Windows) and not asked


def test_each_stage_keeps_its_features(tmp_path):
  """They are taken again within the stage, and give the same losses."""
  own = run(tmp_path, [], stored_steps=2)
  make, frozen = recipe(), token_heads_test.by_part()
  reading, kept = own._stored(  # pylint: disable=protected-access
      make, batches(), OPTIONS.num_steps, frozen)
  assert sorted(path.name for path in tmp_path.iterdir()) == [
      "features", "features_second"]
  params, key = make.init(jax.random.key(0)), jax.random.key(1)
  plain = batches()
  for step in (0, 1, 3, 4):
    tokens, _ = kept(step)
    np.testing.assert_array_equal(tokens, plain(step))
    wanted = jax.jit(make.loss)(params, frozen, tokens, key)[0]
    found = jax.jit(reading.loss)(params, frozen, kept(step), key)[0]
    np.testing.assert_allclose(found, wanted, rtol=1e-4)
  assert kept(2)[0].shape == (2, 24) and kept(5)[0].shape == (4, 12)


@pytest.mark.parametrize("changes, message", [
    ({"first_stage": 0.0}, "first_stage=0.0, expected a share"),
    ({"first_stage": 1.5}, "first_stage=1.5, expected a share"),
    ({"cut": 0}, "cut=0 of length=24, expected a whole number"),
    ({"cut": 6}, "cut=6 of length=24.*levels=3"),
    ({"length": 4, "cut": 1}, "length=4, expected at least levels=3"),
])
def test_bad_recipes_are_named(changes, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(OPTIONS, **changes)
