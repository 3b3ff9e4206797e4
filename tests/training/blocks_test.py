"""Block nets: glancing distillation, the measure, and learning."""

import dataclasses
import functools
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spec_jax.core import sampling as sampling_lib
from spec_jax.core import types
from spec_jax.drafters import block_drafter
from spec_jax.models import block_model
from spec_jax.training import blocks
from spec_jax.training import data
from spec_jax.training import loop
from spec_jax.training import recorded
from tests import rounds
from tests import toy
from tests.training import features_test

PART = "falcon"
OPTIONS = blocks.BlockRecipe(
    {"block": 2}, num_steps=200, batch=8, length=16, learning_rate=1e-2,
    noise=0.02, judged_depth=4, dtype="float32")
MODEL = block_model.from_hyper(toy.bundle().target, PART, OPTIONS.hyper)
FROZEN = {"target": toy.bundle().params["target"]}


@functools.cache
def trained():
  with tempfile.TemporaryDirectory() as folder:
    return loop.fit(
        blocks.recipe(OPTIONS, MODEL),
        data.Rows(features_test.texts(), OPTIONS.batch), frozen=FROZEN,
        num_steps=OPTIONS.num_steps, folder=folder)


@pytest.mark.parametrize("block,depth", [(2, 5), (3, 4)])
def test_measured_acceptance_is_that_of_decoding(block, depth):
  """One round of decoding from every prefix, at temperature 0."""
  model, own = MODEL, trained()
  if block != 2:  # Those of another block only have to agree.
    model = block_model.from_hyper(MODEL.target, PART, {"block": block})
  params = {**FROZEN, PART: own}
  tokens = features_test.texts(2, 12).astype(np.int32)
  found = np.asarray(jax.jit(blocks.accepted, static_argnums=(0, 3))(
      model, params, tokens, depth))
  drafter = block_drafter.BlockDrafter(model, (1,) * depth, "top_k")
  system = rounds.compose(drafter, model.target, sampling_lib.GREEDY)
  prefixes = [text[:size] for text in tokens for size in range(2, 13)]
  played = rounds.play(
      system, types.Params(params["target"], params),
      rounds.prompts_of(prefixes), depth + 1, num_rounds=1)
  count = next(iter(played)).outcome.verdict.count
  wanted = count[:, None] - 1 >= 1 + np.arange(depth)
  np.testing.assert_array_equal(found.reshape(-1, depth), wanted)
  assert 0 < wanted.sum() < wanted.size


def test_nothing_shown_is_one_plain_pass():
  """And a share of the wrong guesses changes what is read, and the loss."""
  tokens = features_test.texts(4, 12).astype(np.int32)
  own = MODEL.init(jax.random.key(3))
  plain = dataclasses.replace(OPTIONS, glance=0.0, noise=0.0, hard_weight=0.0)
  found = [float(blocks.objective(
      dataclasses.replace(plain, glance=glance), MODEL, own, FROZEN, tokens,
      jax.random.key(4), step)[0]) for glance, step in (
          (0.0, 0), (1e-6, 0), (1.0, 0), (1.0, OPTIONS.num_steps))]
  np.testing.assert_allclose(found[0], found[1], rtol=1e-6)
  assert abs(found[2] - found[0]) > 1e-4
  # When all steps are done nothing is shown any more.
  np.testing.assert_allclose(found[0], found[3], rtol=1e-6)
  truth = MODEL.target.score(FROZEN["target"], tokens, taps=("final",))
  # Offsets only differ in what the first pairs see.
  by_offset = []
  for offset in range(2):
    out = blocks.read_text(
        MODEL, {**FROZEN, PART: own}, tokens[:, 1:],
        truth.taps["final"][:, :-1], offset)
    gap = np.abs(out.taps["hidden"][:, :-1] - truth.taps["final"][:, 2:])
    smooth = np.where(gap < 1, .5 * gap ** 2, gap - .5).mean()
    law = jax.nn.softmax(truth.logits[:, 2:])
    cross = -(law * jax.nn.log_softmax(out.logits[:, :-1])).sum(-1).mean()
    by_offset.append(float(smooth + 0.1 * cross))
  assert min(abs(found[0] - np.asarray(by_offset))) < 1e-4


def test_the_share_that_is_shown_falls_with_the_steps():
  """The paper's 0.4 (E - e) / E, with steps as epochs."""
  options = blocks.BlockRecipe(num_steps=40)
  found = [float(blocks.shown_share(options, step))
           for step in (0, 10, 20, 39, 40, 50)]
  np.testing.assert_allclose(found, [.4, .3, .2, .01, 0, 0], atol=1e-6)


def test_as_many_are_shown_as_the_share_of_the_wrong_ones():
  """In whole blocks, whatever is wrong."""
  width, options = 60, blocks.BlockRecipe(num_steps=10)
  is_wrong = jnp.asarray(np.random.default_rng(0).random((4, width)) < .7)
  for step in (0, 3, 10):
    share = blocks.shown_share(options, step)
    found = np.asarray(blocks.shown(jax.random.key(step), is_wrong, 3, share))
    wanted = np.round(.4 * (10 - step) / 10 * np.asarray(is_wrong).sum(1) / 3)
    np.testing.assert_array_equal(found.sum(1), 3 * wanted)


def test_the_loop_tells_the_loss_its_step(tmp_path):
  """Also of a run that goes on, and of features that were stored."""
  options = dataclasses.replace(OPTIONS, num_steps=4, batch=2)
  recipe = blocks.recipe(options, MODEL)
  rows = data.Rows(features_test.texts(8), options.batch)
  kept = recorded.Recorded(rows, recipe.reads, tmp_path / "kept", "abc", 2)
  kept.write(FROZEN["target"], kept.missing())
  for name, make, batches in (
      ("plain", recipe, rows), ("stored", recorded.reading(recipe), kept)):
    for num_steps in (2, 4):
      loop.fit(make, batches, frozen=FROZEN, num_steps=num_steps,
               folder=tmp_path / name)
    log = loop.read_log(tmp_path / name / loop.LOG_NAME)
    np.testing.assert_allclose(
        [row["shown_share"] for row in log], [.4, .3, .2, .1], rtol=1e-6)


def test_training_raises_acceptance():
  evaluate = blocks.evaluator(
      OPTIONS, MODEL, FROZEN, features_test.texts(80)[64:])
  recipe = blocks.recipe(OPTIONS, MODEL)
  before = evaluate(recipe.init(jax.random.key(0)))
  after = evaluate(trained())
  assert after["tokens_per_call"] > before["tokens_per_call"] + .25
  assert after["accept_1"] >= after["accept_2"] >= after["accept_3"]
