"""Optimisers: the schedules that papers print, and what they clip."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from spec_jax.training import adapters
from spec_jax.training import blocks
from spec_jax.training import chimera
from spec_jax.training import draft_lengths
from spec_jax.training import features
from spec_jax.training import glide
from spec_jax.training import optimizers

RECIPES = (features.FeatureRecipe, blocks.BlockRecipe, glide.GlideRecipe,
           chimera.ChimeraRecipe, adapters.AdapterRecipe,
           draft_lengths.LengthRecipe)


def sizes(rule, grads):
  """Updates of a parameter that is 0, `f32[n]`, under gradients."""
  params, found = jnp.zeros(()), []
  state, update = rule.init(params), jax.jit(rule.update)
  for grad in grads:
    step, state = update(jnp.float32(grad), state, params)
    found.append(float(step))
  return np.asarray(found)


def test_rates_rise_and_fall_linearly():
  rate = optimizers.triangle(0.4, 100, 20)
  np.testing.assert_allclose(
      [rate(step) for step in (0, 5, 20, 60, 90, 100)],
      [0, 0.1, 0.4, 0.2, 0.05, 0], atol=1e-6)


def test_eagles_optimizer_by_hand():
  """AdamW with betas 0.9 and 0.95 of values within 0.5."""
  grads = [8.0, -0.25, 0.5, 3.0]
  found = sizes(optimizers.eagle(0.1, 6, warmup=2), grads)
  mean = square = 0.0
  for step, grad in enumerate(np.clip(grads, -0.5, 0.5)):
    mean = 0.9 * mean + 0.1 * grad
    square = 0.95 * square + 0.05 * grad ** 2
    rate = 0.1 * (0, 0.5, 1, 0.75)[step]
    wanted = -rate * mean / (1 - 0.9 ** (step + 1)) / (
        np.sqrt(square / (1 - 0.95 ** (step + 1))) + 1e-8)
    assert found[step] == pytest.approx(wanted, rel=1e-5, abs=1e-9)


def test_each_value_is_clipped_and_not_the_norm():
  """So a large value does not shrink the others."""
  grads = {"large": jnp.full((), 100.0), "small": jnp.full((), 0.4)}
  params = jax.tree.map(jnp.zeros_like, grads)
  rules = {name: optimizers.BY_NAME[name](1.0, 9, warmup=1) for name in
           ("eagle", "cosine")}
  means = {}
  for name, rule in rules.items():
    _, state = jax.jit(rule.update)(grads, rule.init(params), params)
    (found,) = (part for part in jax.tree.leaves(
        state, is_leaf=lambda x: isinstance(x, optax.ScaleByAdamState))
                if isinstance(part, optax.ScaleByAdamState))
    means[name] = {key: float(mean) for key, mean in found.mu.items()}
  assert means["eagle"] == pytest.approx({"large": 0.05, "small": 0.04})
  assert means["cosine"] == pytest.approx({"large": 0.1, "small": 0.0004},
                                          rel=1e-3)


def test_a_cosine_after_the_warm_up():
  rule = optimizers.cosine(0.1, 12, warmup=4)
  found = -sizes(rule, [1.0] * 12)  # Of equal gradients Adam makes the rate.
  share = np.maximum(np.arange(12) - 4, 0) / 8
  wanted = np.where(np.arange(12) < 4, np.arange(12) / 4,
                    (1 + np.cos(np.pi * share)) / 2)
  np.testing.assert_allclose(found, 0.1 * wanted, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", ["eagle", "cosine"])
def test_weights_decay_and_one_step_is_a_schedule(name):
  params = jnp.ones(())
  for num_steps in (1, 8):
    rule = optimizers.BY_NAME[name](
        0.1, num_steps, warmup=1, decay=0.3, weight_decay=0.5)
    state = rule.init(params)
    _, state = rule.update(jnp.zeros(()), state, params)
    step, _ = rule.update(jnp.zeros(()), state, params)
    if num_steps > 1:
      assert float(step) == pytest.approx(-0.1 * 0.5)


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_of_a_part_takes_every_optimizer(recipe):
  assert recipe().optimizer == "adam"
  for name in optimizers.BY_NAME:
    assert dataclasses.replace(recipe(), optimizer=name).optimizer == name
  with pytest.raises(ValueError, match="unknown optimizer 'eagel'. Did you mean"
                     " 'eagle'.*Known: adam, cosine, eagle, muon"):
    recipe(optimizer="eagel")


def test_the_recipe_chooses():
  """And its own decay is that of a trapezoid only."""
  rates = {}
  for name in ("adam", "eagle"):
    for decay in (0.1, 0.9):
      options = features.FeatureRecipe(
          optimizer=name, num_steps=40, decay=decay, learning_rate=1.0)
      rates[name, decay] = -sizes(optimizers.of_part(options), [0.3] * 40)
  late = slice(20, 36)
  assert np.abs(rates["adam", 0.1] - rates["adam", 0.9])[late].min() > 0.01
  np.testing.assert_array_equal(rates["eagle", 0.1], rates["eagle", 0.9])
  # A quarter of the steps is the warm-up.
  np.testing.assert_allclose(rates["eagle", 0.1][[5, 10, 25]], [.5, 1, .5],
                             rtol=1e-3)
