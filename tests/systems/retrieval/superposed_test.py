"""Superposed drafts: the laws of the fact sheet."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import spec_jax
from spec_jax.core import tree as tree_lib
from spec_jax.models import ngram
from spec_jax.systems.retrieval import superposed
from spec_jax.training import ngrams
from tests import rounds
from tests import toy

PROMPTS = [[3, 1, 4], [1, 5, 9, 2]]


def generate(temperature=0.0, **hyper):
  system, params = spec_jax.build("superposed", toy.bundle(), **hyper)
  return spec_jax.generate(system, params, PROMPTS, max_new_tokens=16,
                           temperature=temperature)


def test_one_draft_without_ngrams_is_greedy_decoding():
  result = generate(num_drafts=1, num_tokens=1, alpha=0.0, depth=3)
  assert result.stats.acceptance == 1.0
  toys = toy.bundle()
  for prompt, tokens in zip(PROMPTS, result.tokens):
    assert prompt + tokens == toy.greedy_reference(
        toys.target, toys.params["target"], prompt, 16)


def test_weights_of_the_mixture_sum_to_one():
  rng = np.random.default_rng(0)
  same = jnp.ones((2, 3, 4)) * jnp.asarray([[[2.0]], [[3.0]]])
  scores = jnp.asarray(rng.normal(size=(2, 3)), jnp.float32)
  np.testing.assert_allclose(superposed.superpose(same, scores), same[:, :1],
                             rtol=1e-6)
  embeds = jnp.asarray(rng.normal(size=(2, 3, 4)), jnp.float32)
  np.testing.assert_allclose(
      superposed.superpose(embeds, jnp.full((2, 3), -7.0)),
      embeds.mean(1, keepdims=True), rtol=1e-5, atol=1e-6)
  gone = jnp.asarray([[0.0, -jnp.inf, -jnp.inf]] * 2)
  np.testing.assert_allclose(superposed.superpose(embeds, gone), embeds[:, :1],
                             rtol=1e-6)


def test_ngrams_alone_rank_at_alpha_one():
  log_p = jnp.log(jnp.asarray([[0.7, 0.2, 0.1]]))
  counted = jnp.asarray([[[0.1, 0.3, 0.2], [0.0, 0.0, 0.0]]])
  found = superposed.interpolate(1.0, log_p, counted)
  np.testing.assert_allclose(found[0, 0], np.log([0.1, 0.3, 0.2]), rtol=1e-5)
  assert (found[0, 1] == -200.0).all()
  alone = superposed.interpolate(0.0, log_p, counted)
  np.testing.assert_allclose(alone[0], jnp.stack([log_p[0]] * 2))


def test_counted_ratios_are_those_of_the_text():
  text = np.asarray([1, 2, 3, 1, 2, 4, 1, 2, 3, 0, 2, 3])
  model = ngrams.count(text, 5, order=3, discount=1e-6, least=1)
  seen = model.seen(jnp.asarray([[1, 2], [0, 2], [4, 4], [-1, 2]]),
                    jnp.asarray([3, 4, 0, 3]))
  np.testing.assert_allclose(
      seen, [[3 / 4, 2 / 3], [1 / 4, 0], [0, 0], [3 / 4, 0]], atol=1e-5)


def test_drafts_are_different_sequences_in_the_order_of_their_scores():
  system, params = spec_jax.build("superposed", toy.bundle(), depth=3)
  tree = first_tree(system, params, PROMPTS)
  tree_lib.check(tree)
  for row in range(len(PROMPTS)):
    paths = paths_of(tree, row, 3)
    assert len(paths) == len(set(paths)) == 3


def first_tree(system, params, texts):
  return next(rounds.play(system, params, rounds.prompts_of(texts), 8)).tree


def paths_of(tree, row, depth):
  tokens, parents, valid = (
      np.asarray(a)[row] for a in (tree.tokens, tree.parents, tree.valid))
  depths = np.asarray(tree_lib.depths(tree.parents))[row]
  found = []
  for node in np.flatnonzero(valid & (depths == depth)):
    path = []
    while node:
      path.append(int(tokens[node]))
      node = parents[node]
    found.append(tuple(path[::-1]))
  return found


def test_scores_of_paths_are_those_of_one_pass_by_hand():
  """Two levels against the definition, without caches and beams."""
  toys = toy.bundle()
  system, params = spec_jax.build(
      "superposed", toys, depth=2, num_drafts=2, num_tokens=4, temperature=0.5)
  prompt = PROMPTS[1]
  tree = first_tree(system, params, [prompt])
  model, weights = toys.target, params.target
  grams = ngram.from_params(params.drafter)

  def top(embeds):
    length = embeds.shape[1]
    mask = jnp.tril(jnp.ones((1, length, length), bool))
    out = model.forward(weights, jnp.zeros((1, length), jnp.int32),
                        jnp.arange(length)[None], mask, embeds=embeds)
    scores, tokens = jax.lax.top_k(out.logits[0, -1] / 0.5, 4)
    return np.asarray(jax.nn.log_softmax(scores)), np.asarray(tokens)

  def scored(path, log_p, tokens):
    text = ([-1] * 4 + prompt + list(path))[-3:]
    ratios = grams.seen(jnp.asarray([text] * 4), jnp.asarray(tokens))
    counted = np.asarray(ratios) @ np.asarray(superposed.WEIGHTS[:3])
    if (counted <= 0).all():
      return 0.46 * log_p - 200
    with np.errstate(divide="ignore"):
      return 0.46 * log_p + 0.54 * np.log(counted)

  embed = lambda tokens: model.embed(weights, jnp.asarray([tokens]))
  log_p, tokens = top(embed(prompt))
  first = sorted(zip(scored((), log_p, tokens), tokens.tolist()))[::-1][:2]
  gamma = np.asarray(jax.nn.softmax(jnp.asarray([s for s, _ in first])))
  mixed = sum(g * embed([token]) for g, (_, token) in zip(gamma, first))
  log_p, tokens = top(jnp.concatenate([embed(prompt), mixed], axis=1))
  paths = {}
  for score, token in first:
    for more, last in zip(scored((token,), log_p, tokens), tokens.tolist()):
      paths[token, last] = score + more
  best = sorted(paths, key=paths.get)[::-1][:2]
  assert set(paths_of(tree, 0, 2)) == set(best)


@pytest.mark.parametrize("change, message", [
    ({"num_drafts": 5, "num_tokens": 4}, "num_drafts=5, num_tokens=4"),
    ({"alpha": 1.5}, "alpha=1.5"), ({"temperature": 0.0}, "temperature=0")])
def test_bad_hyper_parameters_are_named(change, message):
  with pytest.raises(ValueError, match=message):
    spec_jax.build("superposed", toy.bundle(), **change)


def test_missing_ngrams_name_the_command():
  bundle = dataclasses.replace(toy.bundle(), heads={})
  with pytest.raises(ValueError, match="--system=superposed"):
    spec_jax.build("superposed", bundle)
