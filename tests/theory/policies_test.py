"""The stopping problem: all policies, value iteration, thresholds."""

import itertools

import numpy as np
import pytest

from theory import latency
from theory import policies
from theory import thresholds


def _problem(seed, max_length=5, is_independent=True):
  rng = np.random.default_rng(seed)
  rows = rng.dirichlet(np.ones(2), size=3)
  following = [rows[0]] * 2 if is_independent else rows[1:]
  return policies.Drafting(
      np.sort(rng.random(2)), rows[0], following, draft_cost=1.,
      verify_cost=float(rng.uniform(2, 30)), max_length=max_length)


def _states(max_length):
  return [path for length in range(max_length)
          for path in itertools.product(range(2), repeat=length)]


@pytest.mark.parametrize("seed,is_independent",
                         itertools.product(range(5), (True, False)))
def test_optimal_is_the_best_of_all_policies(seed, is_independent):
  problem = _problem(seed, 2, is_independent)
  states = _states(2)
  every = [
      policies.cost_per_token(
          problem, set(itertools.compress(states, choice)).__contains__)
      for choice in itertools.product((0, 1), repeat=len(states))]
  rate, stops = policies.optimal(problem)
  np.testing.assert_allclose(rate, min(every), rtol=1e-12)
  np.testing.assert_allclose(
      policies.cost_per_token(problem, stops.__contains__), rate, rtol=1e-12)


@pytest.mark.parametrize("seed", range(8))
def test_threshold_form_is_optimal_for_independent_levels(seed):
  problem = _problem(seed)
  rate, stops = policies.optimal(problem)
  delta = thresholds.optimal_delta(problem, rate)
  bound = thresholds.threshold(
      problem.draft_cost, problem.verify_cost, delta)
  stop = thresholds.at_rejection(problem, bound)
  reached = [()]
  while reached:
    path = reached.pop()
    if len(path) < problem.max_length:
      assert (path in stops) == stop(path)
      reached += [] if stop(path) else [path + (0,), path + (1,)]
  np.testing.assert_allclose(
      policies.cost_per_token(problem, stop), rate, rtol=1e-12)
  for length in range(problem.max_length + 1):
    assert rate <= policies.cost_per_token(
        problem, policies.at_length(length)) + 1e-12


@pytest.mark.parametrize("seed,is_independent",
                         itertools.product(range(8), (True, False)))
def test_the_threshold_of_delta_zero_is_safe(seed, is_independent):
  """At that risk of a rejection the optimum stops as well (Theorem 3.1)."""
  problem = _problem(seed, 5, is_independent)
  rate, stops = policies.optimal(problem)
  bound = thresholds.threshold(problem.draft_cost, problem.verify_cost)
  risky = [path for path in _states(5)
           if 1 - problem.survival(path) >= bound]
  assert set(risky) <= stops
  best = min(policies.cost_per_token(
      problem, thresholds.at_rejection(problem, h))
             for h in np.linspace(0, 1.01, 40))
  assert rate <= best + 1e-12
  # With memory there is a threshold of survival for every level and length.
  for length, last in itertools.product(range(1, 5), range(2)):
    paths = [p for p in _states(5) if len(p) == length and p[-1] == last]
    kept = [problem.survival(p) for p in paths if p not in stops]
    cut = [problem.survival(p) for p in paths if p in stops]
    assert not kept or not cut or min(kept) >= max(cut) - 1e-12


def test_the_safe_threshold_is_not_vacuous():
  problem = policies.Drafting(
      [.2, .9], [.5, .5], [[.5, .5]] * 2, 1., 2., 5)
  bound = thresholds.threshold(1., 2.)
  assert any(1 - problem.survival(p) >= bound for p in _states(5))


@pytest.mark.parametrize("seed", [0, 3])
def test_value_iteration_has_the_optimal_slope(seed):
  problem = _problem(seed, 3, is_independent=False)
  rate, _ = policies.optimal(problem)
  costs = policies.least_costs(problem, 120)
  np.testing.assert_allclose(np.diff(costs)[-20:], rate, rtol=1e-3)
  assert costs[1] == problem.verify_cost
  assert (costs >= rate * np.arange(121) - 1e-9).all()


def test_fixed_lengths_are_the_latency_model():
  problem = policies.Drafting([.7], [1.], [[1.]], 1., 8., 6)
  for length in range(7):
    tokens, cost = policies.round_of(problem, policies.at_length(length))
    np.testing.assert_allclose(tokens, latency.expected_tokens(.7, length))
    assert cost == length + 8
  best, factor = latency.optimal_length(.7, 1 / 8, 6)
  np.testing.assert_allclose(policies.optimal(problem)[0], 8 / factor)
  assert (0,) * best in policies.optimal(problem)[1]


def test_extreme_thresholds_and_simulation():
  problem = _problem(4, 6, is_independent=False)
  assert policies.round_of(
      problem, thresholds.at_rejection(problem, 0.)) == (
          1., problem.verify_cost)
  assert policies.round_of(
      problem, thresholds.at_rejection(problem, 1.1)) == policies.round_of(
          problem, policies.at_length(6))
  stop = thresholds.at_rejection(problem, .6)
  rng, tokens, cost, num_rounds = np.random.default_rng(0), 0, 0., 4_000
  for _ in range(num_rounds):
    path, is_alive = (), True
    while len(path) < 6 and not stop(path):
      path += (int(rng.random() < problem.levels(path)[1]),)
      is_alive &= rng.random() < problem.accepts[path[-1]]
      tokens += is_alive
      cost += problem.draft_cost
    tokens, cost = tokens + 1, cost + problem.verify_cost
  exact_tokens, exact_cost = policies.round_of(problem, stop)
  np.testing.assert_allclose(tokens / num_rounds, exact_tokens, rtol=.05)
  np.testing.assert_allclose(cost / num_rounds, exact_cost, rtol=.05)


@pytest.mark.parametrize("call,message", [
    (lambda: policies.Drafting([1.2], [1.], [[1.]], 1., 1., 2), "accepts="),
    (lambda: policies.Drafting([.2], [.5, .5], [[1.]], 1., 1., 2),
     "have shapes ((1,), (2,), (1, 1))"),
    (lambda: policies.Drafting([.2], [1.], [[1.]], 0., 1., 2), "draft_cost=0"),
    (lambda: policies.Drafting([.2] * 2, [.5] * 2, [[.5] * 2] * 2, 1., 1., 40),
     "2 levels of 40 tokens"),
    (lambda: thresholds.threshold(1., 1., -2.), "verify_cost + delta=0"),
    (lambda: thresholds.optimal_delta(_problem(0, 2, False), 1.),
     "expected every row to be"),
    (lambda: thresholds.optimal_delta(
        policies.Drafting([0.], [1.], [[1.]], 1., 1., 2), 1.),
     "mean acceptance=0")])
def test_bad_arguments(call, message):
  with pytest.raises(ValueError) as error:
    call()
  assert message in str(error.value)
