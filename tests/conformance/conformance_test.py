"""What every registered system must satisfy; one row each, found by name."""

import dataclasses
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spec_jax import systems
from spec_jax.caches import dense
from spec_jax.core import keys as keys_lib
from spec_jax.core import sampling as sampling_lib
from spec_jax.core import system as system_lib
from spec_jax.core import types
from spec_jax.drafters import feature_drafter
from spec_jax.evaluation import calls as calls_lib
from spec_jax.evaluation import equality
from spec_jax.executors import decoding
from spec_jax.executors import hosted
from spec_jax.verifiers import couplings
from spec_jax.verifiers import matching
from spec_jax.verifiers import recursive
from spec_jax.verifiers import walk
from tests import chi_square
from tests import features
from tests import toy
from tests.conformance import runs

NAMES = systems.names()
EXACT = tuple(name for name in NAMES if systems.info(name).exact)
OWN_TARGET = tuple(name for name in NAMES if systems.info(name).own_target)
SAMPLINGS = {"greedy": runs.GREEDY, "warped": runs.WARPED}


def is_coupled(name):
  """Whether the text must be that of autoregressive sampling."""
  system, _ = runs.build(name, runs.PLAIN)
  return isinstance(system.verifier, matching.SampleAndMatch)


def assert_same_texts(expected, actual, target=runs.BASELINE):
  bundle = toy.bundle_of(target, runs.END_OF_TEXT)
  found = equality.first_difference(
      expected, actual, bundle.target, bundle.params["target"])
  assert found is None, found.explain()


@pytest.mark.parametrize("name", EXACT)
def test_greedy_text_is_the_reference(name):
  final, target = runs.ragged(name, runs.GREEDY), runs.owner(name)
  assert_same_texts(runs.greedy_texts(target), final.texts, target)
  assert set(final.state.status) == {
      types.Status.END_OF_TEXT, types.Status.BUDGET}


@pytest.mark.parametrize("name", NAMES)
def test_row_alone_equals_row_in_batch(name):
  batch, alone = runs.ragged(name, runs.GREEDY), runs.alone(name)
  assert_same_texts(batch.texts, [final.text(0) for final in alone])
  system, _ = runs.build(name, runs.GREEDY)
  if system.drafter.needs.mates:
    return  # What it drafts depends on the other rows, what it writes does not.
  counts = [final.counts for final in alone]
  jax.tree.map(lambda whole, *rows: np.testing.assert_array_equal(
      whole, np.concatenate(rows)), batch.counts, *counts)


@pytest.mark.parametrize("name", NAMES)
def test_sampled_row_ignores_its_mates(name):
  batch = runs.ragged(name, runs.WARPED)
  system, params = runs.build(name, runs.WARPED)
  prompts, keys = toy.prompts(), keys_lib.row_keys(0, 4)
  mates = toy.prompts((5, 7, 3, 6), seed=1)
  order = np.asarray([3, 0, 2, 1])
  mix = lambda a, b: jnp.stack([a[3], b[0], b[2], a[1]])
  mixed = runs.play(
      system, params, jax.tree.map(mix, prompts, mates),
      mix(keys, keys_lib.row_keys(9, 4)), np.asarray(runs.BUDGETS)[order])
  assert_same_texts([batch.text(3), batch.text(1)],
                    [mixed.text(0), mixed.text(3)])


@pytest.mark.parametrize("name", filter(is_coupled, NAMES))
def test_sample_and_match_writes_the_autoregressive_text(name):
  target = runs.owner(name)
  assert_same_texts(runs.ragged(runs.BASELINE, runs.WARPED, target).texts,
                    runs.ragged(name, runs.WARPED).texts, target)
  # Rounding decides about one draw in a million: not so many rows as to see it.
  np.testing.assert_array_equal(runs.sampled_law(runs.BASELINE, target)[:256],
                                runs.sampled_law(name)[:256])


def law_p_value(sample, num_tokens=runs.LAW_TOKENS, target=runs.BASELINE):
  law = runs.exact_law(target)
  law = law.sum(tuple(range(num_tokens, runs.LAW_TOKENS)))
  return chi_square.p_value(
      chi_square.joint_counts(sample[:, :num_tokens], toy.VOCAB), law)


@pytest.mark.parametrize("name", EXACT)
def test_joint_law_of_three_tokens(name):
  assert law_p_value(runs.sampled_law(name), target=runs.owner(name)) > 1e-4


@pytest.mark.parametrize("name", OWN_TARGET)
def test_a_target_of_its_own_is_another_one(name):
  """In texts and in law, so that the tests above are about that one."""
  assert runs.greedy_texts(name) != runs.greedy_texts()
  assert law_p_value(runs.sampled_law(name)) < 1e-9


@dataclasses.dataclass(frozen=True)
class NoResidual(recursive.Rejection):
  """Planted bug: after a rejection it draws from p, not from the residual."""

  def law(self, p, q, drafts, is_draft):
    accept = jnp.where(
        is_draft[0], couplings.acceptance_ratio(p, q, drafts[0]), 0)
    return ((1 - accept) * p).at[drafts[0]].add(accept)


def frozen_noise(verifier, sampling, tree, logits, ctx):
  """Planted bug: every round draws with the noise of the first."""
  start = len(runs.LAW_PROMPT)
  ctx = ctx.replace(length=jnp.full_like(ctx.length, start))
  return walk.walk(verifier, sampling, tree, logits, ctx)


def test_law_test_sees_a_missing_residual():
  system, params = runs.build("speculative_sampling", runs.PLAIN, None)
  planted = dataclasses.replace(system, verifier=NoResidual())
  assert law_p_value(runs.law_sample(planted, params)) < 1e-9


def test_law_test_sees_frozen_noise_in_the_joint_only():
  system, params = runs.build("autoregressive", runs.PLAIN, None)
  planted = dataclasses.replace(system, walk=frozen_noise)
  sample = runs.law_sample(planted, params)
  assert law_p_value(sample, 1) > 1e-4
  assert law_p_value(sample, 2) < 1e-9


@pytest.mark.parametrize("name", NAMES)
def test_a_round_keeps_the_state_and_its_forwards_can_be_timed_alone(name):
  system, params = runs.build(name, runs.WARPED)
  start = jax.eval_shape(
      lambda params, prompts, keys: decoding.start(
          system, params, prompts, keys, 8, runs.CAPACITY),
      params, toy.prompts(), keys_lib.row_keys(0, 4))
  if system_lib.can_defer(system):  # All other tests trace the static one.
    system = system.with_sampling(sampling_lib.Deferred(
        dataclasses.replace(runs.WARPED, temperature=1.0), jnp.float32(0.8)))
  found = calls_lib.of_round(system, params, start)
  before, _ = hosted.on_device(system, start)
  after, info = found.after
  assert jax.tree.structure(before) == jax.tree.structure(after)
  for (path, old), new in zip(jax.tree_util.tree_leaves_with_path(before),
                              jax.tree.leaves(after)):
    where = jax.tree_util.keystr(path)
    assert (old.shape, old.dtype) == (new.shape, new.dtype), where
    assert not new.weak_type and not old.weak_type, where
  depth = system.drafter.depth
  assert info.drafted.shape == info.accepted.shape == (4, depth)
  assert found.target
  own = system_lib.draft_params(system.drafter, params)
  for calls, weights in ((found.target, params.target), (found.draft, own)):
    for call in calls:
      jax.eval_shape(call.forward, weights, jax.eval_shape(call.arrays))


@pytest.mark.parametrize("name", NAMES)
def test_rebuilt_system_shares_the_trace_and_the_seed_fixes_the_text(name):
  def play(seed, fresh):
    system, params = runs.build(name, runs.WARPED, fresh=fresh)
    return runs.play(system, params, toy.prompts(),
                     keys_lib.row_keys(seed, 4), runs.BUDGETS)

  # Not the shared decode: its program may have been dropped since.
  first = play(0, fresh=False)
  before = runs.traces[name]
  again, other = play(0, fresh=True), play(1, fresh=True)
  assert runs.traces[name] == before
  assert_same_texts(first.texts, again.texts)
  assert first.texts != other.texts


def assert_cache_holds(cache, model, params, tokens):
  fresh = runs.recomputed(model, params, tokens)
  slots = np.arange(tokens.shape[1])
  is_text = (slots < cache.length[:, None])[:, None, :, None]
  for ours, theirs in zip(cache.k + cache.v, fresh.k + fresh.v):
    ours = ours[:, :, :slots.size]
    np.testing.assert_allclose(np.where(is_text, ours, 0),
                               np.where(is_text, theirs, 0), atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", SAMPLINGS)
def test_caches_equal_recompute(name, kind):
  state = runs.ragged(name, SAMPLINGS[kind]).state
  system, params = runs.build(name, SAMPLINGS[kind])
  np.testing.assert_array_equal(state.cache.length, state.length - 1)
  assert_cache_holds(state.cache, system.target, params.target, state.tokens)
  drafts = getattr(state.drafter, "cache", None)
  if isinstance(drafts, dense.DenseCache) and hasattr(system.drafter, "model"):
    assert (drafts.length <= state.length - 1).all()
    assert (drafts.length >= state.length - 1 - system.drafter.lag).all()
    assert_cache_holds(drafts, system.drafter.model,
                       system_lib.draft_params(system.drafter, params),
                       state.tokens)
  if isinstance(state.drafter, feature_drafter.FeatureState):
    features.assert_stable_part_is_that_of_the_text(
        system.drafter.model, params.drafter, state.drafter, state.tokens,
        state.length)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", SAMPLINGS)
def test_counts_add_up(name, kind):
  final = runs.ragged(name, SAMPLINGS[kind])
  counts, state = final.counts, final.state
  emitted = state.length - final.prompt_length
  np.testing.assert_array_equal(counts.emitted, emitted)
  np.testing.assert_array_equal(counts.histogram.sum(-1), counts.target_calls)
  # A round emits what it accepted and one token more; only the last round of
  # a row may be cut, by end of text or budget, so that a draft comes last.
  num_cut = counts.accepted.sum(-1) + counts.target_calls - counts.emitted
  assert ((num_cut == 0) | (num_cut == 1)).all()
  assert (counts.accepted <= counts.reached).all()
  assert (counts.reached <= counts.target_calls[:, None]).all()
  assert (counts.accepted <= counts.drafted).all()
  assert (np.diff(counts.accepted, axis=1) <= 0).all()
  assert (emitted <= runs.BUDGETS).all()


@pytest.mark.parametrize("name", NAMES)
def test_entry_names_its_source(name):
  entry = systems.info(name)
  module = sys.modules[entry.build.__module__]
  assert entry.papers and entry.summary
  assert entry.family == module.__name__.split(".")[-2]
  for paper in entry.papers:
    assert str(paper.year) in module.__doc__ or paper.arxiv
  assert re.search(r"Sec\.|Algorithm|Eq\.|Appendix|repository", module.__doc__)
  assert "Departure" in module.__doc__
