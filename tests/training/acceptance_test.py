"""The acceptance head: its examples, its loss, and that it learns."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spec_jax.controllers import decision
from spec_jax.controllers import learned
from spec_jax.training import acceptance
from spec_jax.training import data
from spec_jax.training import loop
from tests import toy

OPTIONS = acceptance.AcceptanceRecipe(
    learned.AcceptanceHead(1), num_steps=60, batch=8, length=16,
    learning_rate=1e-2)


def frozen():
  return {name: toy.bundle().params[name] for name in ("target", "draft")}


def models():
  return toy.bundle().target, toy.bundle().models["draft"]


def texts(rows=64):
  return np.random.default_rng(0).integers(
      0, toy.VOCAB, (rows, OPTIONS.length)).astype(np.uint16)


def test_examples_are_draws_and_their_acceptance():
  tokens = jnp.asarray(texts(8), jnp.int32)
  for is_ahead in (False, True):
    options = dataclasses.replace(OPTIONS, is_ahead=is_ahead, mix=.5)
    features, accept, is_draw = acceptance.examples(
        options, *models(), frozen(), tokens, jax.random.key(1))
    assert features.shape == (8, OPTIONS.length - 1, 16)
    assert ((accept > 0) & (accept <= 1)).all()
    p, q = (np.asarray(jax.nn.softmax(model.score(params, tokens).logits))
            for model, params in zip(models(), frozen().values()))
    overlap = np.minimum(p, q).sum(-1)[:, :-1].mean()
    assert abs(float(accept.mean()) - overlap) < .1
    share = float(is_draw.mean())
    assert share == 1 if is_ahead else .3 < share < .7
  with_features = models()[1].score(
      frozen()["draft"], tokens, taps=("final",)).taps["final"]
  np.testing.assert_allclose(features, with_features[:, :-1], atol=1e-5)


def test_without_mixing_the_draft_reads_its_own_draws():
  tokens = jnp.asarray(texts(8), jnp.int32)
  own, _, _ = acceptance.examples(
      dataclasses.replace(OPTIONS, mix=0.), *models(), frozen(), tokens,
      jax.random.key(1))
  target, _, counts = acceptance.examples(
      dataclasses.replace(OPTIONS, mix=1.), *models(), frozen(), tokens,
      jax.random.key(1))
  assert not counts.any()
  plain = models()[1].score(
      frozen()["draft"], tokens, taps=("final",)).taps["final"][:, 1:]
  np.testing.assert_allclose(target, plain, atol=1e-5)
  assert np.abs(own - plain).max() > .1


def test_loss_weighs_rejections():
  log_probs = jnp.log(jnp.asarray([[.25, .75], [.5, .5]]))
  accept, counts = jnp.asarray([.5, .9]), jnp.asarray([True, False])
  found = acceptance.weighted_loss(log_probs, accept, counts, 6.)
  wanted = -(3 * np.log(.25) + .5 * np.log(.75)) / 3.5
  assert float(found) == pytest.approx(wanted)
  exact = acceptance.divergence(
      jnp.log(jnp.asarray([[.5, .5]])), jnp.asarray([.5]),
      jnp.asarray([True]))
  assert float(exact) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("network,is_ahead", [
    (learned.AcceptanceHead(1), False),
    (decision.DecisionNetwork((16,)), True)])
def test_training_beats_the_constant_prediction(network, is_ahead, tmp_path):
  options = dataclasses.replace(
      OPTIONS, network=network, is_ahead=is_ahead, mismatch_weight=2.)
  evaluate = acceptance.evaluator(options, *models(), frozen(), texts(32)[8:])
  params = loop.fit(
      acceptance.recipe(options, *models()),
      data.Rows(texts(), options.batch), num_steps=options.num_steps,
      folder=tmp_path, frozen=frozen())
  found = evaluate(params)
  assert found["divergence"] < .9 * found["constant"]


def test_weight_on_rejections_lowers_the_prediction(tmp_path):
  means = []
  tokens = jnp.asarray(texts(8), jnp.int32)
  for weight in (1., 6.):
    options = dataclasses.replace(OPTIONS, mismatch_weight=weight)
    params = loop.fit(
        acceptance.recipe(options, *models()),
        data.Rows(texts(), options.batch), num_steps=30,
        folder=tmp_path / str(weight), frozen=frozen())
    features, _, _ = acceptance.examples(
        options, *models(), frozen(), tokens, jax.random.key(1))
    judged = options.network.apply({"params": params}, features)
    means.append(float(jnp.exp(judged[..., 1]).mean()))
  assert means[1] < means[0] - .05


def test_hyper_parameters_rebuild_the_network():
  for network in (learned.AcceptanceHead(2), decision.DecisionNetwork((4, 2))):
    hyper = acceptance.AcceptanceRecipe(network).hyper
    assert type(network)(**hyper) == network


def test_rows_are_shuffled_anew_each_epoch():
  rows = data.Rows(np.arange(12, dtype=np.uint16).reshape(6, 2), 3)
  first = np.concatenate([rows(0), rows(1)])
  assert sorted(first[:, 0].tolist()) == [0, 2, 4, 6, 8, 10]
  assert (np.concatenate([rows(2), rows(3)]) != first).any()
  with pytest.raises(ValueError, match="2 rows, expected at least a"):
    data.Rows(rows.rows[:2], 3)
