"""SWIFT: the search, its scores and its suggestions; the caterpillar tree."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from spec_jax import systems
from spec_jax.core import keys as keys_lib
from spec_jax.core import sampling as sampling_lib
from spec_jax.core import system as system_lib
from spec_jax.core import tree as tree_lib
from spec_jax.executors import decoding
from spec_jax.systems.self_speculative import swift
from tests import chi_square
from tests import toy
from tests.conformance import runs
from tests.systems.self_speculative import models

ROUNDS, IDENTITY, VOCAB = 40, 2, toy.VOCAB
HYPER = dict(depth=2, share=0.5, score_window=4,
             widths=((0.6, 1), (0.2, 2), (-1.0, 3)))


@functools.cache
def build(sampling=sampling_lib.GREEDY):
  """Four layers, one of the two inner ones does nothing."""
  model, params = models.deep(4)
  params = models.without(params, [IDENTITY])
  system, params = systems.build("swift", models.bundle(model, params), **HYPER)
  return system.with_sampling(sampling), params


@functools.cache
def history():
  """The state after each round of a greedy decode."""
  system, params = build()
  prompts = toy.prompts((5, 3))
  state = decoding.start(system, params, prompts, keys_lib.row_keys(0, 2),
                         150, 192)
  step = jax.jit(lambda state: system_lib.step(system, params, state)[0])
  states = [state]
  for _ in range(ROUNDS):
    states.append(step(states[-1]))
  return states


def test_best_score_never_falls_and_the_set_keeps_its_size():
  policy = [state.drafter.policy for state in history()]
  scores = np.stack([p.score for p in policy])
  assert (np.diff(scores, axis=0) >= 0).all() and (scores[-1] > 0).all()
  sizes = np.stack([p.best.sum(-1) for p in policy])
  np.testing.assert_array_equal(sizes, 2)
  system, _ = build()
  gates = system.drafter.policy.gates(system.target, policy[-1].best)
  assert gates[:, [0, -1]].all()


def test_finds_the_layer_that_does_nothing():
  last = history()[-1].drafter.policy
  np.testing.assert_array_equal(last.score, 1)
  assert (last.trials >= 1).all() and (last.failures <= last.trials).all()


def test_empty_set_scores_one_on_greedy_text():
  system, params = build()
  state = history()[-1]
  ctx = system_lib.context(params, state)
  policy = system.drafter.policy
  score = lambda skipped: policy.score(
      system.target, params.target, skipped, ctx, state.drafter.start)
  nothing = jnp.zeros((2, 4), bool)
  np.testing.assert_array_equal(score(nothing), 1)
  assert score(~nothing).min() < 1


def test_bound_is_that_of_a_gaussian_process():
  rng = np.random.default_rng(1)
  points, sets = rng.random((8, 6)) < .5, rng.random((20, 6)) < .5
  values, known = rng.random(8).astype(np.float32), 5
  scores = (values[:known] - values[:known].mean()) / values[:known].std()

  def kernel(a, b):
    distance = np.sqrt(5 * (a[:, None] != b[None]).sum(-1))
    return (1 + distance + distance ** 2 / 3) * np.exp(-distance)

  inverse = np.linalg.inv(
      kernel(points[:known], points[:known]) + 1e-2 * np.eye(known))
  across = kernel(sets, points[:known])
  bound = across @ inverse @ scores + 2.5 * np.sqrt(
      1 - np.einsum("cp,pr,cr->c", across, inverse, across))
  best = swift.best_bound(jnp.asarray(sets), jnp.asarray(points),
                          jnp.asarray(values), jnp.int32(known), 2.5)
  assert bound[int(best)] >= bound.max() - 1e-3


def test_random_sets_have_the_size_asked_for():
  sets = swift.random_sets(jax.random.key(0), 50, 10, 4)
  np.testing.assert_array_equal(sets.sum(-1), 4)
  assert len(np.unique(np.asarray(sets), axis=0)) > 30


def test_tree_is_a_chain_with_leaf_siblings_of_the_drafting_law():
  system, params = build(runs.PLAIN)
  state = history()[20]
  tree, _ = system_lib.propose(system, params, state)
  tree_lib.check(tree)
  np.testing.assert_array_equal(tree.parents[0], [-1, 0, 0, 0, 1, 1, 1])
  # The laws are those of the gated model on the whole text.
  plan = state.drafter.plan
  for row, length in enumerate(np.asarray(state.length)):
    text = np.concatenate([state.tokens[row, :length], tree.tokens[row, 1:2]])
    out = system.target.forward(
        params.target, jnp.asarray(text[None, length - 1:]),
        jnp.asarray([[length - 1, length]]),
        jnp.tril(jnp.ones((2, 2), bool))[None],
        jax.tree.map(lambda a, i=row: a[i:i + 1], state.cache),
        gates=plan.gates[row])
    laws = runs.PLAIN.probs(out.logits[0])
    np.testing.assert_allclose(tree.q[row, 0], laws[0], atol=1e-5)
    if tree.valid[row, 4]:
      np.testing.assert_allclose(tree.q[row, 1], laws[1], atol=1e-5)


def test_joint_law_of_two_tokens():
  """Widths by the confidence of what was drawn keep the target's law."""
  system, params = build(runs.PLAIN)
  prompt = np.asarray([[8, 6, 3, 4]])
  score = lambda texts: np.asarray(runs.PLAIN.probs(system.target.score(
      params.target, jnp.asarray(texts, jnp.int32)).logits[:, -1]), np.float64)
  texts = np.concatenate(
      [np.tile(prompt, (VOCAB, 1)), np.arange(VOCAB)[:, None]], axis=1)
  law = score(prompt)[0][:, None] * score(texts)
  sample = runs.law_sample(system, params)[:, :2]
  assert chi_square.p_value(
      chi_square.joint_counts(sample, VOCAB), law / law.sum()) > 1e-4
