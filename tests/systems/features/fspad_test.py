"""FSPAD: what a faithful implementation must show."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax

from spec_jax import systems
from spec_jax.core import keys as keys_lib
from spec_jax.core import sampling as sampling_lib
from spec_jax.core import types
from spec_jax.executors import fused
from spec_jax.models import feature_model
from spec_jax.training import features
from tests import toy

PLAIN = {"fusion": "project", "is_split": False}
OPTIONS = features.FeatureRecipe(noise=0.0, law_weight=1.0, dtype="float32")


def model_of(hyper):
  return feature_model.from_hyper(toy.bundle().target, "fspad", hyper)


def decode(name, bundle):
  system, params = systems.build(name, bundle, budget=8, depth=3, top_k=3)
  return jax.device_get(fused.Fused().run(
      system.with_sampling(sampling_lib.Sampling(0.7)), params,
      toy.prompts(), keys_lib.row_keys(0, 4), 12))


def loss(model, params):
  tokens = np.random.default_rng(3).integers(
      0, toy.VOCAB, (4, 8)).astype(np.int32)
  frozen = {"target": toy.bundle().params["target"]}
  return features.objective(
      OPTIONS, model, params, frozen, tokens, jax.random.key(0))[0]


def test_without_both_it_is_eagle_bit_for_bit():
  bundle = toy.bundle()
  net = bundle.params["eagle_2"]
  ours = dataclasses.replace(
      bundle, params={**bundle.params, "fspad": net},
      heads={**bundle.heads, "fspad": PLAIN})
  jax.tree.map(np.testing.assert_array_equal,
               decode("fspad", ours), decode("eagle_2", bundle))
  eagle = dataclasses.replace(model_of({}), part="fspad")
  with jax.numpy_dtype_promotion("standard"):
    jax.tree.map(
        np.testing.assert_array_equal,
        *(jax.jit(jax.value_and_grad(lambda own, model=model: loss(
            model, own)))(net) for model in (model_of(PLAIN), eagle)))


def test_guess_and_speech_may_differ():
  """One is handed on and regressed, the other is what the head reads."""
  model, bundle = model_of(toy.HEADS["fspad"]), toy.bundle()
  params = {key: bundle.params[key] for key in ("target", "fspad")}
  position = jnp.zeros((1, 1), jnp.int32)
  run = lambda: model.forward(
      params, jnp.asarray([[3]]), jnp.ones((1, 1, 16)), position,
      jnp.ones((1, 1, 1), bool))
  before = run()
  speech = params["fspad"]["speech"]["kernel"]
  params["fspad"] = {**params["fspad"], "speech": {"kernel": speech * 2}}
  after = run()
  np.testing.assert_array_equal(before.taps["hidden"], after.taps["hidden"])
  assert np.abs(np.asarray(before.logits - after.logits)).max() > 1e-2


def test_token_gates_the_feature():
  """A gate that is shut leaves the feature as it was."""
  model, bundle = model_of(toy.HEADS["fspad"]), toy.bundle()
  fuse = bundle.params["fspad"]["fuse"]
  net = model.net.bind({"params": bundle.params["fspad"]})
  embeds, feature = jax.random.normal(jax.random.key(0), (2, 1, 5, 16))
  x, residual = net.fuse(embeds, feature)
  aspects = feature @ fuse["aspects"]["kernel"]
  gate = jax.nn.silu(embeds @ fuse["gate"]["kernel"])
  np.testing.assert_allclose(
      x, feature + (aspects * gate) @ fuse["sample"]["kernel"], atol=1e-4)
  np.testing.assert_array_equal(x, residual)
  np.testing.assert_allclose(
      net.fuse(jnp.zeros_like(embeds), feature)[0], feature, atol=1e-6)


def reached(is_split):
  """The least sum of both losses over maps of outputs that are given.

  The target's features and laws are drawn apart from each other, so that no
  feature is the best for both.
  """
  model, keys = model_of(toy.HEADS["fspad"]), jax.random.split(
      jax.random.key(1), 4)
  x, wanted = jax.random.normal(keys[0], (2, 2, 12, 16))
  p_logits = 3 * jax.random.normal(keys[1], (2, 12, toy.VOCAB))
  own, optimizer = toy.bundle().params["fspad"], optax.adam(1e-2)
  maps = {"guess": own["guess"], "speech": own["speech"]}

  def total(maps):
    both = maps if is_split else {"guess": maps["guess"],
                                  "speech": maps["guess"]}
    known = {"target": toy.bundle().params["target"], "fspad": own | both}
    said = model.net.apply(
        {"params": known["fspad"]}, x, None, None, method="say")
    parts = features.step_losses(
        OPTIONS, model, known, types.ModelOut(
            model.speak(known, said), None, said), p_logits, wanted,
        jnp.ones((1, 12), bool))
    return parts["feature"] + parts["law"]

  @jax.jit
  def step(maps, state):
    value, grads = jax.value_and_grad(total)(maps)
    updates, state = optimizer.update(grads, state)
    return optax.apply_updates(maps, updates), state, value

  state, values = optimizer.init(maps), []
  for _ in range(400):
    maps, state, value = step(maps, state)
    values.append(float(value))
  return min(values)


def test_two_outputs_reach_a_lower_sum_of_the_losses():
  with jax.numpy_dtype_promotion("standard"):
    assert reached(True) < reached(False) - .1
