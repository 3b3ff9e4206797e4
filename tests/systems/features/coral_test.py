"""CORAL: what a faithful implementation must show."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spec_jax import systems
from spec_jax.core import keys as keys_lib
from spec_jax.core import sampling as sampling_lib
from spec_jax.executors import fused
from spec_jax.models import grouped_model
from spec_jax.training import alignment
from spec_jax.training import data
from spec_jax.training import features
from spec_jax.training import groups
from spec_jax.training import loop
from tests import toy
from tests.training import features_test

SMALL = dict(budget=8, depth=3, top_k=3)


@functools.cache
def decode(name, **hyper):
  bundle = toy.bundle()
  net = {key: bundle.params["coral"][key] for key in ("fuse", "layers_0")}
  bundle = dataclasses.replace(
      bundle, params={**bundle.params, "eagle_2": net})
  system, params = systems.build(name, bundle, **{**SMALL, **hyper})
  return jax.device_get(fused.Fused().run(
      system.with_sampling(sampling_lib.Sampling(0.7)), params,
      toy.prompts(), keys_lib.row_keys(0, 4), 12))


def test_all_groups_are_eagle_2():
  jax.tree.map(np.testing.assert_array_equal,
               decode("coral", active=6), decode("eagle_2"))


def test_the_text_is_the_same_for_any_router():
  np.testing.assert_array_equal(
      decode("coral", active=1).tokens, decode("eagle_2").tokens)
  assert (decode("coral", active=1).counts.accepted.sum()
          < decode("eagle_2").counts.accepted.sum())


@pytest.mark.parametrize("num_nodes,active", [(1, 2), (1, 5), (7, 2)])
def test_logits_are_the_whole_heads_within_the_chosen_groups(
    num_nodes, active):
  """Whether rows are read per token or the head as a whole."""
  bundle = toy.bundle()
  params = {key: bundle.params[key] for key in ("target", "coral")}
  model = grouped_model.from_hyper(
      bundle.target, "coral", bundle.heads["coral"], active)
  hidden = jax.random.normal(jax.random.key(3), (2, num_nodes, 16))
  whole = np.asarray(dataclasses.replace(model, active=0).logits(
      params, hidden))
  found = np.asarray(model.logits(params, hidden))
  scores = np.asarray(model.route(params, hidden))
  for row, node in np.ndindex(2, num_nodes):
    best = np.argsort(-scores[row, node])[:active]
    known = np.asarray(params["coral"]["groups"])[best].ravel()
    wanted = np.full(toy.VOCAB, -np.inf)
    wanted[known] = whole[row, node, known]
    np.testing.assert_allclose(found[row, node], wanted, atol=1e-4)


def test_groups_that_are_not_full():
  """Places without a token stand for none."""
  bundle = toy.bundle()
  ids = jnp.asarray([[0, 4, 8, 11, 1], [2, 5, 7, 9, 3], [6, 10, 12, 12, 12]])
  params = {"target": bundle.params["target"], "coral": {
      **bundle.params["coral"], "groups": ids,
      "router": jnp.zeros((16, 3)).at[0, 2].set(1)}}
  model = grouped_model.from_hyper(
      bundle.target, "coral", {"num_groups": 3}, 1)
  hidden = jnp.ones((1, 1, 16))
  found = np.isfinite(np.asarray(model.logits(params, hidden)))[0, 0]
  assert np.flatnonzero(found).tolist() == [6, 10]
  law = jax.random.dirichlet(jax.random.key(0), jnp.ones(12))
  np.testing.assert_allclose(
      model.group_law(params, law),
      [law[ids[0]].sum(), law[ids[1]].sum(), law[6] + law[10]], rtol=1e-5)


def test_balanced_groups_keep_what_is_alike_together():
  rng = np.random.default_rng(0)
  centres = rng.normal(size=(4, 8))
  rows = np.repeat(centres, 5, axis=0) + .05 * rng.normal(size=(20, 8))
  found = {frozenset(group.tolist()) for group in groups.balanced(rows, 4)}
  assert found == {frozenset(range(i, i + 5)) for i in range(0, 20, 5)}
  odd = groups.balanced(rows, 3)
  assert odd.shape == (3, 7)
  assert sorted(odd.ravel().tolist()) == list(range(20)) + [20]
  with pytest.raises(ValueError, match="num_groups=21"):
    groups.balanced(rows, 21)


def at_positions(by_position, steps):
  """The guesses by column that say `by_position` `f[B, W, E]` at each step."""
  return [jnp.roll(by_position, -step, axis=1) for step in range(steps)]


def test_contrast_is_least_where_steps_agree():
  rng = np.random.default_rng(1)
  draw = lambda: jnp.asarray(rng.normal(size=(2, 9, 16)), jnp.float32)
  apart = [draw() for _ in range(3)]
  losses = [float(alignment.contrast(guesses, 0.1)) for guesses in (
      apart, [apart[0], apart[1], jnp.roll(apart[1], -1, 1)],
      at_positions(apart[0], 3))]
  assert losses[0] > losses[1] > losses[2]
  # Perfect guesses that do not resemble each other: nothing is left to gain.
  perfect = jnp.broadcast_to(jnp.eye(16)[None, :9], (2, 9, 16))
  assert float(alignment.contrast(at_positions(perfect, 3), 0.02)) < 1e-6
  assert float(alignment.contrast(apart[:1], 0.1)) == 0


def test_contrast_by_hand():
  """Two steps of three columns; the last column of the second is not real."""
  rng = np.random.default_rng(2)
  guesses = rng.normal(size=(2, 1, 3, 4)).astype(np.float32)
  unit = guesses / np.linalg.norm(guesses, axis=-1, keepdims=True)
  first, second = unit[0, 0], np.stack([unit[1, 0, 0], unit[1, 0, 1]])
  terms = []
  for position in (1, 2):
    ours, theirs = first[position], second[position - 1]
    for anchor, candidates, wanted in (
        (ours, second, position - 1), (theirs, first, position)):
      scores = candidates @ anchor / 0.5
      terms.append(np.log(np.exp(scores).sum()) - scores[wanted])
  found = alignment.contrast(list(jnp.asarray(guesses)), 0.5)
  np.testing.assert_allclose(found, np.mean(terms), rtol=1e-5)
  changed = guesses.copy()
  changed[1, :, 2] = 7.
  np.testing.assert_allclose(
      alignment.contrast(list(jnp.asarray(changed)), 0.5), found, rtol=1e-6)


def test_training_raises_acceptance_and_measures_that_of_decoding(tmp_path):
  """Of a net with few groups active, whose router learns with it."""
  bundle = toy.bundle()
  fixed = {"groups": bundle.params["coral"]["groups"]}
  frozen = {"target": bundle.params["target"], "coral": fixed}
  make = functools.partial(grouped_model.from_hyper, bundle.target, "coral",
                           bundle.heads["coral"])
  options = features.FeatureRecipe(
      num_steps=120, batch=8, length=16, learning_rate=1e-2, noise=0.02,
      steps=2, is_detached=True, align_weight=0.05, router_weight=1.0,
      judged_depth=3, dtype="float32")
  recipe = features.recipe(options, make(active=0))
  evaluate = features.evaluator(
      options, make(active=2), frozen, features_test.texts(80)[64:])
  with jax.numpy_dtype_promotion("standard"):
    before = evaluate(recipe.init(jax.random.key(0)))
    own = loop.fit(
        recipe, data.Rows(features_test.texts(), 8), frozen=frozen,
        num_steps=120, folder=tmp_path)
    after = evaluate(own)
  assert after["tokens_per_call"] > before["tokens_per_call"] + .25
  features_test.assert_measured_is_decoded(
      make(active=2), {**frozen, "coral": {**own, **fixed}})


def gradients(model, options, params, fixed):
  frozen = {"target": toy.bundle().params["target"], "coral": fixed}
  tokens = np.random.default_rng(3).integers(
      0, toy.VOCAB, (2, 8)).astype(np.int32)
  with jax.numpy_dtype_promotion("standard"):
    return jax.jit(jax.grad(lambda own: features.objective(
        options, model, own, frozen, tokens, jax.random.key(0))[0]))(params)


def test_without_contrast_and_with_all_groups_training_is_that_of_steps():
  """The router learns beside, and changes nothing for the net."""
  bundle = toy.bundle()
  own = dict(bundle.params["coral"])
  fixed = {"groups": own.pop("groups")}
  grouped = grouped_model.from_hyper(
      bundle.target, "coral", bundle.heads["coral"], 0)
  plain = dataclasses.replace(
      systems.build("eagle_2", bundle)[0].drafter.model, part="coral")
  options = features.FeatureRecipe(
      steps=3, noise=0.0, is_detached=True, dtype="float32")
  ours = gradients(grouped, dataclasses.replace(
      options, router_weight=1.0), own, fixed)
  assert float(jnp.abs(ours.pop("router")).max()) > 1e-4
  theirs = gradients(
      plain, options, {key: own[key] for key in ("fuse", "layers_0")}, {})
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
               ours, theirs)
  aligned = gradients(grouped, dataclasses.replace(
      options, router_weight=1.0, align_weight=1.0), own, fixed)
  gap = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), theirs,
                     {key: aligned[key] for key in theirs})
  assert max(map(float, jax.tree.leaves(gap))) > 1e-3
