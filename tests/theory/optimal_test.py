"""The optimum against the transport linear programs of the golden table."""

import numpy as np
import pytest

from tests.exactness import golden
from theory import optimal

_NAMES = {"iid": "iid", "without_replacement": "wor", "greedy": "greedy"}


def _cases():
  for case in golden.single_step():
    for draw, key in _NAMES.items():
      if draw != "without_replacement" or case["k"] <= 2:
        yield pytest.param(case, draw, case["optimal"][key]["alpha_lp"],
                           id=f"{case['id']}_{draw}")


@pytest.mark.parametrize("case,draw,expected", _cases())
def test_equals_the_linear_program(case, draw, expected):
  p, q, num_drafts = golden.problem(case)
  found = optimal.optimal_acceptance(p, q, num_drafts, draw)
  np.testing.assert_allclose(found, expected, atol=1e-8)


def _laws(seed, *shape):
  rng = np.random.default_rng(seed)
  laws = rng.dirichlet(np.full(shape[-1], 0.3), size=(2,) + shape[:-1])
  return laws[0], laws[1]


def _by_subsets(p, q, num_drafts):
  """`1 + min_H p(H) - q(H)^K` over all subsets."""
  sets = (np.arange(1 << p.size)[:, None] >> np.arange(p.size)) & 1
  return 1 + (sets @ p - (sets @ q) ** num_drafts).min()


@pytest.mark.parametrize("num_drafts", [1, 2, 3, 5])
def test_prefixes_are_enough(num_drafts):
  p, q = _laws(num_drafts, 20, 7)
  found = optimal.optimal_acceptance(p, q, num_drafts)
  expected = [_by_subsets(a, b, num_drafts) for a, b in zip(p, q)]
  np.testing.assert_allclose(found, expected, atol=1e-12)


def test_one_draft_is_one_minus_total_variation():
  p, q = _laws(0, 30, 11)
  for draw in optimal.DRAWS:
    np.testing.assert_allclose(
        optimal.optimal_acceptance(p, q, 1, draw),
        1 - np.abs(p - q).sum(-1) / 2, atol=1e-12)


def test_orders():
  p, q = _laws(1, 50, 6)
  iid = [optimal.optimal_acceptance(p, q, k) for k in (1, 2, 3, 4)]
  assert (np.diff(iid, axis=0) >= -1e-12).all()
  distinct = optimal.optimal_acceptance(p, q, 2, "without_replacement")
  assert (distinct >= iid[1] - 1e-12).all() and (distinct <= 1 + 1e-12).all()


def test_equal_laws_and_peaked_laws():
  p = np.asarray([.5, .5, 0.])
  assert optimal.optimal_acceptance(p, p, 2) == pytest.approx(1)
  peak = np.asarray([1., 0., 0.])
  for draw in optimal.DRAWS:
    assert optimal.optimal_acceptance(p, peak, 2, draw) >= 0.5 - 1e-12
  assert optimal.optimal_acceptance(
      p, peak, 2, "without_replacement") == pytest.approx(0.5)


@pytest.mark.parametrize("arguments,message", [
    (([.5, .5], [1.], 1), "p has shape (2,), q (1,)"),
    (([.5, .5], [.5, .5], 0), "num_drafts=0, expected at least 1"),
    (([.5, .5], [.5, .5], 2, "beam"), "draw='beam', expected one of"),
    (([.5, .5], [.5, .5], 3, "without_replacement"), "expected at most 2")])
def test_bad_arguments(arguments, message):
  with pytest.raises(ValueError) as error:
    optimal.optimal_acceptance(*arguments)
  assert message in str(error.value)
