"""One program for all temperatures decodes what each one's own would."""

import dataclasses

import jax
import pytest

from spec_jax import systems
from spec_jax.core import sampling as sampling_lib
from spec_jax.core import system as system_lib
from spec_jax.executors import fused
from spec_jax.executors import hosted
from spec_jax.verifiers.lossy import thresholds
from spec_jax.verifiers.lossy import walk as lossy_walk
from tests import toy
from tests.executors import cases

# By mechanism: drawn chains, with a joint rule that has a state too; shared
# noise, no noise, a tree of a policy, the target's own first layers.
DEFERRING = {
    "speculative_sampling": dict(depth=2),
    "greedy_block_verification": dict(depth=2),
    "gumbel_coupled": dict(depth=2),
    "prompt_lookup": dict(depth=3),
    "opt_tree": dict(budget=5, depth=2),
    "kangaroo": dict(depth=2),
}
# Random siblings, and a half on the host.
NOT_DEFERRING = {"specinfer": dict(branching=(2, 1)), "suffix_decoding": {}}
TEMPERATURES = (0.8, 0.0)


def decode(executor, system, params, sampling):
  return jax.device_get(executor.run(
      system.with_sampling(sampling), params, *cases.inputs()))


def num_programs():
  # pylint: disable=protected-access
  return fused._rounds_at._cache_size()


def assert_deferring_changes_nothing(system, params, **options):
  """At any of the temperatures; returns the texts of each."""
  executor = fused.Fused(defers_temperature=True)
  assert executor.defers(system)
  texts = []
  for temperature in TEMPERATURES:
    sampling = sampling_lib.Sampling(temperature, **options)
    wanted = decode(fused.Fused(), system, params, sampling)
    cases.assert_equal(decode(executor, system, params, sampling), wanted)
    texts.append(cases.texts(wanted))
  return texts


def assert_one_program_changes_nothing(system, params, **options):
  """The same, and that one new program decodes them all."""
  before = num_programs()
  texts = assert_deferring_changes_nothing(system, params, **options)
  assert num_programs() == before + 1
  return texts


@pytest.mark.parametrize("name", DEFERRING)
def test_equal_texts_and_counts_from_one_program(name):
  system, params = systems.build(
      name, toy.bundle(cases.END_OF_TEXT), **DEFERRING[name])
  warm, cold = assert_one_program_changes_nothing(system, params)
  assert warm != cold


def test_all_other_options_stay_static():
  system, params = systems.build("prompt_lookup", toy.bundle(), depth=2)
  plain = assert_one_program_changes_nothing(system, params)
  other = assert_one_program_changes_nothing(
      system, params, top_k=2, repetition_penalty=1.3)
  assert all(a != b for a, b in zip(plain, other))


def test_a_lossy_rule_relaxes_matching_at_zero():
  system, params = cases.build("speculative_sampling")
  lossy = dataclasses.replace(
      system, verifier=thresholds.TopKAcceptance(4), walk=lossy_walk.walk)
  relaxed = assert_one_program_changes_nothing(lossy, params)[1]
  matched = decode(fused.Fused(), system, params, sampling_lib.GREEDY)
  assert relaxed != cases.texts(matched)


@pytest.mark.parametrize("name", NOT_DEFERRING)
def test_others_are_compiled_for_each_temperature(name):
  system, params = systems.build(
      name, toy.bundle(cases.END_OF_TEXT), **NOT_DEFERRING[name])
  executor = hosted.executor_for(system, defers_temperature=True)
  assert executor.defers_temperature and not executor.defers(system)
  before = num_programs()
  decode(executor, system, params, sampling_lib.Sampling(0.0))
  assert num_programs() == before


def test_random_siblings_would_all_be_one_token_at_zero():
  for name, hyper in (("mcsd", dict(branching=(2,))), ("rsd_s", {}),
                      ("race_transport", {}), ("sequoia", {})):
    system, _ = systems.build(name, toy.bundle(), **hyper)
    assert system.drafter.max_children > 1
    assert not system_lib.can_defer(system)
  chain, _ = systems.build("mcsd", toy.bundle(), branching=(1, 1))
  assert system_lib.can_defer(chain)
