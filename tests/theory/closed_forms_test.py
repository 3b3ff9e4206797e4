"""Closed forms against the golden table and against enumeration."""

import itertools

import numpy as np
import pytest

from tests.exactness import golden
from theory import closed_forms
from theory import kseq
from theory import lossy
from theory import optimal

_CASES = [pytest.param(case, id=case["id"]) for case in golden.single_step()]
_CLOSE = dict(rtol=0, atol=1e-9)


def _laws(seed, *shape):
  rng = np.random.default_rng(seed)
  return rng.dirichlet(np.full(shape[-1], 0.4), size=(2,) + shape[:-1])


@pytest.mark.parametrize("case", _CASES)
def test_golden_acceptances(case):
  p, q, k = golden.problem(case)
  expected = case["verifiers"]
  np.testing.assert_allclose(
      closed_forms.overlap(p, q), expected["standard_k1"], **_CLOSE)
  np.testing.assert_allclose(
      closed_forms.recursive_rejection(p, q, k), expected["rrs"]["accept"],
      **_CLOSE)
  rounds = expected["rrs"]["per_round"]
  np.testing.assert_allclose(
      closed_forms.recursive_rejection_rounds(p, q, k)[:len(rounds)], rounds,
      **_CLOSE)
  np.testing.assert_allclose(
      closed_forms.list_matching_bound(p, q, k), expected["gls"]["lml"],
      **_CLOSE)


@pytest.mark.parametrize("case", _CASES)
def test_golden_kseq(case):
  p, q, k = golden.problem(case)
  expected, found = case["verifiers"]["kseq"], kseq.solve(p, q, k)
  np.testing.assert_allclose(found.acceptance, expected["accept"], **_CLOSE)
  np.testing.assert_allclose(found.rho, expected["rho"], **_CLOSE)
  np.testing.assert_allclose(found.beta, expected["beta"], **_CLOSE)
  floor = kseq.guaranteed_part(k) * optimal.optimal_acceptance(p, q, k)
  np.testing.assert_allclose(floor, expected["lower_bound"], **_CLOSE)
  assert floor - 1e-12 <= found.acceptance


@pytest.mark.parametrize(
    "case", [case for case in _CASES if case.values[0]["k"] == 2])
def test_golden_pairs_of_drafts(case):
  p, q, _ = golden.problem(case)
  expected = case["verifiers"]
  np.testing.assert_allclose(
      closed_forms.two_identical_drafts(p, q),
      expected["two_identical_closed_form"], **_CLOSE)
  assert closed_forms.is_always_accepted(p, q) == (
      expected["accept_one_condition"])


@pytest.mark.parametrize("size", [2, 5, 9])
def test_two_drafts_reach_the_optimum_of_the_prefix_scan(size):
  p, q = _laws(size, 40, size)
  best = optimal.optimal_acceptance(p, q, 2)
  np.testing.assert_allclose(
      closed_forms.two_identical_drafts(p, q), best, atol=1e-12)
  for k in (1, 2, 3):
    np.testing.assert_array_equal(
        closed_forms.is_always_accepted(p, q, k),
        optimal.optimal_acceptance(p, q, k) >= 1 - 1e-12)


def _kseq_accepted(p, q, rho, num_drafts):
  """Law of the accepted token by enumeration of all tuples of drafts."""
  test = np.minimum(1, np.divide(p, rho * q, out=np.ones(p.size), where=q > 0))
  law = np.zeros(p.size)
  for drafts in itertools.product(range(p.size), repeat=num_drafts):
    left = np.prod(q[list(drafts)])
    for token in drafts:
      law[token] += left * test[token]
      left *= 1 - test[token]
  return law


@pytest.mark.parametrize("num_drafts", [1, 2, 3])
def test_kseq_divides_by_as_little_as_it_may(num_drafts):
  for p, q in zip(*_laws(num_drafts, 20, 4)):
    found = kseq.solve(p, q, num_drafts)
    accepted = _kseq_accepted(p, q, found.rho, num_drafts)
    np.testing.assert_allclose(accepted.sum(), found.acceptance, atol=1e-12)
    assert (accepted <= p + 1e-12).all()  # The residual is a law.
    if found.rho > 1.001:
      less = _kseq_accepted(p, q, found.rho - 1e-3, num_drafts)
      assert (less > p + 1e-9).any()


def test_recursive_rejection_against_its_own_coins():
  rng = np.random.default_rng(0)
  p, q = np.asarray([.6, .3, .1]), np.asarray([.2, .3, .5])
  num_rounds, hits = 20_000, 0
  for _ in range(num_rounds):
    left = p
    for token in rng.choice(3, size=3, p=q):
      if rng.random() * q[token] < left[token]:
        hits += 1
        break
      left = np.maximum(left - q, 0)
      left = left / left.sum()
  exact = closed_forms.recursive_rejection(p, q, 3)
  assert abs(hits / num_rounds - exact) < 4 * np.sqrt(.25 / num_rounds)


def test_orders_and_extremes():
  p, q = _laws(7, 60, 6)
  one = closed_forms.overlap(p, q)
  assert (closed_forms.list_matching_bound(p, q) <= one + 1e-12).all()
  assert (closed_forms.list_matching_bound(p, q)
          >= one / (2 - one) - 1e-12).all()
  for k in (1, 2, 4):
    recursive = closed_forms.recursive_rejection(p, q, k)
    best = optimal.optimal_acceptance(p, q, k)
    for accept in (recursive, kseq.solve(p, q, k).acceptance):
      assert (one - 1e-12 <= accept).all() and (accept <= best + 1e-12).all()
  same = kseq.solve(p, p, 3)
  np.testing.assert_allclose(same.rho, 1, atol=1e-12)
  np.testing.assert_allclose(same.acceptance, 1, atol=1e-12)
  np.testing.assert_array_equal(
      closed_forms.recursive_rejection_rounds([1., 0.], [1., 0.], 3), 1)
  assert closed_forms.list_matching_bound([1., 0.], [0., 1.], 3) == 0
  assert kseq.guaranteed_part(1000) == pytest.approx(1 - np.exp(-1), abs=1e-3)


def test_gain_of_block_verification_on_two_drafts():
  found = 0
  for case in golden.table()["chain"]:
    if case["gamma"] == 2:
      gain = closed_forms.two_step_block_gain(
          case["p0"], case["q0"], case["P"], case["Q"])
      expected = (case["block"]["expected_accepted"]
                  - case["token"]["expected_accepted"])
      np.testing.assert_allclose(gain, expected, **_CLOSE)
      found += 1
  assert found == 2


@pytest.mark.parametrize("case", golden.table()["lenient"],
                         ids=lambda case: case["id"])
def test_golden_lenience(case):
  p, q = np.asarray(case["p"]), np.asarray(case["q"])
  accept, law = lossy.lenient(p, q, case["eps"], case["kind"])
  np.testing.assert_allclose(accept, case["accept"], **_CLOSE)
  np.testing.assert_allclose(law, case["output"], **_CLOSE)
  np.testing.assert_allclose(
      1 - closed_forms.overlap(law, p), case["tv_to_target"], **_CLOSE)
  np.testing.assert_allclose(
      lossy.lenient(p, q, 1.0, case["kind"])[1], p, atol=1e-12)
  accepts = [lossy.lenient(p, q, eps, case["kind"])[0]
             for eps in (.1, .4, .7, 1.)]
  assert (np.diff(accepts) <= 1e-12).all()


@pytest.mark.parametrize("case", golden.table()["typical"],
                         ids=lambda case: case["id"])
def test_golden_typical(case):
  p = np.asarray(case["p"])
  threshold = lossy.typical_threshold(p, case["eps"], case["delta"])
  np.testing.assert_allclose(threshold, case["threshold"], **_CLOSE)
  assert np.flatnonzero(p > threshold).tolist() == case["accepted"]


_HALF = [.5, .5]


@pytest.mark.parametrize("call,message", [
    (lambda: closed_forms.overlap(_HALF, [.5, .4]), "q sums to 0.9"),
    (lambda: closed_forms.overlap(_HALF, [1.]), "q (1,)"),
    (lambda: closed_forms.overlap(_HALF, [1.5, -.5]), "q holds -0.5"),
    (lambda: closed_forms.overlap(_HALF, [np.nan, 1.]), "q holds nan"),
    (lambda: closed_forms.overlap(1., 1.), "p has shape ()"),
    (lambda: closed_forms.two_identical_drafts([1 / 20] * 20, [1 / 20] * 20),
     "V=20, expected at most 16"),
    (lambda: kseq.solve(_HALF, _HALF, 0), "num_drafts=0"),
    (lambda: kseq.guaranteed_part(1.5), "num_drafts=1.5"),
    (lambda: closed_forms.two_step_block_gain(_HALF, _HALF, _HALF, _HALF),
     "expected [V] and [V, V]"),
    (lambda: lossy.lenient(_HALF, _HALF, 0.), "eps=0.0, expected in (0, 1]"),
    (lambda: lossy.lenient(_HALF, _HALF, 1., "log"), "kind='log'"),
    (lambda: lossy.typical_threshold(_HALF, 0., 1.), "eps=0.0")])
def test_bad_arguments(call, message):
  with pytest.raises(ValueError) as error:
    call()
  assert message in str(error.value)
