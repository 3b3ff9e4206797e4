"""Chains of adaptive length: laws, text, caches, forwards saved."""

import collections
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spec_jax import controllers
from spec_jax.controllers import fixed
from spec_jax.controllers import learned
from spec_jax.controllers import threshold
from spec_jax.core import keys as keys_lib
from spec_jax.core import types
from spec_jax.drafters import chain_draft_model
from spec_jax.drafters import draft_model
from spec_jax.executors import decoding
from spec_jax.systems import registration
from spec_jax.verifiers import matching
from spec_jax.verifiers import recursive
from tests import toy
from tests.conformance import runs
from tests.exactness import markov
from tests.exactness import tree_law
from tests.exactness import trees_test
from tests.trees import beam_law
from tests.trees import heap_law
from tests.trees import stochastic_beam_test

DEPTH = 4
RULE = recursive.Rejection()
ADAPTIVE = tuple(name for name in controllers.names() if name != "fixed")


def toy_system(controller, draw="iid", rule=RULE, **fields):
  bundle = toy.bundle(runs.END_OF_TEXT)
  parts = registration.Parts(bundle.target, bundle.models, bundle.end_of_text)
  drafter = chain_draft_model.ChainDraftModel(
      bundle.models["draft"], controller, DEPTH, draw, **fields)
  params = types.Params(bundle.params["target"], bundle.params["draft"])
  return registration.compose("chain", parts, drafter, rule), params


@functools.cache
def play(name, sampling=runs.WARPED, draw="iid", rule=RULE):
  system, params = toy_system(controllers.get(name), draw, rule)
  return runs.play(system.with_sampling(sampling), params, toy.prompts(),
                   keys_lib.row_keys(0, 4), runs.BUDGETS)


@pytest.mark.parametrize("sampling", [runs.WARPED, runs.GREEDY])
def test_fixed_length_is_the_static_chain(sampling):
  system, params = toy_system(fixed.Fixed())
  static = dataclasses.replace(system, drafter=draft_model.DraftModel(
      system.drafter.model, (1,) * DEPTH, "iid"))
  wanted = runs.play(static.with_sampling(sampling), params, toy.prompts(),
                     keys_lib.row_keys(0, 4), runs.BUDGETS)
  found = play("fixed", sampling)
  assert found.texts == wanted.texts
  jax.tree.map(np.testing.assert_array_equal, found.counts, wanted.counts)


@pytest.mark.parametrize("name", ADAPTIVE)
def test_greedy_text_is_the_reference_for_every_controller(name):
  assert play(name, runs.GREEDY).texts == runs.greedy_texts()


# Coupled chains with each controller: see `draft_chain_test`.
def test_chains_of_likely_tokens_take_a_controller():
  """With matching the text is that of plain sampling, whatever is drafted."""
  found = play("threshold", runs.WARPED, "top_k", matching.SampleAndMatch())
  assert found.texts == runs.ragged("autoregressive", runs.WARPED).texts
  assert found.counts.drafted[:, 1].sum() < found.counts.drafted[:, 0].sum()


@pytest.mark.parametrize("name", ["threshold", "thompson"])
def test_row_ignores_its_mates_and_the_cache_keeps_up(name):
  final = play(name)
  system, params = toy_system(controllers.get(name))
  batch = toy.prompts(), keys_lib.row_keys(0, 4), np.asarray(runs.BUDGETS)
  row = jax.tree.map(lambda a: a[1:2], batch)
  alone = runs.play(system.with_sampling(runs.WARPED), params, *row)
  assert alone.text(0) == final.text(1)
  np.testing.assert_array_equal(alone.counts.drafted[0],
                                final.counts.drafted[1])
  cache, state = final.state.drafter.cache, final.state
  assert (cache.length >= state.length - 2).all()
  fresh = runs.recomputed(system.drafter.model, params.drafter, state.tokens)
  slots = np.arange(state.tokens.shape[1])
  known = (slots < cache.length[:, None])[:, None, :, None]
  for ours, theirs in zip(cache.k + cache.v, fresh.k + fresh.v):
    np.testing.assert_allclose(np.where(known, ours, 0),
                               np.where(known, theirs, 0), atol=1e-5)


def test_the_learned_head_reads_the_features_of_the_token_it_judges():
  """Its estimate equals one computed from the whole text at once."""
  bundle = toy.bundle()
  head = learned.AcceptanceHead(**toy.HEADS["specdec_pp"])
  controller = learned.LearnedAcceptance(head, 1.0)
  system, params = toy_system(controller, names=("draft", "head"))
  params = params.replace(drafter={
      "draft": bundle.params["draft"], "head": bundle.params["specdec_pp"]})
  prompts = toy.prompts((3, 5))
  state = decoding.start(
      system, params, prompts, keys_lib.row_keys(0, 2), 8, 32)
  ctx = types.Context(state.tokens, state.length, state.keys, None, None)
  tree, drafter = jax.jit(
      lambda p, d, c: system.drafter.propose(p, d, c, system.sampling))(
          params.drafter, state.drafter, ctx)
  for row, length in enumerate(np.asarray(state.length).tolist()):
    text = [*np.asarray(state.tokens)[row, :length],
            *np.asarray(tree.tokens)[row, 1:]]
    taps = system.drafter.model.score(
        params.drafter["draft"], jnp.asarray([text]), taps=("final",)).taps
    judged = head.apply({"params": params.drafter["head"]}, taps["final"])
    wanted = judged[0, length:length + DEPTH - 1, 1].sum()
    np.testing.assert_allclose(
        drafter.control.log_survival[row], wanted, rtol=1e-4)


@dataclasses.dataclass(frozen=True)
class Counting(markov.TabularModel):
  """Counts its forwards at run time."""

  def forward(self, params, tokens, *args, **kwargs):
    jax.debug.callback(lambda: calls.append(1))
    return super().forward(params, tokens, *args, **kwargs)


calls = []


def tabular(controller, model=None, depth=3):
  drafter = chain_draft_model.ChainDraftModel(
      model or markov.TabularModel(3), controller, depth)
  return dataclasses.replace(
      markov.system(recursive.Rejection(), (1,), "iid"), drafter=drafter)


def unsure(bound):
  return threshold.ConfidenceThreshold(bound, step=0.0)


@pytest.mark.parametrize("bound,forwards", [(1.0, 1), (0.0, 7)])
def test_stopping_early_saves_draft_forwards(bound, forwards):
  calls.clear()
  system = tabular(unsure(bound), Counting(3), 7)
  rows = (markov.P_ROWS, ((.9, .1, 0.),) * 3)
  jax.block_until_ready(markov.one_round(
      system, markov.params(*rows), keys_lib.row_keys(0, 4), 0))
  jax.effects_barrier()
  assert len(calls) == forwards


def chains(q_rows, root, goes_on, depth=3):
  """All chains with their probabilities, as `beam_law` has them."""
  final = collections.defaultdict(float)

  def visit(path, mass):
    last = (root, *path)[-1]
    for token, share in enumerate(q_rows[last]):
      longer = (*path, token)
      if share > 0 and len(longer) < depth and goes_on(root, longer):
        visit(longer, mass * share)
      elif share > 0:
        final[_nest(longer)] += mass * share

  visit((), 1.0)
  return dict(final)


def _nest(path):
  return ((path[0], _nest(path[1:])),) if path else ()


def sure_enough(q_rows, bound):
  return lambda root, path: q_rows[(root, *path)[-2]][path[-1]] >= bound


@pytest.mark.parametrize("rows", stochastic_beam_test.ROWS)
@pytest.mark.parametrize("bound", [.25, .55])
def test_a_stop_that_looks_at_drawn_tokens_is_exact(rows, bound):
  q = stochastic_beam_test.ROWS[rows][1]
  law_fn = lambda q, root: chains(q, root, sure_enough(q, bound))
  assert heap_law.joint_error(rows, law_fn) <= 1e-12
  # Not so if a token that was drawn is taken back because of what it is.
  def cut(tree, root):
    return tree if q[root][tree[0][0]] >= bound else ()
  assert heap_law.joint_error(rows, law_fn, cut) > 1e-3


def test_rounds_and_texts_follow_their_exact_laws():
  system = tabular(unsure(.45))
  law = chains(markov.Q_ROWS, 0, sure_enough(markov.Q_ROWS, .45))
  strings = beam_law.emitted(stochastic_beam_test.RULE, markov.P_ROWS,
                             markov.Q_ROWS, 0, law)
  assert trees_test.strings_p_value(system, strings) > trees_test.SIGNIFICANCE


@pytest.mark.parametrize("name", ADAPTIVE)
def test_decoded_text_follows_the_target(name):
  law = tree_law.markov_law(markov.P_ROWS, 0, trees_test.NUM_TOKENS)
  found = trees_test.joint_p_value(
      tabular(controllers.get(name)), markov.params(), law, num_rows=10_000)
  assert found > trees_test.SIGNIFICANCE


@pytest.mark.parametrize("fields,message", [
    (dict(depth=0), "depth=0"), (dict(min_length=0), "min_length=0"),
    (dict(min_length=5), "min_length=5 and depth=4"),
    (dict(draw="greedy"), "draw='greedy', expected one of"),
])
def test_bad_hyper_parameters_are_named(fields, message):
  with pytest.raises(ValueError, match=message):
    chain_draft_model.ChainDraftModel(
        toy.bundle().target, **{"depth": DEPTH, **fields})
