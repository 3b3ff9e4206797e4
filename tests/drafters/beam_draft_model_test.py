"""The beam drafter: its trees, their laws, and the text they lead to."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spec_jax.core import compiling
from spec_jax.core import keys as keys_lib
from spec_jax.core import sampling as sampling_lib
from spec_jax.core import system as system_lib
from spec_jax.core import tree as tree_lib
from spec_jax.core import types
from spec_jax.drafters import beam_draft_model
from spec_jax.drafters import draft_model
from spec_jax.executors import decoding
from spec_jax.systems import registration
from spec_jax.verifiers import recursive
from tests import toy
from tests.exactness import markov
from tests.exactness import tree_law
from tests.exactness import trees_test
from tests.trees import beam_law
from tests.trees import stochastic_beam_test

WIDTH, DEPTH = 3, 3
STARTS = (0, 1, 4, 7, 10)
LENGTHS = (1, 4, 2)
BUDGET, CAPACITY = 8, 32
# Some laws have fewer possible tokens than the tree has places.
WARPED = sampling_lib.Sampling(
    temperature=0.8, top_p=0.95, repetition_penalty=1.3)
GREEDY = sampling_lib.Sampling(temperature=0.0, repetition_penalty=1.3)
RULE = recursive.RecursiveWithoutReplacement()


@functools.cache
def system(sampling):
  bundle = toy.bundle()
  drafter = beam_draft_model.BeamDraftModel(
      bundle.models["draft"], WIDTH, DEPTH)
  parts = registration.Parts(bundle.target, bundle.models)
  params = types.Params(bundle.params["target"], bundle.params["draft"])
  return registration.compose("beam", parts, drafter, RULE).with_sampling(
      sampling), params


@functools.partial(jax.jit, static_argnums=0,
                   compiler_options=compiling.ONCE)
def _round(sys, params, state):
  tree, drafter = system_lib.propose(sys, params, state)
  return tree, system_lib.verify(sys, params, state, tree, drafter)[0]


_start = jax.jit(decoding.start, static_argnums=(0, 5))


@functools.cache
def rounds(sampling):
  """Per running row of each round: text, row key and the row's tree."""
  sys, params = system(sampling)
  state = _start(sys, params, toy.prompts(LENGTHS),
                 keys_lib.row_keys(0, len(LENGTHS)), BUDGET, CAPACITY)
  played = []
  while bool(state.is_running.any()):
    tree, after = _round(sys, params, state)
    tree_lib.check(tree, budget=1 + WIDTH * DEPTH)
    for row in np.flatnonzero(np.asarray(state.is_running)):
      text = state.tokens[row, :state.length[row]].tolist()
      cut = jax.device_get(jax.tree.map(lambda a, i=row: a[i], tree))
      played.append((text, state.keys[row], cut))
    state = after
  return played


@functools.partial(jax.jit, static_argnums=(0, 1))
def _law(model, sampling, params, tokens, length):
  """The law after each of some texts, none of it from a cache."""
  logits = model.score(params, tokens).logits
  last = jnp.take_along_axis(logits, length[:, None, None] - 1, axis=1)[:, 0]
  return sampling.probs(
      last, sampling_lib.seen_tokens(tokens, length, toy.VOCAB))


def draft_laws(sampling, texts):
  """`f64[R, V]` by the draft model; all nodes of a round go in one call."""
  sys, params = system(sampling)
  padded = np.zeros((STARTS[-2], CAPACITY), np.int32)
  length = np.ones(STARTS[-2], np.int32)
  for row, text in enumerate(texts):
    padded[row, :len(text)], length[row] = text, len(text)
  at_one = dataclasses.replace(
      sampling, temperature=sampling.temperature or 1.0)
  laws = _law(sys.drafter.model, at_one, params.drafter, padded, length)
  return np.float64(laws)[:len(texts)]


def paths(tree):
  """Tokens below the root of each node."""
  found = [()]
  for token, parent in zip(tree.tokens[1:].tolist(), tree.parents[1:]):
    found.append((*found[parent], token))
  return found


def test_laws_equal_recompute():
  for text, _, tree in rounds(WARPED):
    inner = paths(tree)[:STARTS[-2]]
    wanted = draft_laws(WARPED, [(*text, *path) for path in inner])
    is_real = tree.valid[:STARTS[-2]]
    np.testing.assert_allclose(
        tree.q[:STARTS[-2]][is_real], wanted[is_real], atol=1e-5)


def raced(key, position, tree):
  """`[tokens below the root]` by level: ages of clocks instead of Gumbels.

  A prefix rings with the first of its continuations, so the children of a node
  ring as far behind it as they do behind the first of them.
  """
  times, probs, found = {(): 0.0}, {(): 1.0}, []
  for level, start in enumerate(STARTS[:-2]):
    rings = {}
    nodes = range(start, STARTS[level + 1])
    for node, path in zip(nodes, list(times)):
      clocks = np.float64(sampling_lib.clocks(keys_lib.at(
          key, position + level, types.Role.DRAFT, node), toy.VOCAB))
      with np.errstate(divide="ignore"):
        own = clocks / (probs[path] * np.float64(tree.q[node]))
      for token in np.flatnonzero(np.isfinite(own)).tolist():
        rings[*path, token] = times[path] + own[token] - own.min()
        probs[*path, token] = probs[path] * tree.q[node][token]
    best = sorted(rings, key=rings.get)[:WIDTH]
    times = {path: rings[path] for path in best}
    found.append(best)
  return found


def test_trees_are_the_race_of_their_own_laws():
  num_missing = 0
  for text, key, tree in rounds(WARPED):
    assert tree.draw == "without_replacement"
    levels = np.split(np.arange(len(tree.tokens)), STARTS[1:-1])[1:]
    for nodes, wanted in zip(levels, raced(key, len(text), tree)):
      kept = [paths(tree)[node] for node in nodes if tree.valid[node]]
      assert kept == wanted and len(set(kept)) == len(kept)
      num_missing += WIDTH - len(kept)
  assert num_missing > 0


def test_greedy_trees_are_beam_search():
  for text, _, tree in rounds(GREEDY):
    assert tree.draw == "top_k" and tree.q is None and tree.valid.all()
    beam, found = {(): 0.0}, []
    for _ in range(DEPTH):
      laws = draft_laws(GREEDY, [(*text, *path) for path in beam])
      scores = {(*path, token): beam[path] + log_prob
                for path, law in zip(beam, np.log(laws))
                for token, log_prob in enumerate(law)}
      best = sorted(scores, key=scores.get, reverse=True)[:WIDTH]
      beam = {path: scores[path] for path in best}
      found += best
    assert paths(tree)[1:] == found


@functools.cache
def tabular(width, depth):
  sys = markov.system(RULE, (1,), "without_replacement")
  return dataclasses.replace(sys, drafter=beam_draft_model.BeamDraftModel(
      sys.target, width, depth))


@functools.partial(jax.jit, static_argnums=0,
                   compiler_options=compiling.ONCE)
def _propose(drafter, keys):
  batch = keys.shape[0]
  ctx = types.Context(
      jnp.zeros((batch, 2), jnp.int32), jnp.ones((batch,), jnp.int32), keys,
      None, None)
  weights = markov.params().drafter
  state = drafter.init(weights, batch, 4)
  return drafter.propose(weights, state, ctx, sampling_lib.Sampling())[0]


def proposal(drafter, num_rows, first_row=0):
  keys = keys_lib.row_keys(0, num_rows, first_row)
  return jax.device_get(_propose(drafter, keys))


@pytest.mark.parametrize("width,depth,branching", [
    (1, 2, (1, 1)), (2, 1, (2,))])
def test_narrow_and_flat_beams_are_static_trees(width, depth, branching):
  beam = tabular(width, depth).drafter
  static = draft_model.DraftModel(
      beam.model, branching, "without_replacement")
  jax.tree.map(np.testing.assert_array_equal,
               proposal(beam, 64), proposal(static, 64))


def test_row_alone_equals_row_in_batch():
  drafter = tabular(2, 2).drafter
  batch, alone = proposal(drafter, 8), proposal(drafter, 1, first_row=5)
  jax.tree.map(lambda whole, part: np.testing.assert_array_equal(
      whole[5], part[0]), batch, alone)


def test_trees_and_rounds_follow_their_exact_laws():
  sys, rows = tabular(2, 2), (markov.P_ROWS, markov.Q_ROWS)
  law = beam_law.trees(rows[1], 0, 2, 2)
  tree, _ = jax.device_get(markov.one_round(
      sys, markov.params(), keys_lib.row_keys(0, trees_test.NUM_ROWS), 0))
  assert stochastic_beam_test.tree_p_value(
      (tree.tokens, tree.parents, tree.valid), law) > trees_test.SIGNIFICANCE
  strings = beam_law.emitted(stochastic_beam_test.RULE, *rows, 0, law)
  assert trees_test.strings_p_value(sys, strings) > trees_test.SIGNIFICANCE


def test_decoded_text_follows_the_target():
  law = tree_law.markov_law(markov.P_ROWS, 0, trees_test.NUM_TOKENS)
  found = trees_test.joint_p_value(tabular(2, 2), markov.params(), law)
  assert found > trees_test.SIGNIFICANCE


@pytest.mark.parametrize("arguments,message", [
    (dict(width=0), "width=0, expected at least 1"),
    (dict(depth=0), "depth=0, expected at least 1"),
    (dict(width=13), r"width=13 asks for more nodes .* \(12\)"),
])
def test_bad_hyper_parameters_are_named(arguments, message):
  with pytest.raises(ValueError, match=message):
    beam_draft_model.BeamDraftModel(toy.bundle().target, **arguments)


def test_parts_of_different_kinds_do_not_share_a_trace():
  model = toy.bundle().target
  beam = beam_draft_model.BeamDraftModel(model, 2, 2)
  assert beam == beam_draft_model.BeamDraftModel(model, 2, 2)
  assert beam != draft_model.DraftModel(model, (2, 1), "without_replacement")
