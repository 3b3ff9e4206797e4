"""The transport program: a coupling, its dual, and the formula it equals."""

import hypothesis
import numpy as np
import pytest

from spec_jax.verifiers import enumeration
from tests.theory import optimal_test
import theory


def _check(p, q, num_drafts, draw, expected):
  """Everything that makes the answer an optimum, and `expected` its value."""
  p, q = np.asarray(p) / np.sum(p), np.asarray(q)
  q = q / q.sum(-1, keepdims=True)
  found = theory.optimal_acceptance_lp(p, q, num_drafts, draw)
  plan, sets = found.plan, found.sets
  assert (plan >= 0).all() and (found.dual >= 0).all()
  np.testing.assert_allclose(plan.sum(0), p, atol=1e-14)
  np.testing.assert_allclose(plan.sum(1), found.weights, atol=1e-14)
  assert found.value == pytest.approx(plan[sets].sum(), abs=1e-15)
  prices = found.dual + found.set_prices[:, None]
  assert prices[sets].min() >= 1 - 1e-15 and (found.set_prices >= 0).all()
  dual = p @ found.dual + found.weights @ found.set_prices
  assert found.gap == pytest.approx(dual - found.value, abs=1e-15)
  assert -1e-14 <= found.gap <= 1e-9
  np.testing.assert_allclose(found.value, expected, atol=1e-9)
  high = found.dual > .5
  inside = found.weights @ ~(sets & ~high).any(1)
  np.testing.assert_allclose(1 + p[high].sum() - inside, expected, atol=1e-9)


@pytest.mark.parametrize(
    "p,q,num_drafts,draw,expected", optimal_test.golden_cases())
def test_golden(p, q, num_drafts, draw, expected):
  _check(p, q, num_drafts, draw, expected)


@hypothesis.given(problem=optimal_test.problems())
@hypothesis.settings(deadline=None, max_examples=100, derandomize=True)
def test_equals_the_formula(problem):
  _check(*problem, theory.optimal_acceptance(*problem))


@pytest.mark.parametrize("draw", ["iid", "without_replacement", "greedy"])
def test_equals_the_formula_for_more_tokens(draw):
  p, q = optimal_test.random_laws(8, 12, concentration=1.)
  for num_drafts in (2, 5):
    _check(p, q, num_drafts, draw,
           theory.optimal_acceptance(p, q, num_drafts, draw))


@hypothesis.given(problem=optimal_test.problems())
@hypothesis.settings(deadline=None, max_examples=60, derandomize=True)
def test_law_of_the_set_merges_the_tuples(problem):
  _, q, num_drafts, draw = problem
  sets, weights = theory.draft_sets(q, num_drafts, draw)
  tuples, expected = enumeration.draft_tuples(q, num_drafts, draw)
  is_member = (tuples[..., None] == np.arange(q.shape[-1])).any(1)
  same = (is_member[:, None] == sets).all(-1)
  assert (same.sum(1) == 1).all()
  np.testing.assert_allclose(expected @ same, weights, atol=1e-14)


@pytest.mark.parametrize("p,q,num_drafts,draw,message", [
    ([.6, .6], [.5, .5], 1, "iid", "p sums to 1.2"),
    ([[.5, .5]], [[.5, .5]], 1, "iid", "p has shape (1, 2), expected one law"),
    ([.5, .5], [.5, .5], 3, "greedy", "q has only 2 tokens"),
    ([.01] * 100, [.01] * 100, 3, "iid", "make up to 166750 sets")])
def test_bad_arguments(p, q, num_drafts, draw, message):
  with pytest.raises(ValueError) as error:
    theory.optimal_acceptance_lp(p, q, num_drafts, draw)
  assert message in str(error.value)
