"""Registered chains with a controller: texts, laws, costs that reach it."""

import functools

import numpy as np
import pytest

from spec_jax import controllers
from spec_jax import systems
from spec_jax.controllers import fixed
from spec_jax.core import keys as keys_lib
from spec_jax.drafters import chain_draft_model
from spec_jax.drafters import draft_chain
from spec_jax.verifiers import block
from tests import toy
from tests.conformance import runs
from tests.drafters import chain_draft_model_test as chains_test
from tests.exactness import joint_law
from tests.exactness import markov
from tests.exactness import tree_law
from tests.exactness import trees_test
from tests.trees import stochastic_beam_test
from theory import latency

NAMES = ("speculative_sampling", "block_verification", "gumbel_coupled")
ADAPTIVE = chains_test.ADAPTIVE
DEPTH = 4


@functools.cache
def play(system_name, name, sampling):
  system, params = systems.build(
      system_name, toy.bundle(runs.END_OF_TEXT), depth=DEPTH, controller=name)
  return runs.play(system.with_sampling(sampling), params, toy.prompts(),
                   keys_lib.row_keys(0, 4), runs.BUDGETS)


def assert_ragged(counts):
  """Some chains were cut."""
  assert counts.drafted[:, -1].sum() < counts.drafted[:, 0].sum()


# Greedy speculative sampling with each of them: see `chain_draft_model_test`.
@pytest.mark.parametrize("name", ADAPTIVE)
def test_greedy_blocks_write_the_reference(name):
  found = play("block_verification", name, runs.GREEDY)
  assert found.texts == runs.greedy_texts()
  assert_ragged(found.counts)


@pytest.mark.parametrize("name", ADAPTIVE)
def test_coupled_chains_write_the_text_of_plain_sampling(name):
  found = play("gumbel_coupled", name, runs.WARPED)
  assert found.texts == runs.ragged("autoregressive", runs.WARPED).texts
  assert_ragged(found.counts)


def block_error(rows, bound, cut=False):
  """Deviation of three tokens' law where blocks end after unsure tokens.

  Args:
    rows: name of the laws.
    bound: what the draft gives less is unsure.
    cut: planted bug, an unsure first token is taken back.
  """
  p, q = stochastic_beam_test.ROWS[rows]
  padded = tuple(map(joint_law.padded_rows, (p, q)))
  parents, rounds = (-1, 0, 1, 2), []
  for root in range(len(p)):
    chains = chains_test.chains(q, root, chains_test.sure_enough(q, bound))
    tokens, valid = map(np.asarray, zip(*[
        flat(root, chain, len(parents)) for chain in chains]))
    if cut:
      valid[:, 1:] &= (np.asarray(q)[root, tokens[:, 1]] >= bound)[:, None]
    laws = joint_law.judged(
        block.BlockVerification(), parents, *padded, tokens, valid)
    rounds.append(joint_law.strings(
        parents, tokens, np.asarray(list(chains.values())), laws))
  return max(np.abs(
      tree_law.joint_law(rounds, root, 3)
      - tree_law.markov_law(p, root, 3)).max() for root in range(len(p)))


def flat(root, chain, num_nodes):
  """Tokens and validity of the nodes of a nested chain."""
  tokens = [root]
  while chain:
    (token, chain), = chain
    tokens.append(token)
  missing = num_nodes - len(tokens)
  return tokens + [0] * missing, [True] * len(tokens) + [False] * missing


@pytest.mark.parametrize("rows", stochastic_beam_test.ROWS)
@pytest.mark.parametrize("bound", [.25, .55])
def test_blocks_that_end_by_drawn_tokens_are_exact(rows, bound):
  assert block_error(rows, bound) <= 1e-12


def test_enumeration_sees_a_block_whose_last_token_is_taken_back():
  assert block_error("dense", .55, cut=True) > 1e-3


def test_blocks_of_random_length_follow_the_target():
  """The length of a round is drawn from what earlier rounds accepted."""
  bundle = toy.ToyBundle(
      markov.TabularModel(3), {"draft": markov.TabularModel(3)},
      {"target": markov.log(markov.P_ROWS), "draft": markov.log(
          markov.Q_ROWS)})
  system, params = systems.build(
      "block_verification", bundle, depth=3, controller="thompson")
  law = tree_law.markov_law(markov.P_ROWS, 0, trees_test.NUM_TOKENS)
  assert trees_test.joint_p_value(
      system, params, law, num_rows=10_000) > trees_test.SIGNIFICANCE


@pytest.mark.parametrize("rate", [.3, .7, .9])
@pytest.mark.parametrize("draft_cost, check_cost", [(.09, .12), (.3, 0.)])
def test_cost_model_takes_the_length_of_the_fastest_round(
    rate, draft_cost, check_cost):
  """The target's forward has room for `depth` drafts, whatever is drafted."""
  depth = 6
  chain = draft_chain.draft_chain(
      toy.bundle().models["draft"], depth, "iid", "cost_model", draft_cost,
      check_cost)
  lengths = range(1, depth + 1)
  worth = [latency.expected_tokens(rate, n)
           / (1 + depth * check_cost + n * draft_cost) for n in lengths]
  state = chain.controller.init(1)
  state = chain.controller.begin(
      state.replace(accepted=rate * state.judged), None, None)
  assert min(int(state.length[0]), depth) == 1 + np.argmax(worth)


@pytest.mark.parametrize("system_name", NAMES)
def test_systems_hand_controller_and_costs_on(system_name):
  build = functools.partial(
      systems.build, system_name, toy.bundle(), depth=DEPTH)
  assert build()[0].drafter.controller == fixed.Fixed()
  for name in controllers.names():
    drafter = build(
        controller=name, draft_cost=.375, check_cost=.125)[0].drafter
    assert isinstance(drafter, chain_draft_model.ChainDraftModel)
    assert drafter.controller == controllers.get(name, draft_cost=.25)
  assert controllers.get("ucb", draft_cost=.25).draft_cost == .25
  assert controllers.get("fixed", draft_cost=.25) == fixed.Fixed()


@pytest.mark.parametrize("system_name, hyper, message", [
    ("block_verification", {"controller": "greedy"}, "controller='greedy'"),
    ("block_verification", {"controller": "ucb", "check_cost": -.1},
     "check_cost=-0.1"),
    ("gumbel_coupled", {"controller": "ucb", "num_drafts": 2},
     "controller='ucb' and num_drafts=2, expected 1")])
def test_bad_hyper_parameters_are_named(system_name, hyper, message):
  with pytest.raises(ValueError, match=message):
    systems.build(system_name, toy.bundle(), **hyper)
