"""Registered chains with a controller: texts, laws, costs that reach it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spec_jax import controllers
from spec_jax import systems
from spec_jax.controllers import fixed
from spec_jax.controllers import learned
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
ADAPTIVE = (*chains_test.ADAPTIVE, controllers.LEARNED)
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


def block_error(rows, bound, goes_on=chains_test.sure_enough, cut=False):
  """Deviation of three tokens' law where blocks end after unsure tokens.

  Args:
    rows: name of the laws.
    bound: what the draft gives less is unsure.
    goes_on: of the draft's laws and the bound, what says of a root and a path
      whether drafting goes on.
    cut: planted bug, an unsure first token is taken back.
  """
  p, q = stochastic_beam_test.ROWS[rows]
  padded = tuple(map(joint_law.padded_rows, (p, q)))
  parents, rounds = (-1, 0, 1, 2), []
  for root in range(len(p)):
    chains = chains_test.chains(q, root, goes_on(q, bound))
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


def judged_late(q_rows, bound):
  """As the learned controller: the token drawn last was not judged yet."""
  sure = chains_test.sure_enough(q_rows, bound)
  return lambda root, path: len(path) < 2 or sure(root, path[:-1])


@pytest.mark.parametrize("rows", stochastic_beam_test.ROWS)
@pytest.mark.parametrize("bound", [.25, .55])
def test_blocks_that_end_one_token_later_are_exact(rows, bound):
  assert block_error(rows, bound, judged_late) <= 1e-12


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


@dataclasses.dataclass(frozen=True)
class Telling(markov.TabularModel):
  """Its features are the token."""

  def forward(self, params, tokens, *args, **kwargs):
    out = super().forward(params, tokens, *args, **kwargs)
    return dataclasses.replace(
        out, taps={"final": jax.nn.one_hot(tokens, self.vocab_size)})


@pytest.mark.parametrize("system_name", NAMES)
def test_chains_that_a_head_ends_follow_the_target(system_name):
  """Whether a chain goes on hangs on which tokens it has."""
  head = {"out": {"kernel": markov.log([[.9, .1], [.05, .95], [.5, .5]]),
                  "bias": jnp.zeros(2)}}
  bundle = toy.ToyBundle(
      markov.TabularModel(3), {"draft": Telling(3)},
      {"target": markov.log(markov.P_ROWS),
       "draft": markov.log(markov.Q_ROWS), "specdec_pp": head},
      heads={"specdec_pp": {"num_blocks": 0}})
  system, params = systems.build(
      system_name, bundle, depth=DEPTH, controller="learned")
  tree, _ = markov.one_round(system, params, keys_lib.row_keys(0, 64), 0)
  # After a token 0, the second that was drawn is the last one.
  tokens, is_long = np.asarray(tree.tokens), np.asarray(tree.valid)[:, 3]
  np.testing.assert_array_equal(is_long, tokens[:, 1] != 0)
  assert 0 < is_long.sum() < len(is_long)
  law = tree_law.markov_law(markov.P_ROWS, 0, trees_test.NUM_TOKENS)
  assert trees_test.joint_p_value(
      system, params, law, num_rows=10_000) > trees_test.SIGNIFICANCE


@pytest.mark.parametrize("sampling", [runs.WARPED, runs.GREEDY])
def test_speculative_sampling_with_the_head_is_specdec_pp(sampling):
  bundle = toy.bundle(runs.END_OF_TEXT)
  system, params = systems.build("specdec_pp", bundle, depth=DEPTH)
  wanted = runs.play(system.with_sampling(sampling), params, toy.prompts(),
                     keys_lib.row_keys(0, 4), runs.BUDGETS)
  found = play("speculative_sampling", "learned", sampling)
  assert found.texts == wanted.texts
  jax.tree.map(np.testing.assert_array_equal, found.counts, wanted.counts)


@pytest.mark.parametrize("name", [
    name for name in systems.names()
    if "controller" in systems.hyper_parameters(name)])
def test_the_head_is_for_chains_of_the_draft_model(name):
  """Every system that takes controllers has it or says why not."""
  known = systems.hyper_parameters(name)
  chain = {key: value for key, value in (("top_k", 1), ("branching", (1, 1)))
           if key in known}
  build = functools.partial(
      systems.build, name, toy.bundle(), controller="learned", **chain)
  if name in NAMES:
    system, params = build()
    assert set(params.drafter) == {"draft", "specdec_pp"}
    assert system.drafter.min_length == 2
    assert system.drafter.controller == learned.LearnedAcceptance(
        learned.AcceptanceHead(**toy.HEADS["specdec_pp"]), .7)
    assert build(depth=1)[0].drafter.min_length == 1
    assert build(controller="ucb")[1].drafter is toy.bundle().params["draft"]
  else:
    with pytest.raises(
        ValueError, match="its head reads the features of the bundle's draft"):
      build()


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
     "controller='ucb' and num_drafts=2, expected 1"),
    ("gumbel_coupled", {"controller": "learned", "num_drafts": 2},
     "controller='learned' and num_drafts=2, expected 1"),
    ("greedy_block_verification", {"controller": "learned"},
     "unknown hyper-parameter of greedy_block_verification 'controller'")])
def test_bad_hyper_parameters_are_named(system_name, hyper, message):
  with pytest.raises(ValueError, match=message):
    systems.build(system_name, toy.bundle(), **hyper)


def test_a_bundle_without_the_head_is_told_how_to_train_it():
  with pytest.raises(ValueError, match="needs the trained part 'specdec_pp'"
                     ".*--system=specdec_pp"):
    systems.build("block_verification", toy.pair(), controller="learned")
