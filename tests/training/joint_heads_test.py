"""Heads trained with adapters of their target: what moves, and how fast."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spec_jax.models import lora
from spec_jax.models import token_heads as networks
from spec_jax.training import data
from spec_jax.training import joint_heads
from spec_jax.training import loop
from spec_jax.training import losses
from spec_jax.training import token_heads
from spec_jax.trees import expansion
from tests import toy
from tests.training import token_heads_test

OPTIONS = joint_heads.JointRecipe(
    networks.MedusaHeads, {"num_heads": 3}, levels=3, num_steps=40, batch=8,
    length=24, learning_rate=1e-2, rank=2)
KEY = jax.random.key(0)
frozen, by_part = token_heads_test.frozen, token_heads_test.by_part


def target():
  return toy.bundle().target


@functools.cache
def start(options=OPTIONS):
  return jax.jit(joint_heads.recipe(options, target(), frozen()).init)(KEY)


def moved():
  """Parameters as some training would leave them."""
  return {**start(), lora.CHANGE: toy.randomised(start()[lora.CHANGE], .1)}


def texts(rows=4):
  return jnp.asarray(token_heads_test.own_texts()[:rows], jnp.int32)


def loss_fn(options=OPTIONS):
  return jax.jit(joint_heads.recipe(options, target(), frozen()).loss)


def test_training_starts_with_the_target_as_it_is():
  for step in (0, 30):
    _, metrics = loss_fn()(start(), by_part(), texts(), KEY, step)
    assert metrics["own"] == 0 and metrics["unchanged"] == 1
  _, metrics = loss_fn()(moved(), by_part(), texts(), KEY, 0)
  assert metrics["own"] > .01 and metrics["unchanged"] < 1


@pytest.mark.parametrize("is_distilled", [True, False])
def test_loss_is_the_targets_own_and_the_weighted_one_of_the_heads(
    is_distilled):
  """By hand, from a target whose weights were changed beforehand."""
  options = dataclasses.replace(
      OPTIONS, is_distilled=is_distilled, weight=.3, decay=.5, ramp="linear")
  found, metrics = loss_fn(options)(moved(), by_part(), texts(), KEY, 10)
  changed = lora.merged(frozen(), moved()[lora.CHANGE])
  before, now = (target().score(own, texts()).logits
                 for own in (frozen(), changed))
  p, log_q = jax.nn.softmax(before), jax.nn.log_softmax(now)
  own = (p * (jnp.log(p) - log_q)).sum(-1).mean()
  if not is_distilled:
    own = losses.next_token(now, texts())
  # Level k from 1 on counts decay ** k.
  heads = token_heads.assemble(options, target())
  drafts, _ = token_heads.loss_of(
      options, heads, {"heads": moved()["heads"]}, {"target": changed}, texts(),
      KEY)
  expected = own + .3 * .25 * .5 * drafts
  assert float(found) == pytest.approx(float(expected), rel=1e-4)
  assert float(metrics["heads_weight"]) == pytest.approx(.3 * .25 * .5)


@pytest.mark.parametrize("ramp, wanted", [
    ("constant", [1, 1, 1, 1]), ("two_stages", [1, 1, 1, 1]),
    ("linear", [0, .25, .5, 1]), ("sine", [0, .38268, .70711, 1])])
def test_how_much_the_heads_count(ramp, wanted):
  options = dataclasses.replace(OPTIONS, ramp=ramp)
  found = [joint_heads.ramp(options, step) for step in (0, 10, 20, 40)]
  np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_the_published_weights_are_the_defaults():
  options = joint_heads.JointRecipe(networks.MedusaHeads, {})
  assert (options.rank, options.weight, options.decay) == (32, .2, .8)
  assert options.adapter_rate == 1 / 4 and options.is_distilled


def test_gradients_reach_heads_and_factors_only():
  """Of both losses together, and of each of them the right ones."""
  grads = jax.jit(jax.grad(lambda params: loss_fn()(
      params, by_part(), texts(), KEY, 20)[0]))(moved())
  assert set(grads) == {"heads", lora.CHANGE}
  for leaf in jax.tree.leaves(grads):
    assert jnp.abs(leaf).max() > 0
  # Without a weight of the heads, factors are drawn to the target alone.
  calm = jax.jit(jax.grad(lambda params: loss_fn(dataclasses.replace(
      OPTIONS, weight=0.0))(params, by_part(), texts(), KEY, 20)[0]))(moved())
  assert all((leaf == 0).all() for leaf in jax.tree.leaves(calm["heads"]))
  assert all(jnp.abs(x).max() > 0 for x in jax.tree.leaves(calm[lora.CHANGE]))


def steps_of(options, num_steps):
  """Size of the largest update of heads and adapters, step by step."""
  rule, params = joint_heads.optimizer(options), start()
  state, found = rule.init(params), []
  grads = jax.tree.map(jnp.ones_like, params)
  update = jax.jit(rule.update)
  for _ in range(num_steps):
    updates, state = update(grads, state, params)
    found.append([float(max(jnp.abs(x).max() for x in jax.tree.leaves(
        updates[key]))) for key in ("heads", lora.CHANGE)])
  return np.asarray(found)


def test_heads_learn_four_times_as_fast():
  heads, adapters = steps_of(OPTIONS, 6).T
  assert heads[0] == adapters[0] == 0  # The warm-up starts there.
  np.testing.assert_allclose(heads[1:] / adapters[1:], 4, rtol=1e-3)


def test_adapters_wait_for_the_heads_in_two_stages():
  options = dataclasses.replace(
      OPTIONS, ramp="two_stages", num_steps=10, first_stage=.4)
  heads, adapters = steps_of(options, 10).T
  assert (heads[1:4] > 0).all() and (adapters[:5] == 0).all()
  assert (adapters[5:9] > 0).all()


def test_training_changes_the_target_a_little_and_raises_acceptance(tmp_path):
  own = token_heads_test.own_texts()
  rows = data.Rows(own[:16], OPTIONS.batch)
  make = joint_heads.recipe(OPTIONS, target(), frozen())
  before = jax.tree.map(jnp.copy, frozen())
  fit = functools.partial(
      loop.fit, make, rows, folder=tmp_path, frozen=by_part(),
      checkpoint_every=10)
  fit(num_steps=10)
  params = fit(num_steps=OPTIONS.num_steps)  # Goes on.
  whole = loop.fit(make, rows, frozen=by_part(), num_steps=OPTIONS.num_steps,
                   folder=tmp_path / "whole")
  jax.tree.map(np.testing.assert_array_equal, params, whole)
  jax.tree.map(np.testing.assert_array_equal, before, frozen())
  log = loop.read_log(tmp_path / loop.LOG_NAME)
  assert log[0]["own"] < 1e-6 < .001 < log[-1]["own"] < .5
  assert log[-1]["heads"] < log[0]["heads"]
  evaluate = token_heads.evaluator(
      OPTIONS, target(), frozen(), expansion.Shape((1, 1, 1)), own[16:], 4)
  assert evaluate(params)["accept_1"] > evaluate(start())["accept_1"] + .1
  # It is judged with the target as it has become.
  lone = {"heads": params["heads"]}
  changed = token_heads.evaluator(
      OPTIONS, target(), lora.merged(frozen(), params[lora.CHANGE]),
      expansion.Shape((1, 1, 1)), own[16:], 4)
  assert evaluate(params) == changed(lone)


@pytest.mark.parametrize("changes, message", [
    ({"ramp": "cosine"}, "ramp='cosine', expected one of constant, linear"),
    ({"first_stage": 1.0}, "first_stage=1.0, expected a share"),
    ({"adversarial_weight": .1}, "adversarial_weight=0.1, expected 0"),
    ({"length": 4}, "length=4, expected at least levels=3"),
])
def test_bad_recipes_are_named(changes, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(OPTIONS, **changes)
