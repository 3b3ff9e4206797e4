"""Feature nets: the n-step harness, the losses, the measure, and learning."""

import dataclasses
import functools
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spec_jax.core import sampling as sampling_lib
from spec_jax.core import types
from spec_jax.drafters import ahead_drafter
from spec_jax.models import feature_model
from spec_jax.training import columns
from spec_jax.training import data
from spec_jax.training import features
from spec_jax.training import loop
from spec_jax.trees import likelihood
from tests import features as oracle
from tests import rounds
from tests import toy

PART = "net"
OWN_HEAD = {"taps": (0, 1, 2), "fusion": "attend", "head_size": 8}
SPECIALISTS = {"layers": {"num_layers": 3}, "span": 1}
EXPERTS = {"num_experts": 2}
HYBRID = {"layers": {"num_layers": 2}, "num_heads": 2}
SPLIT = {"fusion": "sample", "is_split": True}
# What the target writes most.
IDS = jnp.asarray([0, 1, 3, 7, 8, 9, 10, 11], jnp.int32)
OPTIONS = features.FeatureRecipe(
    num_steps=120, batch=8, length=16, learning_rate=1e-2, noise=0.02,
    judged_depth=3, dtype="float32")
AHEAD = dataclasses.replace(OPTIONS, hyper=EXPERTS, ahead_weights=(0.5,))
SERIAL = dataclasses.replace(
    OPTIONS, hyper=HYBRID, steps=2, ahead_weights=(.5, .25))
PARTED = dataclasses.replace(OPTIONS, hyper=SPLIT)
POSITIONS = dataclasses.replace(
    OPTIONS, hyper=SPECIALISTS, steps=3, step_decay=1.0, is_detached=True)
LAW_ALONE = dataclasses.replace(
    OPTIONS, hyper=OWN_HEAD, feature_weight=0.0, law_weight=1.0, steps=3,
    noise=0.0)
NETS = {"1": OPTIONS, "3": LAW_ALONE, "ahead": AHEAD, "serial": SERIAL,
        "parted": PARTED, "positions": POSITIONS}


def model_of(hyper):
  return feature_model.from_hyper(
      toy.bundle().target, PART, hyper, PART if "head_size" in hyper else None)


@functools.cache
def frozen(with_ids=False):
  held = {"target": toy.bundle().params["target"]}
  return held | ({PART: {"token_ids": IDS}} if with_ids else {})


def random_params(model):
  own = jax.jit(model.init)(jax.random.key(7))
  return {**frozen(), PART: {**own, "token_ids": IDS}}


def texts(rows=64, length=16):
  """The target's own greedy texts from random pairs of tokens."""
  rng = np.random.default_rng(0)
  params, target = frozen()["target"], toy.bundle().target
  score = jax.jit(lambda tokens: target.score(params, tokens).logits)
  found = np.zeros((rows, length), np.int32)
  found[:, :2] = rng.integers(0, toy.VOCAB, (rows, 2))
  for i in range(2, length):
    found[:, i] = np.argmax(score(found)[:, i - 1], axis=-1)
  return found.astype(np.uint16)


@pytest.mark.parametrize("hyper", [
    {}, OWN_HEAD, SPECIALISTS, EXPERTS, HYBRID, SPLIT], ids=str)
def test_columns_are_drafts_from_every_prefix(hyper):
  """The diagonal of keys is really running from each column."""
  model = model_of(hyper)
  params = random_params(model)
  tokens = np.random.default_rng(1).integers(
      0, toy.VOCAB, (2, 9)).astype(np.int32)
  taps = model.target.score(
      params["target"], tokens, taps=model.taps).taps
  outs = jax.jit(columns.run, static_argnums=(0, 4))(
      model, params, tokens, model.enter(params, taps), 4)
  for row, column in ((0, 0), (0, 3), (1, 2), (1, 4)):
    text = tokens[row, :column + 2]
    wanted = oracle.rollout(
        model, params, text, tokens[row, column + 2:column + 5])
    for step in range(4):
      np.testing.assert_allclose(
          outs[step].logits[row, column], wanted[step], atol=1e-4)


@pytest.mark.parametrize("options", NETS.values(), ids=NETS)
def test_measured_acceptance_is_that_of_decoding(options):
  assert_measured_is_decoded(model_of(options.hyper), {
      **frozen(), PART: {**trained(options), "token_ids": IDS}})


def assert_measured_is_decoded(model, params, depth=3):
  """One round of decoding from every prefix, at temperature 0."""
  tokens = texts(2, 12).astype(np.int32)
  found = np.asarray(jax.jit(columns.accepted, static_argnums=(0, 3))(
      model, params, tokens, depth))
  drafter = ahead_drafter.AheadFeatureDrafter(
      model, likelihood.MostLikely(depth + 1, 1, depth, 1),
      num_ahead=min(model.net.num_ahead, depth - model.net.num_serial))
  system = rounds.compose(drafter, model.target, sampling_lib.GREEDY)
  prefixes = [text[:size] for text in tokens for size in range(2, 13)]
  played = rounds.play(
      system, types.Params(params["target"], params),
      rounds.prompts_of(prefixes), depth + 1, num_rounds=1)
  count = next(iter(played)).outcome.verdict.count
  wanted = count[:, None] - 1 >= 1 + np.arange(depth)
  np.testing.assert_array_equal(found.reshape(-1, depth), wanted)
  assert 0 < wanted.sum() < wanted.size


def test_losses_of_a_perfect_guess():
  """Nothing is to be learnt where the guess is the feature itself."""
  model = model_of({})
  out = toy.bundle().target.score(
      frozen()["target"], texts(2).astype(np.int32), taps=("final",))
  guess = types.ModelOut(out.logits, None, {"hidden": out.taps["final"]})
  parts = features.step_losses(
      OPTIONS, model, frozen(), guess, out.logits, out.taps["final"],
      jnp.ones((1, 16), bool))
  law = jax.nn.softmax(out.logits)
  entropy = -(law * jnp.log(jnp.maximum(law, 1e-30))).sum(-1).mean()
  assert float(parts["feature"]) == 0 and float(parts["agreement"]) == 1
  np.testing.assert_allclose(parts["law"], entropy, rtol=1e-4)


def test_law_of_a_small_vocabulary_leaves_out_what_it_cannot_say():
  """Columns whose best token is unknown count as 0; the law is renormalised."""
  model = model_of(OWN_HEAD)
  p_logits = jnp.zeros((1, 2, toy.VOCAB))
  p_logits = p_logits.at[0, 0, 3].set(2.).at[0, 1, 2].set(2.)
  q_logits = jnp.arange(8.)[None, None].repeat(2, axis=1)
  out = types.ModelOut(q_logits, None, {})
  parts = features.step_losses(
      dataclasses.replace(LAW_ALONE, rejection_weight=1.0), model, frozen(True),
      out, p_logits, None, jnp.ones((1, 2), bool))
  law = jax.nn.softmax(p_logits[0, 0, IDS])
  wanted = -(law * jax.nn.log_softmax(q_logits[0, 0])).sum() / 2
  np.testing.assert_allclose(parts["law"], wanted, rtol=1e-5)
  turned_down = [1 - jnp.minimum(*(jax.nn.softmax(logits / t) for logits in (
      p_logits[0, 0, IDS], q_logits[0, 0]))).sum() for t in (.5, 1.)]
  np.testing.assert_allclose(
      parts["rejection"], sum(turned_down) / 2 / 2, rtol=1e-5)


def test_only_real_targets_count():
  """Changing what lies behind a window's end changes nothing."""
  model = model_of({})
  params = random_params(model)[PART]
  options = dataclasses.replace(OPTIONS, noise=0.0, steps=3)
  tokens = texts(2, 8).astype(np.int32)
  total, metrics = features.objective(
      options, model, params, frozen(), tokens, jax.random.key(0))
  steps = columns.run(
      model, {**frozen(), PART: params}, tokens, model.target.score(
          frozen()["target"], tokens, taps=("final",)).taps["final"], 3)
  truth = model.target.score(
      frozen()["target"], tokens, taps=("final",)).taps["final"]
  expected = []
  for step, out in enumerate(steps):
    gap = np.abs(out.taps["hidden"][:, :7 - step] - truth[:, 1 + step:])
    smooth = np.where(gap < 1, .5 * gap ** 2, gap - .5)
    expected.append(smooth.mean())
    np.testing.assert_allclose(
        metrics[f"feature_{step + 1}"], expected[-1], rtol=1e-4)
  law = [metrics[f"law_{step + 1}"] for step in range(3)]
  np.testing.assert_allclose(
      total, sum(.8 ** i * (expected[i] + .1 * law[i]) for i in range(3)),
      rtol=1e-4)


@functools.cache
def trained(options):
  with tempfile.TemporaryDirectory() as folder:
    return loop.fit(
        features.recipe(options, model_of(options.hyper)),
        data.Rows(texts(), options.batch),
        frozen=frozen("head_size" in options.hyper),
        num_steps=options.num_steps, folder=folder)


@pytest.mark.parametrize("options", NETS.values(), ids=NETS)
def test_training_raises_acceptance(options):
  model = model_of(options.hyper)
  evaluate = features.evaluator(
      options, model, frozen("head_size" in options.hyper), texts(80)[64:])
  recipe = features.recipe(options, model)
  before = evaluate(recipe.init(jax.random.key(0)))
  after = evaluate(trained(options))
  assert after["tokens_per_call"] > before["tokens_per_call"] + .25
  assert after["accept_1"] >= after["accept_2"] >= after["accept_3"]


@pytest.mark.parametrize("hyper", [{}, OWN_HEAD], ids=["eagle", "eagle_3"])
def test_training_on_own_steps_drafts_deeper(hyper):
  """EAGLE-3's ablation: as good at the first draft, far better at the third."""
  found = []
  for steps in (1, 3):
    options = dataclasses.replace(LAW_ALONE, hyper=hyper, steps=steps)
    found.append(features.evaluator(
        options, model_of(hyper), frozen("head_size" in hyper),
        texts(80)[64:])(trained(options)))
  assert abs(found[0]["accept_1"] - found[1]["accept_1"]) < .1
  assert found[1]["accept_3"] > found[0]["accept_3"] + .2


@functools.partial(jax.jit, static_argnums=2)
def overlaps(own, tokens, num_steps):
  """How often a draw from EAGLE's net is accepted, by steps of own guesses.

  Of the same tokens at each step; the first one reads true features alone.
  """
  model, params = model_of({}), {**frozen(), PART: own}
  truth = model.target.score(params["target"], tokens, taps=model.taps)
  outs = columns.run(
      model, params, tokens, model.enter(params, truth.taps), num_steps)
  p = jax.nn.softmax(truth.logits[:, num_steps:])
  width = p.shape[1]
  starts = num_steps - 1 - np.arange(num_steps)
  return [jnp.minimum(p, jax.nn.softmax(
      out.logits[:, start:start + width])).sum(-1).mean()
          for out, start in zip(outs, starts)]


def test_true_features_are_accepted_more_than_guesses():
  """EAGLE's ablations; without the token after the feature far fewer hold."""
  own, tokens = trained(OPTIONS), texts(192)[64:].astype(np.int32)
  rates = overlaps(own, tokens, 4)
  assert rates[0] > max(rates[1:]) + .005
  project = own["fuse"]["project"]
  kernel = project["kernel"].at[:project["kernel"].shape[1]].set(0)
  blind = {**own, "fuse": {"project": {**project, "kernel": kernel}}}
  assert overlaps(blind, tokens, 4)[0] < rates[-1] - .2
