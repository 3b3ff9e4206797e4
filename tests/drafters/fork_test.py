"""Forks that a network cuts: the static one, the shorter one, the text."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spec_jax.controllers import decision
from spec_jax.core import keys as keys_lib
from spec_jax.core import sampling as sampling_lib
from spec_jax.core import types
from spec_jax.drafters import draft_model
from spec_jax.drafters import grown_draft_model
from spec_jax.executors import decoding
from spec_jax.systems import registration
from spec_jax.trees import fork
from spec_jax.verifiers import recursive
from spec_jax.verifiers import walk
from tests import toy
from tests.conformance import runs

WIDTH, DEPTH = 2, 3


class Scripted(nn.Module):
  """Says one probability of acceptance for all."""

  share: float = 0.5

  @nn.compact
  def __call__(self, features):
    accept = jnp.full(features.shape[:-1], self.share)
    return jnp.log(jnp.stack([1 - accept, accept], -1))


def drafter(threshold=0.4, depth=DEPTH, network=None):
  network = network or Scripted()
  return grown_draft_model.GrownDraftModel(
      toy.bundle().models["draft"], fork.Fork(WIDTH, depth),
      decision.Decision(network, threshold), ("draft", "judge"))


def params(judge=None):
  bundle = toy.bundle()
  return types.Params(bundle.params["target"], {
      "draft": bundle.params["draft"], "judge": judge or {}})


def plain_params():
  bundle = toy.bundle()
  return types.Params(bundle.params["target"], bundle.params["draft"])


@functools.cache
def system(part):
  bundle = toy.bundle()
  parts = registration.Parts(bundle.target, bundle.models)
  return registration.compose(
      "fork", parts, part, recursive.RecursiveWithoutReplacement())


def proposal(part, sampling, weights):
  sys = system(part)
  state = decoding.start(sys, weights, toy.prompts((3, 5)),
                         keys_lib.row_keys(0, 2), 8, 32)
  ctx = types.Context(state.tokens, state.length, state.keys, None, None)
  return jax.device_get(jax.jit(part.propose, static_argnums=3)(
      weights.drafter, state.drafter, ctx, sampling)[0])


@pytest.mark.parametrize("sampling", [runs.PLAIN, runs.GREEDY])
def test_thresholds_zero_and_one_are_the_static_fork_and_one_level(sampling):
  whole = proposal(drafter(0.0), sampling, params())
  assert whole.valid.all() and whole.num_nodes == 1 + WIDTH * DEPTH
  wanted = np.asarray([-1, 0, 0, 1, 2, 3, 4])
  assert (whole.parents == wanted).all()
  short = proposal(drafter(1.0), sampling, params())
  assert (short.valid.sum(1) == 1 + WIDTH).all()
  # The tree that was cut is the one of a fork of that depth.
  flat = proposal(drafter(0.0, depth=1), sampling, params())
  np.testing.assert_array_equal(short.tokens[:, :3], flat.tokens)
  np.testing.assert_array_equal(short.tokens[:, :3], whole.tokens[:, :3])


def test_greedy_fork_is_that_of_the_static_drafter():
  static = draft_model.DraftModel(
      toy.bundle().models["draft"], (WIDTH,) + (1,) * (DEPTH - 1),
      "without_replacement")
  found = proposal(drafter(0.0), runs.GREEDY, params())
  wanted = proposal(static, runs.GREEDY, plain_params())
  np.testing.assert_array_equal(found.tokens, wanted.tokens)
  np.testing.assert_array_equal(found.parents, wanted.parents)


def single():
  """One branch, and no network."""
  return grown_draft_model.GrownDraftModel(
      toy.bundle().models["draft"], fork.Fork(1, DEPTH))


@jax.jit
def chains_of_draws(laws, keys):
  """Draws one after another from laws `[B, D, V]`, each with fresh noise."""
  found = []
  for level in range(DEPTH):
    found.append(jax.vmap(sampling_lib.draw)(keys, laws[:, level]))
    keys = jax.vmap(jax.random.fold_in, (0, None))(keys, 1)
  return jnp.stack(found, axis=1)


@pytest.mark.parametrize("sampling", [runs.PLAIN, runs.GREEDY])
def test_one_branch_without_a_network_is_plain_speculation(sampling):
  tree = proposal(single(), sampling, plain_params())
  assert tree.valid.all() and (tree.parents == np.arange(-1, DEPTH)).all()
  prompts, lengths = toy.prompts((3, 5)), np.asarray([3, 5])
  texts = np.pad(np.asarray(prompts.tokens), ((0, 0), (0, DEPTH)))
  slots = lengths[:, None] + np.arange(DEPTH)
  np.put_along_axis(texts, slots, tree.tokens[:, 1:], axis=1)
  bundle = toy.bundle()
  logits = jax.jit(bundle.models["draft"].score)(
      bundle.params["draft"], texts).logits
  logits = jnp.take_along_axis(logits, slots[:, :, None] - 1, axis=1)
  if sampling.is_greedy:
    np.testing.assert_array_equal(tree.tokens[:, 1:], logits.argmax(-1))
    return
  laws = tree.q[:, :DEPTH]
  np.testing.assert_allclose(
      laws, jax.jit(sampling.probs)(logits), rtol=1e-4, atol=1e-6)
  keys = jax.vmap(keys_lib.at, (0, 0, None))(
      keys_lib.row_keys(0, 2), lengths, types.Role.DRAFT)
  np.testing.assert_array_equal(
      tree.tokens[:, 1:], chains_of_draws(laws, keys))


def test_one_branch_is_judged_as_a_single_draft():
  tree = proposal(single(), runs.PLAIN, plain_params())
  tree = jax.tree.map(lambda a: jnp.repeat(a, 32, axis=0), tree)
  near = jnp.log(tree.q + 1e-3) + jax.random.normal(
      jax.random.key(0), tree.q.shape)
  ctx = types.Context(tree.tokens, jnp.ones((64,), jnp.int32),
                      keys_lib.row_keys(1, 64), None, None)
  verdicts = [jax.jit(walk.walk, static_argnums=(0, 1))(
      rule, runs.PLAIN, tree, near, ctx) for rule in (
          recursive.RecursiveWithoutReplacement(), recursive.Rejection())]
  jax.tree.map(np.testing.assert_array_equal, *verdicts)
  assert len(set(verdicts[0].count.tolist())) > 2


def test_any_likely_branch_goes_on():
  judge = decision.Decision(Scripted(), 0.4)
  taps = {"final": jnp.zeros((2, 3, 4))}
  exists = jnp.asarray([[False, True, False], [False] * 3])
  assert judge.proceed({}, taps, exists).tolist() == [True, False]
  unlikely = decision.Decision(Scripted(0.3), 0.4)
  assert not unlikely.proceed({}, taps, exists).any()


def test_the_network_sees_what_the_level_was_drawn_with():
  """Cut exactly where a plain loop over its outputs cuts."""
  network = decision.DecisionNetwork((8,))
  bundle = toy.bundle()
  judge = network.init(jax.random.key(5), jnp.zeros((1, 16)))["params"]
  judge = jax.tree.map(lambda a: 4 * a, judge)
  whole = proposal(drafter(0.0, network=network), runs.GREEDY, params(judge))
  prompts, likely = toy.prompts((3, 5)), []
  for row, length in enumerate((3, 5)):
    text = np.asarray(prompts.tokens)[row, :length].tolist()
    chains = [text + [int(whole.tokens[row, 1 + b + WIDTH * level])
                      for level in range(DEPTH)] for b in range(WIDTH)]
    taps = bundle.models["draft"].score(
        bundle.params["draft"], jnp.asarray(chains), taps=("final",)).taps
    judged = network.apply({"params": judge}, taps["final"])[..., 1]
    likely.append(np.exp(judged[:, length - 1:]).max(0))
  # Between what is said of the two roots: one of the rows ends there.
  bound = float((likely[0][0] + likely[1][0]) / 2)
  tree = proposal(drafter(bound, network=network), runs.GREEDY, params(judge))
  levels = [1 + int(np.argmin([*(said[:DEPTH - 1] > bound), False]))
            for said in likely]
  assert tree.valid.sum(1).tolist() == [1 + WIDTH * n for n in levels]
  assert min(levels) == 1 < max(levels)


@pytest.mark.parametrize("make,message", [
    (lambda: fork.Fork(0, 3), "width=0"), (lambda: fork.Fork(2, 0), "depth=0"),
    (lambda: decision.Decision(None, 1.5), "threshold=1.5")])
def test_bad_hyper_parameters_are_named(make, message):
  with pytest.raises(ValueError, match=message):
    make()
