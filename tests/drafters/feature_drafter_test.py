"""The stable part, the guesses below the root, and the pairing of both."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spec_jax.core import sampling as sampling_lib
from spec_jax.core import tree as tree_lib
from spec_jax.core import types
from spec_jax.drafters import feature_drafter
from spec_jax.models import contract
from spec_jax.models import feature_model
from spec_jax.systems import registration
from spec_jax.trees import likelihood
from spec_jax.verifiers import recursive
from tests import features as oracle
from tests import rounds
from tests import toy

PART = "net"
HYPERS = {
    "one_tap": {},
    "two_layers": {"layers": {"num_layers": 2}},
    "three_taps_and_a_head": {
        "taps": (0, 1, 2), "fusion": "attend", "head_size": 7},
}
TOKEN_IDS = (1, 2, 4, 5, 8, 9, 11)


@functools.cache
def parts(kind):
  """A net over the toy target, and parameters that make it sure of itself."""
  target = contract.decoder_model(toy.config())
  hyper = HYPERS[kind]
  is_own = "head_size" in hyper
  model = feature_model.from_hyper(
      target, PART, hyper, PART if is_own else None)
  own = jax.jit(model.init)(jax.random.key(5))
  if is_own:
    own = {**own, "head": own["head"] * 100,
           "token_ids": jnp.asarray(TOKEN_IDS, jnp.int32)}
  return model, {"target": toy.bundle().params["target"], PART: own}


def everything(depth=2):
  """Every continuation of two tokens: each round accepts two of them."""
  sizes = (1, toy.VOCAB, toy.VOCAB ** 2)
  return likelihood.MostLikely(
      sum(sizes[:depth + 1]), toy.VOCAB, depth, toy.VOCAB)


def play(drafter, params, lengths=(1, 4, 7, 2), budget=9, temperature=0.7):
  system = rounds.compose(drafter, drafter.model.target,
                          sampling_lib.Sampling(temperature))
  return list(rounds.play(
      system, types.Params(params["target"], params), toy.prompts(lengths),
      budget))


def assert_stable(drafter, params, played):
  for each in played:
    oracle.assert_stable_part_is_that_of_the_text(
        drafter.model, params, each.before.drafter, each.before.tokens,
        each.before.length)
    # After the proposal the root's pair is in, and nothing is lacking.
    is_going = each.before.length > 1
    np.testing.assert_array_equal(
        each.proposed.stable.length[is_going],
        (each.before.length - 1)[is_going])


@pytest.mark.parametrize("kind", HYPERS)
def test_stable_part_after_rounds_of_many_accepted_drafts(kind):
  model, params = parts(kind)
  policy = everything()
  if model.vocabulary:  # The draft knows 7 tokens of 12.
    policy = likelihood.MostLikely(57, 7, 2, 7)
  drafter = feature_drafter.GrownFeatureDrafter(model, policy)
  played = play(drafter, params)
  counts = np.stack([each.outcome.verdict.count for each in played])
  assert {1, 2, 3} <= set(counts.ravel().tolist())
  assert_stable(drafter, params, played)


def test_stable_part_of_a_static_tree():
  model, params = parts("two_layers")
  drafter = feature_drafter.StaticFeatureDrafter(
      model, (10, (1,) * 5 + (0,) * 5), "top_k")
  played = play(drafter, params)
  assert max(each.outcome.verdict.count.max() for each in played) > 1
  assert_stable(drafter, params, played)


@pytest.mark.parametrize("kind", HYPERS)
def test_drafts_are_those_of_a_net_that_reads_everything_again(kind):
  model, params = parts(kind)
  chain = feature_drafter.GrownFeatureDrafter(
      model, likelihood.MostLikely(5, 1, 4, 1))
  seen = 0
  for each in play(chain, params)[:3]:
    for row in range(4):
      text = each.text(row)
      if len(text) < 2:
        assert not each.tree.valid[row, 1:].any()
        continue
      path = each.tree.tokens[row, 1:]
      logits = oracle.rollout(model, params, text, path[:-1])
      best = np.argmax(logits, axis=-1)
      if model.vocabulary:
        best = np.asarray(TOKEN_IDS)[best]
      np.testing.assert_array_equal(path, best)
      seen += 1
  assert seen > 6


def laws_of(model, params, text, tree, row):
  """By inner node the net's law, everything run again."""
  found = {}
  for node in range(tree.num_nodes):
    children = (tree.parents[row] == node) & tree.valid[row]
    if not children.any():
      continue
    path, at = [], node
    while at > 0:
      path.insert(0, int(tree.tokens[row, at]))
      at = tree.parents[row, at]
    found[node] = jax.nn.softmax(
        oracle.rollout(model, params, text, path)[-1] / 0.7)
  return found


@pytest.mark.parametrize("branching", [
    (2, (2, 1), (1, 0, 2)), ((3,), (0, 2, 1), (1, 0, 1))])
def test_laws_of_a_static_tree(branching):
  model, params = parts("one_tap")
  drafter = feature_drafter.StaticFeatureDrafter(
      model, branching, "without_replacement")
  bundle = registration.Parts(model.target, {})
  system = registration.compose(
      "tested", bundle, drafter, recursive.RecursiveWithoutReplacement()
      ).with_sampling(sampling_lib.Sampling(0.7))
  num_laws = 0
  for each in rounds.play(
      system, types.Params(params["target"], params), toy.prompts((4, 2)), 9,
      num_rounds=2):
    tree_lib.check(each.tree)
    for row in range(2):
      laws = laws_of(model, params, each.text(row), each.tree, row)
      for node, law in laws.items():
        np.testing.assert_allclose(each.tree.q[row, node], law, atol=1e-4)
      num_laws += len(laws)
  assert num_laws > 12


def top_two(model, params, text, path):
  logits = oracle.rollout(model, params, text, path)[-1]
  return sorted(zip(-np.asarray(jax.nn.log_softmax(logits)), TOKEN_IDS))[:2]


def test_trees_of_a_small_vocabulary_are_those_of_its_laws():
  """Brute force: the best nodes among all that were expanded."""
  model, params = parts("three_taps_and_a_head")
  drafter = feature_drafter.GrownFeatureDrafter(
      model, likelihood.MostLikely(6, 2, 2, 2))
  first = play(drafter, params, (5, 7))[0]
  for row in range(2):
    candidates = []
    for cost, token in top_two(model, params, first.text(row), ()):
      candidates.append((cost, (token,)))
      candidates += [
          (cost + more, (token, below)) for more, below in
          top_two(model, params, first.text(row), (token,))]
    wanted = {path for _, path in sorted(candidates)[:5]}
    found = set()
    for node in range(1, 6):
      path, at = (), node
      while at > 0:
        path = (int(first.tree.tokens[row, at]), *path)
        at = first.tree.parents[row, at]
      found.add(path)
    assert found == wanted


def test_chunks_of_the_prompt_do_not_matter():
  model, params = parts("one_tap")
  drafter = feature_drafter.GrownFeatureDrafter(
      model, likelihood.MostLikely(4, 1, 3, 1))
  prefill = jax.jit(drafter.prefill)
  tokens = np.asarray(toy.prompts((9, 5, 1)).tokens)
  taps = {"final": np.asarray(model.target.score(
      params["target"], tokens, taps=("final",)).taps["final"])}
  states = []
  for chunk in (9, 2, 1):
    state = drafter.init(params, 3, 16)
    for start in range(0, 9, chunk):
      count = np.clip(np.asarray([8, 4, 0]) - start, 0, chunk)
      cut = lambda a, i=start, n=chunk: np.pad(
          a[:, i:i + n], ((0, 0), (0, n - a[:, i:i + n].shape[1]))
          + ((0, 0),) * (a.ndim - 2))
      state = prefill(params, state, cut(tokens), count.astype(np.int32),
                      jax.tree.map(cut, taps))
    states.append(state)
    assert state.stable.length.tolist() == [7, 3, 0]
    assert state.count.tolist() == [1, 1, 0]
    oracle.assert_stable_part_is_that_of_the_text(
        model, params, state, tokens, (9, 5, 1))


def test_parts_that_do_not_fit_are_named():
  model, _ = parts("three_taps_and_a_head")
  with pytest.raises(ValueError, match="vocabulary of the draft.*'net'"):
    feature_drafter.StaticFeatureDrafter(model, (2,), "top_k")
  with pytest.raises(ValueError, match="trained part 'net'.*size"):
    feature_model.from_hyper(model.target, PART, {"size": 3})
  with pytest.raises(ValueError, match="fusion='sum', expected one of"):
    feature_model.from_hyper(
        model.target, PART, {"fusion": "sum"}).init(jax.random.key(0))
