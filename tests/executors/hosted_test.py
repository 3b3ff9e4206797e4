"""The host loop writes what the device loop writes."""

import jax
import jax.numpy as jnp
import pytest

import spec_jax
from spec_jax import systems
from spec_jax.core import system as system_lib
from spec_jax.executors import decoding
from spec_jax.executors import fused
from spec_jax.executors import hosted
from spec_jax.executors import replicated
from tests import toy
from tests.executors import cases


@pytest.mark.parametrize("name", cases.CASES)
def test_equals_fused(name):
  cases.assert_equal(cases.run(hosted.Hosted(), name), cases.expected(name))


def test_stream_grows_into_the_whole():
  pieces = list(hosted.Hosted().stream(
      *cases.build("prompt_lookup"), *cases.inputs(), rounds_per_yield=3))
  lengths = [piece.length.tolist() for piece in pieces]
  assert lengths == sorted(lengths) and len(pieces) > 1
  assert pieces[0].counts.target_calls.max() == 3
  cases.assert_equal(pieces[-1], cases.expected("prompt_lookup"))


def build_hosted(**hyper):
  system, params = systems.build(
      "suffix_decoding", toy.bundle(cases.END_OF_TEXT), budget=6, depth=4,
      **hyper)
  return system, params


def test_stream_of_a_host_store_grows_into_the_whole():
  system, params = build_hosted()
  whole = hosted.Hosted().run(system, params, *cases.inputs())
  *_, last = hosted.Hosted().stream(
      system, params, *cases.inputs(), rounds_per_yield=2)
  cases.assert_equal(last, jax.device_get(whole))


def test_a_state_can_be_decoded_again():
  """What one session hears is unknown to the other."""
  system, params = build_hosted(max_requests=0)
  executor, (prompts, keys, budget) = hosted.Hosted(), cases.inputs()
  state = executor.start(system, params, prompts, keys, budget)
  copy = jax.tree.map(jnp.copy, state)
  both = []
  for one in (executor.reopened(system, state), copy):
    done = executor.rounds(system, params, one, decoding.zero_counts(system, 3))
    both.append(jax.device_get(
        executor.finish(system, params, *done, prompts)))
  cases.assert_equal(*both)


@pytest.mark.parametrize("executor", [
    fused.Fused(), replicated.Replicated(), replicated.Replicated(how="pmap")])
def test_an_executor_without_host_refuses(executor):
  system, params = build_hosted()
  with pytest.raises(system_lib.IncompatibleParts,
                     match=f"SuffixDecoding.*{type(executor).__name__}.*"
                     "Hosted"):
    executor.run(system, params, *cases.inputs())


def test_generate_picks_the_executor():
  system, params = build_hosted()
  assert isinstance(hosted.executor_for(system), hosted.Hosted)
  prompts = [[3, 4, 5], [1]]
  ours = spec_jax.generate(
      system, params, prompts, max_new_tokens=9, temperature=0.8)
  plain, params = systems.build(
      "autoregressive", toy.bundle(cases.END_OF_TEXT))
  assert type(hosted.executor_for(plain)) is fused.Fused
  theirs = spec_jax.generate(
      plain, params, prompts, max_new_tokens=9, temperature=0.8)
  assert ours.tokens == theirs.tokens


def test_one_executor_remembers_and_a_new_one_does_not():
  system, params = build_hosted()
  executor = hosted.Hosted()
  call = lambda e: spec_jax.generate(
      system, params, [[3, 4, 5], [1]], max_new_tokens=12, executor=e)
  first, second, third = call(executor), call(executor), call(hosted.Hosted())
  assert first.tokens == second.tokens == third.tokens
  assert second.stats.target_calls < first.stats.target_calls
  assert third.stats.target_calls == first.stats.target_calls
