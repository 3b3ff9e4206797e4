"""Whatever is compiled ahead serves the race, the audit and the proof."""

import dataclasses

import pytest

from experiments import common
from experiments import comparison
from experiments import proof
import spec_jax
from spec_jax.evaluation import ahead
from spec_jax.evaluation import prompts as prompts_lib
from spec_jax.evaluation import workload
from spec_jax.executors import fused


def _num_programs():
  # pylint: disable=protected-access
  return [program._cache_size()
          for program in (fused._start, fused._rounds, fused._rounds_at)]


@pytest.mark.parametrize("is_deferred", [False, True])
def test_what_was_rehearsed_is_not_compiled_again(tiny, is_deferred):
  bundle = spec_jax.load_bundle(tiny)
  choices, _ = common.choose(
      bundle, ["autoregressive", "speculative_sampling"], ["depth=2"])
  choices = [dataclasses.replace(choice, defers_temperature=is_deferred)
             for choice in choices]
  work = workload.Workload(
      prompts_lib.from_texts(bundle.prompts, "tiny")[:2], bundle.tokenizer,
      bundle.target.config.max_positions, 6)
  rehearsals = comparison.rehearsals(choices, (0., .8), work)
  assert len(rehearsals) == (2 if is_deferred else 4)
  ahead.together(rehearsals)
  before = _num_programs()
  forwards = comparison.forwards_of(choices, .8, work)
  for temperature in (0., .8):
    results = comparison.race(choices, temperature, work, 1, forwards)
  audited = comparison.with_audit(results["speculative_sampling"], work)
  checks = proof.sampled_laws(choices, .8, work, 16)
  assert _num_programs() == before
  assert audited.audit.tries > 0
  assert [check.name for check in checks] == ["speculative_sampling"]
