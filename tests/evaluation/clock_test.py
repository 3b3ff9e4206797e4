"""Spreads, pairing and order of laps; no test asserts a time."""

import pytest

from spec_jax.core import keys
from spec_jax.evaluation import clock
from spec_jax.evaluation import costs
from spec_jax.systems import build
from tests import toy

_LAP = clock.Lap(prefill=1.0, rounds=2.0, num_rounds=4, emitted=10)


def test_laps_add_up():
  total = _LAP + clock.Lap(0.5, 3.0, 1, 5)
  assert total == clock.Lap(1.5, 5.0, 5, 15)
  assert total.tokens_per_second == 3.0
  assert total.seconds_per_round == 1.0
  assert clock.Lap().tokens_per_second == 0.0


def test_spread_is_median_and_quartiles():
  assert clock.spread([4, 1, 3, 2, 5]) == clock.Spread(3, 2, 4, 5)
  with pytest.raises(ValueError, match="no samples"):
    clock.spread([])


def test_medians_take_turns_and_leave_the_first_out(monkeypatch):
  now, order = iter(range(100)), []
  monkeypatch.setattr(clock.time, "perf_counter", lambda: next(now))
  cases = {name: lambda name=name: order.append(name) for name in "ab"}
  # Every look at the watch is a second later.
  assert clock.medians(cases, 3) == {"a": 1.0, "b": 1.0}
  assert "".join(order) == "abababab"


def test_race_goes_back_in_every_other_turn():
  order = []
  passes = {name: lambda: _LAP for name in "abc"}
  laps = clock.race(passes, 3, order.append)
  assert "".join(order) == "abccbaabc"
  assert all(len(each) == 3 for each in laps.values())
  with pytest.raises(ValueError, match="repeats=0, expected >= 1"):
    clock.race(passes, 0)


def test_speedup_is_paired_lap_by_lap():
  # Every ratio is 2 although the machine becomes three times slower.
  base = [clock.Lap(0, seconds, 1, 10) for seconds in (1., 2., 3.)]
  fast = [clock.Lap(0, seconds / 2, 1, 10) for seconds in (1., 2., 3.)]
  assert clock.timing(fast, base).speedup == clock.Spread(2, 2, 2, 3)
  assert clock.timing(fast).speedup is None
  assert clock.timing(fast, base).as_dict()["speedup"]["median"] == 2


def test_timed_decode_counts_what_it_emits():
  system, params = build("speculative_sampling", toy.bundle(), depth=2)
  decoded, lap = clock.Clock().decode(
      system, params, toy.prompts((3, 2)), keys.row_keys(0, 2), 6)
  assert lap.emitted == 12
  assert lap.num_rounds == int(decoded.counts.target_calls.max())
  assert lap.prefill > 0 and lap.rounds > 0


def test_a_clock_remembers_until_it_forgets():
  system, params = build("token_recycling", toy.bundle(), depth=2, width=3)
  watch = clock.Clock()
  decode = lambda: watch.decode(
      system, params, toy.prompts((3, 2)), keys.row_keys(0, 2), 9)[0]
  calls = []
  for forget in (False, False, True):
    if forget:
      watch.forget()
    calls.append(int(decode().counts.target_calls.sum()))
  # Neither the decode that only compiles nor the third one profits.
  assert calls[1] < calls[0] == calls[2]


def test_round_costs_find_every_forward():
  cases = {}
  for name, hyper in (("autoregressive", {}), ("mcsd", {"branching": (2, 2)}),
                      ("prompt_lookup", {"depth": 3})):
    system, params = build(name, toy.bundle(), **hyper)
    state = clock.fused.Fused().start(
        system, params, toy.prompts((3, 2)), keys.row_keys(0, 2), 6)
    cases[name] = system, params, state
  forwards = costs.Forwards(cases)
  with pytest.raises(ValueError, match="no samples"):
    forwards.take()
  forwards.sample(1)
  found = forwards.take()
  tokens = {name: cost.tree_tokens for name, cost in found.items()}
  assert tokens == {"autoregressive": 1, "mcsd": 7, "prompt_lookup": 4}
  forwards = {name: cost.draft_forwards for name, cost in found.items()}
  assert forwards == {"autoregressive": 0, "mcsd": 2, "prompt_lookup": 0}
  assert found["autoregressive"].draft == 0
  assert found["prompt_lookup"].draft > 0


def test_prediction():
  token = costs.RoundCost(2.0, 0.0, 1, 0)
  cost = costs.RoundCost(3.0, 1.0, 6, 5)
  assert costs.predicted_speedup(3.0, cost, token) == 1.5
  assert costs.predicted_speedup(1.0, token, token) == 1.0
  assert costs.predicted_in_turn(3.0, cost, token) is None


def test_prediction_from_forwards_in_turn():
  token = costs.RoundCost(2.0, 0.0, 1, 0, in_turn=2.0)
  cost = costs.RoundCost(3.0, 1.0, 6, 5, in_turn=5.0)
  assert costs.predicted_in_turn(3.0, cost, token) == pytest.approx(1.2)
  assert costs.predicted_speedup(3.0, cost, token) == 1.5
