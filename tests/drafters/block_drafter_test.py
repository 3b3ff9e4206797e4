"""Blocks of guesses: laws, memory between rounds, prompts in pieces."""

import functools

import jax
import numpy as np
import pytest

from spec_jax.core import sampling as sampling_lib
from spec_jax.core import tree as tree_lib
from spec_jax.core import types
from spec_jax.drafters import block_drafter
from spec_jax.models import block_model
from spec_jax.systems import registration
from spec_jax.verifiers import recursive
from tests import blocks as oracle
from tests import rounds
from tests import toy

PART = "net"


@functools.cache
def parts(block):
  target = toy.bundle().target
  model = block_model.from_hyper(target, PART, {"block": block})
  own = jax.jit(model.init)(jax.random.key(5))
  return model, {"target": toy.bundle().params["target"], PART: own}


def laws_of(model, params, text, tree, row):
  """By inner node the net's law, everything run again."""
  found = {}
  for node in range(tree.num_nodes):
    if not ((tree.parents[row] == node) & tree.valid[row]).any():
      continue
    path, at = [], node
    while at > 0:
      path.insert(0, int(tree.tokens[row, at]))
      at = tree.parents[row, at]
    found[node] = jax.nn.softmax(
        oracle.rollout(model, params, text, path)[-1] / 0.7)
  return found


@pytest.mark.parametrize("block,branching", [
    (2, ((2,), (1, 2), (0, 2, 1), (1, 0, 1), (1, 1))),
    (3, ((2,), (1, 1), (2, 0), (1, 2)))])
def test_laws_of_a_static_tree(block, branching):
  model, params = parts(block)
  drafter = block_drafter.BlockDrafter(
      model, branching, "without_replacement")
  system = registration.compose(
      "tested", registration.Parts(model.target, {}), drafter,
      recursive.RecursiveWithoutReplacement()
      ).with_sampling(sampling_lib.Sampling(0.7))
  num_laws, lengths = 0, set()
  for each in rounds.play(
      system, types.Params(params["target"], params), toy.prompts((7, 2)), 9):
    tree_lib.check(each.tree)
    oracle.assert_memory_is_that_of_the_text(
        model, params, each.before.drafter, each.before.tokens,
        each.before.length)
    for row in range(2):
      if len(each.text(row)) <= block:
        assert not each.tree.valid[row, 1:].any()
        continue
      if num_laws < 24:
        laws = laws_of(model, params, each.text(row), each.tree, row)
        for node, law in laws.items():
          np.testing.assert_allclose(
              each.tree.q[row, node], law, atol=1e-4)
        num_laws += len(laws)
      lengths.add(int(each.outcome.verdict.count[row]))
  assert num_laws > 12 and lengths > {1}


def test_memory_after_rounds_of_many_accepted_drafts():
  """Nearly every continuation of three tokens is drafted."""
  model, params = parts(2)
  drafter = block_drafter.BlockDrafter(model, (8, 4, 3), "top_k")
  system = rounds.compose(drafter, model.target, sampling_lib.Sampling(0.7))
  seen = set()
  for each in rounds.play(system, types.Params(params["target"], params),
                          toy.prompts((1, 4, 7, 2)), 10):
    oracle.assert_memory_is_that_of_the_text(
        model, params, each.before.drafter, each.before.tokens,
        each.before.length)
    seen |= set(each.outcome.verdict.count.tolist())
  assert {1, 2} <= seen and max(seen) > 2


@pytest.mark.parametrize("block", [2, 3])
def test_chunks_of_the_prompt_do_not_matter(block):
  model, params = parts(block)
  drafter = block_drafter.BlockDrafter(model, (1, 1), "top_k")
  prefill = jax.jit(drafter.prefill)
  tokens = np.asarray(toy.prompts((9, 5, 1)).tokens)
  taps = {"final": np.asarray(model.target.score(
      params["target"], tokens, taps=("final",)).taps["final"])}
  for chunk in (9, 2, 1):
    state = drafter.init(params, 3, 16)
    for start in range(0, 9, chunk):
      count = np.clip(np.asarray([8, 4, 0]) - start, 0, chunk)
      cut = lambda a, i=start, n=chunk: np.pad(
          a[:, i:i + n], ((0, 0), (0, n - a[:, i:i + n].shape[1]))
          + ((0, 0),) * (a.ndim - 2))
      state = prefill(params, state, cut(tokens), count.astype(np.int32),
                      jax.tree.map(cut, taps))
    assert state.stable.length.tolist() == [8 - block, 4 - block, 0]
    assert state.count.tolist() == [block, block, 0]
    oracle.assert_memory_is_that_of_the_text(
        model, params, state, tokens, (9, 5, 1))
