"""Costs of a round: golden values, simulation, and what must be monotone."""

import numpy as np
import pytest

from tests.exactness import golden
from theory import goodput
from theory import latency

_ALPHAS = np.linspace(0, 1, 21)


@pytest.mark.parametrize("case", golden.table()["expected_tokens"])
def test_golden(case):
  tokens = latency.expected_tokens(case["alpha"], case["gamma"])
  np.testing.assert_allclose(tokens, case["expected_tokens"], atol=1e-9)
  factor = latency.walltime_factor(tokens, case["gamma"], case["c"])
  np.testing.assert_allclose(factor, case["speedup"], atol=1e-9)


def _simulated(accepts, num_rounds, seed=0):
  coins = np.random.default_rng(seed).random((num_rounds, len(accepts)))
  return 1 + np.cumprod(coins < np.asarray(accepts), 1).sum(1)


@pytest.mark.parametrize("accepts", [(.7,) * 5, (.9, .5, .8, .1), (1., 1.)])
def test_tokens_are_those_of_a_simulated_round(accepts):
  tokens = _simulated(accepts, 40_000)
  error = 4 * tokens.std() / np.sqrt(tokens.size) + 1e-12
  exact = latency.expected_tokens_by_depth(accepts)
  assert abs(tokens.mean() - exact) <= error
  if len(set(accepts)) == 1:
    np.testing.assert_allclose(
        latency.expected_tokens(accepts[0], len(accepts)), exact, atol=1e-12)


def test_closed_form_and_limits():
  for g in (0, 1, 6):
    inner = _ALPHAS[:-1]
    np.testing.assert_allclose(
        latency.expected_tokens(inner, g),
        (1 - inner ** (g + 1)) / (1 - inner), rtol=1e-12)
    assert latency.expected_tokens(1., g) == g + 1
  one = latency.walltime_factor(latency.expected_tokens(_ALPHAS, 1), 1, .2)
  np.testing.assert_allclose(one, (1 + _ALPHAS) / 1.2, rtol=1e-12)


def test_memory_bound_speedup_and_operations():
  assert latency.memory_bound_speedup(1.0, 0, 1, 7) == 1
  for g in (1, 4):
    tokens = latency.expected_tokens(_ALPHAS, g)
    assert (latency.memory_bound_speedup(tokens, g, 1, 1e9) <= g + 1).all()
    inner = _ALPHAS[:-1]
    np.testing.assert_allclose(
        latency.operations_factor(inner, g, .1),
        (1 - inner) * (.1 * g + g + 1) / (1 - inner ** (g + 1)), rtol=1e-12)
    # A free draft that is always right wastes nothing.
    np.testing.assert_allclose(latency.operations_factor(1., g, 0.), 1)


@pytest.mark.parametrize("cost_ratio", [.02, .1, .4])
def test_optimal_length(cost_ratio):
  lengths = []
  for alpha in _ALPHAS[1:-1]:
    best, factor = latency.optimal_length(alpha, cost_ratio, 200)
    assert factor >= max(latency.walltime_factor(
        latency.expected_tokens(alpha, g), g, cost_ratio) for g in range(201))
    assert (best > 0) == (alpha > cost_ratio + 1e-12)
    lengths.append(best)
  assert (np.diff(lengths) >= 0).all() and lengths[-1] < 200


@pytest.mark.parametrize("cost_ratio", [0., .1, .4, 1.])
def test_break_even(cost_ratio):
  found = [latency.break_even_acceptance(g, cost_ratio) for g in (1, 2, 5)]
  np.testing.assert_allclose(found[0], cost_ratio, atol=1e-12)
  assert (np.diff(found) >= -1e-12).all()
  for g, alpha in zip((1, 2, 5), found):
    np.testing.assert_allclose(latency.walltime_factor(
        latency.expected_tokens(alpha, g), g, cost_ratio), 1, atol=1e-9)


def test_a_dearer_draft_must_yield_more():
  ratio = latency.required_token_ratio(4, .05, .1, 1.3)
  np.testing.assert_allclose(
      latency.walltime_factor(2.0, 4, .05, 1.3),
      latency.walltime_factor(2.0 * ratio, 4, .1, 1.3), rtol=1e-12)
  np.testing.assert_allclose(ratio, (4 * .1 + 1.3) / (4 * .05 + 1.3))


_TARGET = goodput.ForwardTime(1e-8, 1e-4, 1e-2)
_FREE = goodput.ForwardTime(0., 0., 0.)


def test_goodput_is_kept_tokens_per_second():
  accepts, draft = (.9, .3), goodput.ForwardTime(0., 1e-5, 1e-3)
  # Three draft steps of two tokens each; the target sees four per request.
  seconds = 3 * (1e-3 + 2e-5) + 1e-2 + 8 * 1e-4 + 1e-8 * 1000
  found = goodput.goodput(accepts, 3, _TARGET, draft, 1000.)
  np.testing.assert_allclose(found, sum(
      latency.expected_tokens(a, 3) for a in accepts) / seconds, rtol=1e-12)
  tokens = sum(_simulated((a,) * 3, 20_000, i).mean()
               for i, a in enumerate(accepts))
  np.testing.assert_allclose(found, tokens / seconds, rtol=.02)


def test_best_length_of_a_batch():
  draft = goodput.ForwardTime(0., 0., 1e-3)
  best = lambda *args: goodput.best_goodput_length(*args)
  assert best([0.] * 4, 8, _TARGET, draft) == 0
  assert best([1.] * 4, 8, _TARGET, draft) == 8
  by_batch = [best([.7] * b, 12, _TARGET, _FREE) for b in (1, 4, 16, 64, 512)]
  assert (np.diff(by_batch) <= 0).all() and by_batch[0] > by_batch[-1]


@pytest.mark.parametrize("call,message", [
    (lambda: latency.expected_tokens(1.2, 3), "alpha=1.2, expected between"),
    (lambda: latency.expected_tokens(.5, -1), "length=-1"),
    (lambda: latency.expected_tokens_by_depth([.5, np.nan]), "accepts="),
    (lambda: latency.walltime_factor(.5, 1, .1), "tokens=0.5"),
    (lambda: latency.walltime_factor(2., 1, -.1), "cost_ratio=-0.1"),
    (lambda: latency.memory_bound_speedup(2., 1, 0, 1), "draft_params=0"),
    (lambda: latency.break_even_acceptance(0, .1), "length=0"),
    (lambda: latency.break_even_acceptance(2, 1.5), "cost_ratio=1.5"),
    (lambda: goodput.ForwardTime(-1., 0., 0.), "seconds="),
    (lambda: goodput.goodput([], 1, _TARGET, _FREE), "expected [B], B > 0"),
    (lambda: goodput.goodput([.5], 1, _FREE, _FREE), "seconds=0")])
def test_bad_arguments(call, message):
  with pytest.raises(ValueError) as error:
    call()
  assert message in str(error.value)
