"""The draft model: its laws, its draws and its cache, after every round."""

import functools
from typing import NamedTuple

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
from spec_jax.drafters import draft_model
from spec_jax.executors import decoding
from spec_jax.systems import registration
from spec_jax.verifiers import matching
from spec_jax.verifiers import recursive
from tests import toy

LENGTHS = (1, 4, 2)
CAPACITY = 32
BUDGET = 11
WARPED = sampling_lib.Sampling(
    temperature=0.8, top_p=0.95, repetition_penalty=1.3)
GREEDY = sampling_lib.GREEDY


class Case(NamedTuple):
  branching: tuple[int, ...]
  draw: str
  sampling: sampling_lib.Sampling
  rule: object
  draft_noise: float = 0.25


CASES = {
    "chain": Case((1, 1, 1), "iid", WARPED, recursive.Rejection()),
    "tree": Case((2, 1, 2), "without_replacement",
                 sampling_lib.Sampling(0.8),
                 recursive.RecursiveWithoutReplacement()),
    "twin": Case((1, 1, 1), "iid", GREEDY, recursive.Rejection(), 0.0),
    "top_k": Case((2, 2), "top_k", GREEDY, matching.SampleAndMatch()),
}


class Round(NamedTuple):
  """A round on the host: what was proposed, and the states around it."""

  before: types.DecodeState
  tree: types.DraftTree
  after: types.DecodeState
  params: object


@functools.cache
def system(name):
  case = CASES[name]
  bundle = toy.bundle(draft_noise=case.draft_noise)
  drafter = draft_model.DraftModel(
      bundle.models["draft"], case.branching, case.draw)
  parts = registration.Parts(bundle.target, bundle.models)
  params = types.Params(bundle.params["target"], bundle.params["draft"])
  return registration.compose(name, parts, drafter, case.rule).with_sampling(
      case.sampling), params


@functools.partial(jax.jit, static_argnums=0,
                   compiler_options=compiling.ONCE)
def _round(sys, params, state):
  tree, drafter = system_lib.propose(sys, params, state)
  return tree, system_lib.verify(sys, params, state, tree, drafter)[0]


_start = jax.jit(decoding.start, static_argnums=(0, 5))


@functools.cache
def rounds(name) -> list[Round]:
  sys, params = system(name)
  state = _start(sys, params, toy.prompts(LENGTHS),
                 keys_lib.row_keys(0, len(LENGTHS)), BUDGET, CAPACITY)
  played = []
  while bool(state.is_running.any()):
    tree, after = _round(sys, params, state)
    played.append(Round(state, tree, after, params.drafter))
    state = after
  return played


def score(sys, params, tokens):
  return _scorer(sys.drafter.model)(params, jnp.asarray(tokens, jnp.int32))


@functools.cache
def _scorer(model):
  return jax.jit(lambda params, tokens: model.score(params, tokens))


def texts_to_nodes(played, num_inner):
  """Committed text and path to each inner node: rows, nodes and `i32[R, S]`."""
  depth = np.asarray(tree_lib.depths(played.tree.parents))
  tokens, parents = map(np.asarray, (played.tree.tokens, played.tree.parents))
  found = []
  for row, length in enumerate(played.before.length.tolist()):
    for node in range(num_inner):
      text = np.zeros(CAPACITY + 4, np.int32)
      text[:length] = played.before.tokens[row, :length]
      walker = node
      while parents[row, walker] >= 0:
        text[length - 1 + depth[row, walker]] = tokens[row, walker]
        walker = parents[row, walker]
      found.append((row, node, length + depth[row, node], text))
  return found


def expected_law(sys, logits, text, length):
  seen = jnp.zeros(toy.VOCAB, bool).at[text[:length]].set(True)
  return np.asarray(sys.sampling.probs(logits, seen))


@pytest.mark.parametrize("name", ["chain", "tree"])
def test_laws_equal_recompute(name):
  sys, _ = system(name)
  num_inner = sys.drafter.level_starts[-2]
  for played in rounds(name):
    tree_lib.check(played.tree)
    found = texts_to_nodes(played, num_inner)
    logits = score(
        sys, played.params, np.stack([text for *_, text in found])).logits
    for (row, node, length, text), row_logits in zip(found, logits):
      if played.before.status[row] == types.Status.RUNNING and (
          played.tree.valid[row, node]):
        np.testing.assert_allclose(
            played.tree.q[row, node],
            expected_law(sys, row_logits[length - 1], text, length), atol=1e-5)


@pytest.mark.parametrize("name", ["chain", "tree"])
def test_children_are_draws_from_the_law_they_come_with(name):
  sys, _ = system(name)
  for played in rounds(name):
    depth = np.asarray(tree_lib.depths(played.tree.parents))
    for row in range(len(LENGTHS)):
      for node in range(sys.drafter.level_starts[-2]):
        if not played.tree.valid[row, node]:
          continue
        children, exists = tree_lib.children(
            played.tree.parents[row], jnp.ones_like(played.tree.valid[row]),
            node, sys.drafter.max_children)
        children = np.asarray(children[exists])
        position = played.before.length[row] + depth[row, node]
        wanted, is_real = redraw(
            CASES[name].draw, played.before.keys[row], position,
            played.tree.q[row, node], node, children)
        valid = played.tree.valid[row, children]
        np.testing.assert_array_equal(valid, is_real)
        np.testing.assert_array_equal(
            played.tree.tokens[row, children][valid], wanted[valid])


def redraw(draw, key, position, law, node, children):
  """The draws by the RNG contract, one by one."""
  at = lambda index: keys_lib.at(key, position, types.Role.DRAFT, index)
  if draw == "without_replacement":
    noise = sampling_lib.clocks(at(node), law.size)
    return sampling_lib.first_k_to_ring(law, noise, len(children))
  return jnp.stack([sampling_lib.draw(at(child), law)
                    for child in children]), jnp.ones(len(children), bool)


@pytest.mark.parametrize("name", CASES)
def test_cache_equals_recompute_after_every_round(name):
  sys, _ = system(name)
  behind = set()
  for played in rounds(name):
    cache, state = played.after.drafter.cache, played.after
    fresh = score(sys, played.params, state.tokens).fresh
    behind |= set((state.length - cache.length).tolist())
    is_known = (jnp.arange(CAPACITY)[None] < cache.length[:, None])[
        :, None, :, None]
    for ours, theirs in zip(cache.k + cache.v, fresh.k + fresh.v):
      np.testing.assert_allclose(jnp.where(is_known, ours, 0),
                                 jnp.where(is_known, theirs, 0), atol=1e-5)
  # One behind: the root. Two behind: a leaf was accepted.
  assert 2 in behind and behind <= {1, 2}


def test_twin_accepts_everything_but_what_the_budget_cuts():
  lengths = np.stack([r.before.length for r in rounds("twin")]
                     + [rounds("twin")[-1].after.length])
  np.testing.assert_array_equal(
      np.diff(lengths, axis=0), np.asarray([[4] * 3, [4] * 3, [3] * 3]))
  first = rounds("twin")[0].after
  np.testing.assert_array_equal(first.length - first.drafter.cache.length, 2)


def test_greedy_children_are_the_most_likely_tokens():
  sys, _ = system("top_k")
  for played in rounds("top_k"):
    assert played.tree.draw == "top_k" and played.tree.q is None
    found = texts_to_nodes(played, sys.drafter.level_starts[-2])
    logits = score(
        sys, played.params, np.stack([text for *_, text in found])).logits
    for (row, node, length, _), row_logits in zip(found, logits):
      best = np.argsort(-np.asarray(row_logits[length - 1]))[:2]
      is_child = np.asarray(played.tree.parents[row]) == node
      if played.before.status[row] == types.Status.RUNNING:
        np.testing.assert_array_equal(
            np.asarray(played.tree.tokens[row])[is_child], best)


@pytest.mark.parametrize("arguments,message", [
    (dict(branching=()), r"branching=\(\), expected at least one level"),
    (dict(branching=(2, 0)), r"branching=\(2, 0\)"),
    (dict(draw="beam"), "draw='beam', expected one of"),
    (dict(branching=(2,), draw="coupled"), "would repeat one token"),
    (dict(branching=(13,)), r"more children .* \(12\)"),
])
def test_bad_hyper_parameters_are_named(arguments, message):
  with pytest.raises(ValueError, match=message):
    draft_model.DraftModel(toy.bundle().target, **arguments)
