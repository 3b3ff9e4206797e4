"""The audit against the counter, and the optimum against known laws."""

import numpy as np
import pytest

from spec_jax.core import sampling
from spec_jax.evaluation import acceptance
from spec_jax.evaluation import clock
from spec_jax.evaluation import prompts
from spec_jax.evaluation import workload
from spec_jax.systems import build
from tests import toy
from theory import optimal


class _Letters:
  """A tokenizer: one token per letter."""

  def encode(self, text, add_special_tokens=True):
    del add_special_tokens
    return [1 + ord(letter) % (toy.VOCAB - 1) for letter in text]


def _work(**more):
  fields = dict(max_positions=256, max_new_tokens=40, batch=2, seed=3)
  return workload.Workload(prompts.from_texts(["abcd", "xy"], "toy"),
                           _Letters(), **fields | more)


def _optimum(p, q, drafts, draw):
  np.testing.assert_allclose(p.sum(-1), 1, atol=1e-4)
  if q is None:
    return optimal.given_acceptance(p, drafts)
  np.testing.assert_allclose(q.sum(-1), 1, atol=1e-4)
  return optimal.optimal_acceptance(p, q, drafts.shape[-1], draw)


def _build(name, **hyper):
  system, params = build(name, toy.bundle(), **hyper)
  return system.with_sampling(sampling.Sampling(1.0)), params


@pytest.mark.parametrize("name,hyper", [
    ("speculative_sampling", {"depth": 3}), ("mcsd", {"branching": (2, 2)}),
    ("prompt_lookup", {}), ("medusa_1", {"branching": ((2,), (2, 1))})])
def test_measured_is_near_the_optimum_and_equals_the_counter(name, hyper):
  system, params = _build(name, **hyper)
  found = acceptance.audit(system, params, _work(), _optimum)
  stats = workload.run(clock.Clock(), system, params, _work()).stats
  assert found.tries >= stats.accepted
  # The counter takes a draft that ends a row for a correction: one per row.
  hits = found.acceptance * found.tries
  assert stats.accepted <= round(hits) <= stats.accepted + 2
  assert found.optimum <= 1 + 1e-6
  assert found.gap > -5 * found.standard_error
  if name in ("prompt_lookup", "medusa_1"):  # Given drafts leave no choice.
    assert found.gap < 5 * found.standard_error


def test_there_is_nothing_to_audit_without_drafts_or_with_shared_noise():
  for name in ("autoregressive", "gumbel_coupled"):
    system, params = _build(name)
    assert acceptance.audit(system, params, _work(), _optimum) is None


def test_without_a_formula_there_is_no_gap():
  system, params = _build("speculative_sampling", depth=1)
  found = acceptance.audit(
      system, params, _work(max_new_tokens=4), lambda *_: None)
  assert found.tries > 0
  assert found.optimum is None and found.gap is None
  assert found.as_dict()["gap"] is None


def test_equal_models_reach_one():
  system, params = _build("speculative_sampling", depth=2)
  same = type(params)(params.target, params.target)
  found = acceptance.audit(system, same, _work(max_new_tokens=8), _optimum)
  assert found.acceptance == pytest.approx(1)
  assert found.optimum == pytest.approx(1, abs=1e-5)
