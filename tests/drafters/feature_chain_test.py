"""Chains of feature nets and of GliDe with a controller."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spec_jax import controllers
from spec_jax import systems
from spec_jax.controllers import learned
from spec_jax.core import keys as keys_lib
from spec_jax.core import sampling as sampling_lib
from spec_jax.core import types
from spec_jax.drafters import feature_chain
from spec_jax.drafters import feature_drafter
from spec_jax.drafters import glide_drafter
from spec_jax.trees import likelihood
from tests import features as oracle
from tests import rounds
from tests import toy
from tests.conformance import conformance_test
from tests.conformance import runs
from tests.drafters import chain_draft_model_test as chains_test
from tests.drafters import draft_chain_test

DEPTH = 4
ADAPTIVE = chains_test.ADAPTIVE
# A chain with sampled tokens, one of likely tokens, one without features.
CHAINS = {"eagle_1": {"branching": (1,) * DEPTH},
          "eagle_3": {"depth": DEPTH, "top_k": 1}, "glide": {"depth": DEPTH}}
# Systems that draw at random; the net of the first knows some tokens only.
DRAWN = {"drawn": "eagle_3", "drawn glide": "glide"}
# The loop that they share, with a model of its own.
DRAFT_MODEL = {"speculative_sampling": {"depth": DEPTH}}
# Chains of other nets, those first that speak in a way of their own.
OTHERS = ("coral", "fspad", "poss", "fr_spec", "eagle_2", "scylla",
          "vocab_trim")


def build(name, controller, sampling, end_of_text=runs.END_OF_TEXT, **hyper):
  if name in DRAWN:
    name, hyper = DRAWN[name], {"draw": "iid", **hyper}
  hyper = {**(CHAINS | DRAFT_MODEL).get(name, CHAINS["eagle_3"]), **hyper}
  system, params = systems.build(
      name, toy.bundle(end_of_text), controller=controller, **hyper)
  return system.with_sampling(sampling), params


@functools.cache
def play(name, controller, sampling):
  return runs.play(*build(name, controller, sampling), toy.prompts(),
                   keys_lib.row_keys(0, 4), runs.BUDGETS)


def with_controller(name, controller, **fields):
  """That controller itself, with the parameters of all toy parts."""
  system, params = build(name, "fixed", runs.GREEDY)
  drafter = dataclasses.replace(
      system.drafter, controller=controller, **fields)
  return dataclasses.replace(system, drafter=drafter), params


# With matching the text of `eagle_3` is the same by another test below.
@pytest.mark.parametrize("name", ["eagle_1", "glide"])
@pytest.mark.parametrize("controller", ADAPTIVE)
def test_greedy_text_is_the_reference_for_every_controller(name, controller):
  found = play(name, controller, runs.GREEDY)
  assert found.texts == runs.greedy_texts()
  draft_chain_test.assert_ragged(found.counts)


@pytest.mark.parametrize("name", [*OTHERS[:4], "eagle_3", "glide"])
def test_matched_chains_write_the_text_of_plain_sampling(name):
  found = play(name, "threshold", runs.WARPED)
  assert found.texts == runs.ragged("autoregressive", runs.WARPED).texts
  assert found.counts.drafted.sum() > 0


def without_a_loop_of_its_own(name, model):
  """The same chain as a tree of width 1."""
  if name == "eagle_1":
    return feature_drafter.StaticFeatureDrafter(model, (1,) * DEPTH, "iid")
  kind = (glide_drafter.GlideDrafter if name == "glide" else
          feature_drafter.GrownFeatureDrafter)
  return kind(model, likelihood.MostLikely(DEPTH + 1, 1, DEPTH, 1))


@pytest.mark.parametrize("name", CHAINS)
def test_fixed_length_is_the_tree_of_width_one(name):
  system, params = build(name, "fixed", runs.PLAIN)
  drafter = without_a_loop_of_its_own(name, system.drafter.model)
  found = play(name, "fixed", runs.PLAIN)
  wanted = runs.play(
      dataclasses.replace(system, drafter=drafter), params, toy.prompts(),
      keys_lib.row_keys(0, 4), runs.BUDGETS)
  assert found.texts == wanted.texts
  jax.tree.map(np.testing.assert_array_equal, found.counts, wanted.counts)


@pytest.mark.parametrize("name, controller", [
    ("eagle_1", "threshold"), ("eagle_1", "thompson"), ("drawn", "fixed"),
    ("drawn", "threshold"), ("drawn glide", None)])
def test_sampled_chains_follow_the_target(name, controller):
  sample = runs.law_sample(*build(name, controller, runs.PLAIN, None))
  assert conformance_test.law_p_value(sample) > 1e-4


@pytest.mark.parametrize("name", DRAWN)
def test_drawn_chains_write_the_reference_without_temperature(name):
  assert play(name, None, runs.GREEDY).texts == runs.greedy_texts()


@pytest.mark.parametrize("name", DRAWN)
def test_coupled_chains_write_the_text_of_plain_sampling(name):
  system, params = build(name, None, runs.WARPED, draw="coupled")
  found = runs.play(system, params, toy.prompts(), keys_lib.row_keys(0, 4),
                    runs.BUDGETS)
  assert found.texts == runs.ragged("autoregressive", runs.WARPED).texts
  assert found.counts.accepted.sum() > 0


def laws_of(system, params, each, row):
  """`f[D, V]`, of a row's drafts by a net that reads everything again."""
  model = system.drafter.model
  path = each.tree.tokens[row, 1:each.tree.valid[row].sum()]
  known = runs.PLAIN.probs(oracle.rollout(
      model, params.drafter, each.text(row), path[:-1]))
  ids, laws = model.token_ids(params.drafter), np.zeros((len(path), toy.VOCAB))
  laws[:, slice(None) if ids is None else ids] = known
  return laws


@pytest.mark.parametrize("name", ["eagle_1", "drawn"])
def test_laws_are_those_of_a_net_that_reads_everything_again(name):
  system, params = build(name, "ucb", runs.PLAIN)
  seen = 0
  for each in rounds.play(
      system, params, toy.prompts((1, 4, 6)), 6, num_rounds=3):
    for row in np.flatnonzero(each.tree.valid[:, 1]):
      wanted = laws_of(system, params, each, row)
      np.testing.assert_allclose(
          each.tree.q[row, :len(wanted)], wanted, atol=1e-4)
      seen += len(wanted)
  assert seen > 14


@pytest.mark.parametrize("draw", ["iid", "coupled"])
def test_draws_are_those_of_their_laws_and_keys(draw):
  """Of a net that knows some tokens only, by the sampler of the code base."""
  system, params = build("drawn", "fixed", runs.PLAIN, draw=draw)
  seen = 0
  for each in rounds.play(system, params, toy.prompts(), 8, num_rounds=3):
    for row in np.flatnonzero(each.tree.valid[:, 1]):
      laws = laws_of(system, params, each, row)
      for at, law in enumerate(laws):
        role, number = ((types.Role.EMIT, None) if draw == "coupled"
                        else (types.Role.DRAFT, at + 1))
        noise = sampling_lib.clocks(keys_lib.at(
            each.before.keys[row], each.before.length[row] + at, role, number),
                                    toy.VOCAB)
        assert each.tree.tokens[row, at + 1] == sampling_lib.first_to_ring(
            law, noise)
        seen += 1
  assert seen > 20


@pytest.mark.parametrize("name", ["eagle_1", "eagle_3"])
def test_stable_part_keeps_up_with_chains_of_any_length(name):
  system, params = build(name, "thompson", runs.PLAIN)
  lengths = set()
  for each in rounds.play(system, params, toy.prompts(), 12):
    oracle.assert_stable_part_is_that_of_the_text(
        system.drafter.model, params.drafter, each.before.drafter,
        each.before.tokens, each.before.length)
    lengths |= set(each.tree.valid.sum(-1).tolist())
  assert len(lengths) > 2


@pytest.mark.parametrize("name", CHAINS)
def test_row_ignores_its_mates(name):
  final = play(name, "thompson", runs.WARPED)
  batch = toy.prompts(), keys_lib.row_keys(0, 4), np.asarray(runs.BUDGETS)
  row = jax.tree.map(lambda a: a[1:2], batch)
  alone = runs.play(*build(name, "thompson", runs.WARPED), *row)
  assert alone.text(0) == final.text(1)
  np.testing.assert_array_equal(
      alone.counts.drafted[0], final.counts.drafted[1])


@dataclasses.dataclass(frozen=True)
class CountingModel:
  """Counts its forwards of a single token at run time."""

  inner: object

  def __getattr__(self, name):
    return getattr(self.inner, name)

  def forward(self, params, tokens, *args, **kwargs):
    if tokens.shape[1] == 1:
      jax.debug.callback(lambda: calls.append(1))
    return self.inner.forward(params, tokens, *args, **kwargs)


calls = []


@pytest.mark.parametrize("name", [*CHAINS, *DRAFT_MODEL])
def test_forwards_end_with_the_last_row_that_goes_on(name):
  """Of the rows whose text goes on; that of the root comes with the text."""
  system, params = build(name, "thompson", runs.GREEDY)
  system = dataclasses.replace(system, drafter=dataclasses.replace(
      system.drafter, model=CountingModel(system.drafter.model)))
  played = rounds.play(system, params, toy.prompts((2, 4, 7, 3)), 24)
  found = []
  while True:
    calls.clear()
    each = next(played, None)
    jax.effects_barrier()
    if each is None:
      break
    is_running = each.before.status == types.Status.RUNNING
    lengths = each.tree.valid[:, 1:].sum(-1)
    assert (lengths[is_running] > 0).all() and not lengths[~is_running].any()
    assert len(calls) == lengths.max() - 1
    found.append((is_running.sum(), len(calls)))
  assert len({count for _, count in found}) > 1
  assert found[0][0] == 4 and found[-1][0] < 4


@pytest.mark.parametrize("name", CHAINS)
def test_a_controller_hears_of_rows_that_drafted(name):
  system, params = build(name, "threshold", runs.GREEDY)
  controller, idle, moved = system.drafter.controller, 0, 0
  for each in rounds.play(system, params, toy.prompts(), 24):
    before, after = each.proposed.control, each.after.drafter.control
    drafted = each.tree.valid[:, 1:].sum(-1).astype(np.int32)
    count = each.outcome.verdict.count
    hears = (count > 0) & (drafted > 0)
    wanted = controller.update(before, types.Checked(
        jnp.asarray(np.maximum(drafted, 1)), jnp.asarray(
            np.maximum(count - 1, 0)), jnp.asarray(drafted == DEPTH),
        jnp.asarray(hears)))
    for old, heard, new in zip(*map(
        jax.tree.leaves, (before, wanted, after))):
      np.testing.assert_allclose(
          new, np.where(hears, heard, old), rtol=1e-6)
    idle, moved = idle + (~hears).sum(), moved + hears.sum()
  assert idle and moved


def test_the_learned_head_reads_what_the_net_says_of_the_token_it_judges():
  head = learned.AcceptanceHead(**toy.HEADS["specdec_pp"])
  system, params = with_controller(
      "eagle_1", learned.LearnedAcceptance(head, 1.0), names=("net", "head"))
  own = toy.bundle().params["specdec_pp"]
  params = params.replace(drafter={**params.drafter, "head": own})
  first, = rounds.play(system, params, toy.prompts((3, 5)), 8, num_rounds=1)
  for row in range(2):
    hidden = oracle.guesses(
        system.drafter.model, params.drafter, first.text(row),
        first.tree.tokens[row, 1:-1])
    # That of the root was not drafted.
    judged = head.apply({"params": own}, hidden[1:])[:, 1].sum()
    np.testing.assert_allclose(
        first.proposed.control.log_survival[row], judged, rtol=1e-4)


def test_systems_hand_controller_and_costs_on():
  for name in (*CHAINS, *OTHERS):
    system, _ = build(name, "cost_model", runs.GREEDY, draft_cost=.375,
                      check_cost=.125)
    assert isinstance(system.drafter, (
        feature_chain.ChainFeatureDrafter, glide_drafter.ChainGlideDrafter))
    assert system.drafter.depth == DEPTH
    assert system.drafter.controller == controllers.get(
        "cost_model", draft_cost=.25)
  small, _ = build("eagle_2", "fixed", runs.GREEDY, budget=3)
  assert small.drafter.depth == 2


@pytest.mark.parametrize("name, hyper, message", [
    ("glide", {"controller": "greedy"}, "controller='greedy', expected one of"),
    ("eagle_2", {"controller": "greedy", "top_k": 1}, "controller='greedy'"),
    ("eagle_2", {"controller": "ucb", "top_k": 2},
     "controller='ucb' and top_k=2, expected 1"),
    ("eagle_1", {"controller": "ucb", "branching": (2, 1)},
     r"controller='ucb' and branching=\(2, 1\), expected 1"),
    ("eagle_3", {"controller": "ucb", "top_k": 1, "check_cost": -.1},
     "check_cost=-0.1"),
    ("eagle_3", {"draw": "iid", "top_k": 2},
     "draw='iid' and top_k=2, expected top_k=1"),
    ("eagle_3", {"draw": "random", "top_k": 1},
     "draw='random', expected one of")])
def test_bad_hyper_parameters_are_named(name, hyper, message):
  with pytest.raises(ValueError, match=message):
    systems.build(name, toy.bundle(), **hyper)
