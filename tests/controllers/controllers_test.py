"""Each controller against its published recursion, or what it must learn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spec_jax import controllers
from spec_jax.controllers import bandits
from spec_jax.controllers import cost_model
from spec_jax.controllers import learned
from spec_jax.controllers import threshold
from spec_jax.core import keys as keys_lib
from spec_jax.core import types
from theory import latency
from theory import policies

ROWS = 3


def checked(drafted, accepted, is_full=False):
  full = lambda value, kind: jnp.full((ROWS,), value, kind)
  return types.Checked(full(drafted, jnp.int32), full(accepted, jnp.int32),
                       full(is_full, bool), full(True, bool))


def drafted(index, confidence=0.5, features=None):
  return types.Drafted(jnp.asarray(index, jnp.int32),
                       jnp.full((ROWS,), confidence, jnp.float32),
                       features or {})


def lengths(controller, state, most=64, confidences=None):
  """How many tokens a round drafts, row by row."""
  count, going = np.zeros(ROWS, int), np.ones(ROWS, bool)
  for index in range(most):
    if not going.any():
      break
    count += going
    goes_on, state = controller.proceed(None, state, drafted(
        index, 0.5 if confidences is None else confidences[index]))
    going &= np.asarray(goes_on)
  return count


def test_draft_and_verify_recursion():
  controller = threshold.ConfidenceThreshold()
  state = controller.init(ROWS)
  rejected = state
  for _ in range(5):
    rejected = controller.update(rejected, checked(4, 0))
  np.testing.assert_allclose(rejected.threshold, 0.6 + 5 * 0.001, atol=1e-6)
  # Everything accepted: the rate reaches 0.9 in the 4th round.
  found = [0.6]
  for _ in range(6):
    state = controller.update(state, checked(3, 3))
    found.append(float(state.threshold[0]))
  np.testing.assert_allclose(
      np.diff(found), [.001, .001, .001, -.001, -.001, -.001], atol=1e-6)
  full = controller.update(state, checked(8, 8, is_full=True))
  np.testing.assert_array_equal(full.threshold, state.threshold)


def test_threshold_stops_after_the_unsure_token():
  controller = threshold.ConfidenceThreshold(threshold=.5, step=0.)
  state = controller.init(ROWS)
  assert (lengths(controller, state, confidences=[.9, .5, .4, .9]) == 3).all()
  moved = controller.update(state, checked(3, 0))
  np.testing.assert_array_equal(moved.threshold, state.threshold)


def test_above_any_probability_each_round_drafts_one_token():
  """At 1 a draft without a doubt is followed by another; and so it stays."""
  for bound, count in ((1.0, 5), (1.1, 1)):
    controller = threshold.ConfidenceThreshold(threshold=bound)
    state = controller.init(ROWS)
    for _ in range(3):
      found = lengths(controller, state, most=5, confidences=[1.] * 5)
      assert (found == count).all()
      state = controller.update(state, checked(count, 0))


def round_keys(position):
  return keys_lib.row_keys(0, ROWS), jnp.full((ROWS,), position, jnp.int32)


@pytest.mark.parametrize("rate", [0.0, 0.6, 1.0])
def test_thompson_learns_the_rate(rate):
  controller = bandits.Thompson()
  begin, update = jax.jit(controller.begin), jax.jit(controller.update)
  state, rng = controller.init(ROWS), np.random.default_rng(0)
  most, found = 32, []
  for position in range(1, 200):
    state = begin(state, *round_keys(position))
    count = np.minimum(state.length, most)
    found.append(count)
    runs = np.asarray([
        next((i for i in range(n) if rng.random() >= rate), n) for n in count])
    state = update(state, types.Checked(
        jnp.asarray(count), jnp.asarray(runs, jnp.int32),
        jnp.asarray(count == most), jnp.ones((ROWS,), bool)))
  mean = state.accepted / (state.accepted + state.rejected)
  np.testing.assert_allclose(mean, rate, atol=.12)
  late = np.mean(found[100:])
  # Lengths are geometric: 1 / (1 - rate) of them on average.
  assert {0.0: late < 1.1, 0.6: 1.8 < late < 4, 1.0: late > 20}[rate]


def test_thompson_lengths_are_geometric_and_follow_the_row_key():
  rows = 4000
  keys = keys_lib.row_keys(0, rows)
  controller = bandits.Thompson(1e5 * .7, 1e5 * .3)
  begin = jax.jit(controller.begin)
  at = lambda position: np.asarray(begin(
      controller.init(rows), keys, jnp.full((rows,), position)).length)
  found = at(1)
  for count in (1, 2, 3):
    share = np.mean(found >= count + 1)
    assert abs(share - .7 ** count) < .03
  np.testing.assert_array_equal(found, at(1))
  assert (found != at(2)).any()
  alone = begin(controller.init(1), keys[7:8], jnp.ones((1,), jnp.int32))
  assert alone.length[0] == found[7]


@pytest.mark.parametrize("rate,best", [(0.0, 1), (0.97, 8)])
def test_ucb_finds_the_best_length(rate, best):
  controller = bandits.UpperConfidence(draft_cost=.3, exploration=.3)
  begin, update = jax.jit(controller.begin), jax.jit(controller.update)
  state, rng = controller.init(ROWS), np.random.default_rng(0)
  first = []
  for _ in range(400):
    state = begin(state, *round_keys(1))
    count = np.asarray(controller.lengths)[np.asarray(state.arm)]
    first.append(int(count[0]))
    assert (lengths(controller, state) == count).all()
    runs = np.asarray([
        next((i for i in range(n) if rng.random() >= rate), n) for n in count])
    state = update(state, types.Checked(
        jnp.asarray(count, jnp.int32), jnp.asarray(runs, jnp.int32),
        jnp.zeros((ROWS,), bool), jnp.ones((ROWS,), bool)))
  assert first[:4] == [1, 2, 4, 8]
  favourite = np.asarray(controller.lengths)[np.argmax(state.pulls, -1)]
  assert (favourite == best).all()


def test_cost_model_takes_the_best_length():
  controller = cost_model.CostModel(12, draft_cost=.15, check_cost=.02)
  for rate in (.1, .5, .8, .95):
    factors = controller.factors(jnp.full((1,), rate))[0]
    wanted = [latency.expected_tokens(rate, n) / (1 + n * .17)
              for n in range(1, 13)]
    np.testing.assert_allclose(factors, wanted, rtol=1e-5)
    state = controller.init(ROWS).replace(
        accepted=jnp.full((ROWS,), rate * 8), judged=jnp.full((ROWS,), 8.))
    state = controller.begin(state, *round_keys(1))
    assert (lengths(controller, state) == 1 + np.argmax(wanted)).all()


def test_cost_model_forgets():
  controller = cost_model.CostModel()
  state = controller.init(ROWS)
  for _ in range(100):
    state = controller.update(state, checked(4, 4))
  assert float(state.accepted[0] / state.judged[0]) > .97
  for _ in range(100):
    state = controller.update(state, checked(4, 0))
  assert float(state.accepted[0] / state.judged[0]) < .15


def oracle_head():
  """A head that says what the features say: log-probability of acceptance."""
  class Oracle:
    def apply(self, params, features):
      del params
      accept = features[:, 0]
      return jnp.log(jnp.stack([1 - accept, accept], -1))
  return Oracle()


def chain_of(controller, accepts):
  """Tokens drafted where the n-th token's true acceptance is `accepts[n]`."""
  state = controller.begin(controller.init(1), None, None)
  for index in range(len(accepts)):
    features = {"final": jnp.full((1, 1), accepts[index - 1] if index else 0.)}
    goes_on, state = controller.proceed(None, state, types.Drafted(
        jnp.asarray(index), jnp.ones((1,)), features))
    if not bool(goes_on[0]):
      return index + 1
  return len(accepts)


def test_learned_acceptance_stops_when_a_rejection_is_likely():
  accepts = [.9, .9, .5, .9, .9]
  for bound, count in ((0., 2), (.15, 3), (.25, 4), (.7, 5), (1., 5)):
    controller = learned.LearnedAcceptance(oracle_head(), bound)
    # The token drawn by the forward that judges is sent along.
    assert chain_of(controller, accepts) == count, bound


def test_threshold_on_the_oracle_is_no_worse_than_any_fixed_length():
  """SpecDec++, Theorem 3.1, on a process of two kinds of text."""
  drafting = policies.Drafting(
      np.asarray([.98, .4]), np.asarray([.5, .5]),
      np.asarray([[.9, .1], [.1, .9]]), 1., 6., 7)
  best_fixed = min(
      policies.cost_per_token(drafting, policies.at_length(n))
      for n in range(1, 8))
  optimum, _ = policies.optimal(drafting)

  def stop_at(bound):
    controller = learned.LearnedAcceptance(oracle_head(), bound)
    def stop(path):
      if not path:
        return False
      accepts = [drafting.accepts[level] for level in path] + [1., 1.]
      # In this process a token is judged at once, not with the next one.
      return chain_of(controller, accepts) <= len(path) + 1
    return stop

  costs = [policies.cost_per_token(drafting, stop_at(h))
           for h in (.1, .3, .5, .7, .9)]
  assert optimum - 1e-9 <= min(costs) < best_fixed


def test_names_build():
  for name in controllers.names():
    assert controllers.get(name) == controllers.get(name)
  with pytest.raises(ValueError, match="controller='greedy'"):
    controllers.get("greedy")
  # Its head is a trained part, which `draft_chain` asks the bundle for.
  with pytest.raises(ValueError, match="chains of the bundle's draft model"):
    controllers.get(controllers.LEARNED)


@pytest.mark.parametrize("make,message", [
    (lambda: threshold.ConfidenceThreshold(threshold=-.5), "threshold=-0.5"),
    (lambda: threshold.ConfidenceThreshold(step=1.5), "step=1.5"),
    (lambda: bandits.Thompson(0.), "prior_accepted=0.0"),
    (lambda: bandits.UpperConfidence(()), r"lengths=\(\)"),
    (lambda: bandits.UpperConfidence(draft_cost=-1.), "draft_cost=-1.0"),
    (lambda: cost_model.CostModel(0), "max_length=0"),
    (lambda: cost_model.CostModel(prior=1.), "prior=1.0"),
    (lambda: cost_model.CostModel(decay=0.), "decay=0.0"),
    (lambda: cost_model.CostModel(check_cost=-.1), "check_cost=-0.1"),
    (lambda: learned.LearnedAcceptance(None, 2.), "threshold=2.0"),
])
def test_bad_hyper_parameters_are_named(make, message):
  with pytest.raises(ValueError, match=message):
    make()
