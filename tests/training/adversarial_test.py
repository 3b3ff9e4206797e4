"""KOALA: two players, each with a loss of its own."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from spec_jax.models import contract
from spec_jax.models import token_heads as networks
from spec_jax.training import adversarial
from spec_jax.training import features
from spec_jax.training import token_heads
from tests import toy
from tests.training import features_test
from tests.training import token_heads_test

HOST = dataclasses.replace(
    token_heads_test.OPTIONS, hyper={"num_heads": 3, "num_layers": 1})
KOALA = dataclasses.replace(HOST, adversarial_weight=0.25)
TARGET = toy.bundle().target


def start(options):
  recipe = token_heads.recipe(options, TARGET, token_heads_test.frozen())
  return recipe.init(jax.random.key(0))


def gradient(options, params):
  heads = token_heads.assemble(options, TARGET)
  tokens = jnp.asarray(token_heads_test.own_texts()[:4].astype(np.int32))
  loss = lambda params: token_heads.loss_of(
      options, heads, params, token_heads_test.by_part(), tokens,
      jax.random.key(1))[0]
  return jax.jit(jax.grad(loss))(params)


def test_without_weight_it_is_the_host():
  host, koala = start(HOST), start(KOALA)
  assert set(koala) == {*host, adversarial.DISCRIMINATOR}
  jax.tree.map(np.testing.assert_array_equal, host["heads"], koala["heads"])
  faint = dataclasses.replace(KOALA, adversarial_weight=1e-9)
  jax.tree.map(
      functools.partial(np.testing.assert_allclose, atol=1e-6),
      gradient(HOST, host)["heads"], gradient(faint, koala)["heads"])


def test_further_blocks_leave_the_first_logits_alone():
  deep = dataclasses.replace(HOST, hyper={"num_heads": 3, "num_layers": 3})
  feature = jax.random.normal(jax.random.key(2), (5, 16))
  ends = contract.Ends(TARGET, token_heads_test.frozen())
  found = []
  for options in (HOST, deep):
    network = networks.MedusaHeads.for_target(TARGET, **options.hyper)
    found.append(network.apply(
        {"params": start(options)["heads"]}, feature,
        jnp.zeros((5, 3), jnp.int32), ends))
  np.testing.assert_array_equal(*found)
  np.testing.assert_allclose(
      found[0][:, 0], ends.unembed(feature), atol=1e-5)


def numeric_losses(network, params, p_logits, q_logits):
  """-log D(q), and -log D(p) - log(1 - D(q)), in float64."""
  judge = lambda logits: 1 / (1 + np.exp(-np.asarray(network.apply(
      {"params": params}, jax.nn.softmax(logits)), np.float64)))
  real, drafted = judge(p_logits), judge(q_logits)
  return -np.log(drafted), -np.log(real) - np.log(1 - drafted)


def test_each_player_moves_by_its_own_loss_alone():
  network = adversarial.Discriminator(8)
  params = adversarial.init(network, 6, jax.random.key(0))
  p_logits, q_logits = jax.random.normal(jax.random.key(1), (2, 4, 6))
  both = lambda params, q: [
      part.sum() for part in adversarial.losses(network, params, p_logits, q)]
  for found, wanted in zip(
      adversarial.losses(network, params, p_logits, q_logits),
      numeric_losses(network, params, p_logits, q_logits)):
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
  of_heads, of_judge = (jax.grad(
      lambda params, q, i=i: both(params, q)[i], (0, 1))(params, q_logits)
                        for i in range(2))
  is_zero = lambda tree: all(
      not np.any(leaf) for leaf in jax.tree.leaves(tree))
  assert is_zero(of_heads[0]) and not is_zero(of_heads[1])
  assert is_zero(of_judge[1]) and not is_zero(of_judge[0])


@pytest.mark.parametrize("is_perfect", [True, False])
def test_a_perfect_draft_cannot_be_told(is_perfect):
  """At its optimum D is one half where both laws are the same."""
  network = adversarial.Discriminator(16)
  p_logits, other = 2 * jax.random.normal(jax.random.key(3), (2, 32, 6))
  q_logits = p_logits if is_perfect else other
  params = adversarial.init(network, 6, jax.random.key(4))
  optimizer = optax.adam(2e-2)
  loss = lambda params: adversarial.losses(
      network, params, p_logits, q_logits)[1].mean()

  @jax.jit
  def learn(params):
    def step(_, carry):
      params, state = carry
      moves, state = optimizer.update(jax.grad(loss)(params), state)
      return optax.apply_updates(params, moves), state
    return jax.lax.fori_loop(
        0, 400, step, (params, optimizer.init(params)))[0]

  params = learn(params)
  real = jax.nn.sigmoid(network.apply(
      {"params": params}, jax.nn.softmax(p_logits)))
  if is_perfect:
    np.testing.assert_allclose(real, .5, atol=.05)
    np.testing.assert_allclose(loss(params), 2 * np.log(2), atol=.01)
  else:
    assert (real > .6).mean() > .9 and loss(params) < .6


def test_heads_learn_while_they_are_judged():
  """The optimiser clips each player by itself and trains both."""
  recipe = token_heads.recipe(KOALA, TARGET, token_heads_test.frozen())
  params = start(KOALA)
  state = recipe.optimizer.init(params)
  moves, _ = recipe.optimizer.update(
      gradient(KOALA, params), state, params)
  huge = gradient(KOALA, params)
  huge[adversarial.DISCRIMINATOR] = jax.tree.map(
      lambda a: 1e6 * a, huge[adversarial.DISCRIMINATOR])
  beside, _ = recipe.optimizer.update(huge, state, params)
  jax.tree.map(np.testing.assert_array_equal, moves["heads"], beside["heads"])


def test_a_feature_net_is_its_host_and_learns_while_it_is_judged():
  """EAGLE as the host: without weight nothing changes, with some both move."""
  options = dataclasses.replace(features_test.OPTIONS, noise=0.0)
  model, frozen = features_test.model_of({}), features_test.frozen()
  tokens = jnp.asarray(features_test.texts(4).astype(np.int32))
  found = {}
  for weight in (0.0, 1e-9, 0.5):
    recipe = features.recipe(
        dataclasses.replace(options, adversarial_weight=weight), model)
    params = recipe.init(jax.random.key(0))
    assert (adversarial.DISCRIMINATOR in params) == bool(weight)
    gradient, metrics = jax.jit(jax.grad(recipe.loss, has_aux=True))(
        params, frozen, tokens, jax.random.key(1))
    moves, _ = recipe.optimizer.update(
        gradient, recipe.optimizer.init(params), params)
    judge = gradient.pop(adversarial.DISCRIMINATOR, None)
    found[weight] = gradient, judge, moves, metrics
  compare = functools.partial(np.testing.assert_allclose, atol=1e-6)
  jax.tree.map(compare, found[0.0][0], found[1e-9][0])
  jax.tree.map(compare, found[1e-9][1], found[0.5][1])
  host, _, _, _ = found[0.0]
  net, judge, moves, metrics = found[0.5]
  assert any(np.abs(a - b).max() > 1e-4 for a, b in zip(
      jax.tree.leaves(host), jax.tree.leaves(net)))
  assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(judge))
  assert {"fooled_1", "judged_1"} <= set(metrics)
  assert set(moves) == {*net, adversarial.DISCRIMINATOR}
