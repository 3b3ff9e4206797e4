"""Rounds are timed from one state, and what the host does is told apart."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from spec_jax import systems
from spec_jax.core import keys as keys_lib
from spec_jax.evaluation import timed_rounds
from spec_jax.executors import hosted
from tests import toy


@pytest.mark.parametrize("name,hyper,stages", [
    ("prompt_lookup", dict(depth=3), set()),
    ("suffix_decoding", dict(budget=6, depth=4, max_requests=0),
     {"draft", "update"})])
def test_every_call_starts_from_the_same_state(name, hyper, stages):
  system, params = systems.build(name, toy.bundle(), **hyper)
  executor = hosted.executor_for(system)
  state = executor.start(system, params, toy.prompts((3, 4)),
                         keys_lib.row_keys(0, 2), jnp.full((2,), 40), 64)
  before = np.asarray(state.tokens)
  # A clock that counts how often it is read: equal rounds, equal times.
  ticks = itertools.count()
  rounds = timed_rounds.Rounds(
      lambda: next(ticks), system, params, state, executor)
  assert rounds() == rounds()
  assert set(rounds.host) == stages
  np.testing.assert_array_equal(before, state.tokens)


def test_the_host_drafts_once_a_round_and_hears_every_row():
  system, params = systems.build(
      "suffix_decoding", toy.bundle(), budget=6, depth=4)
  executor = hosted.executor_for(system)
  state = executor.start(system, params, toy.prompts((3, 4)),
                         keys_lib.row_keys(0, 2), jnp.full((2,), 40), 64)
  ticks = itertools.count()
  rounds = timed_rounds.Rounds(
      lambda: next(ticks), system, params, state, executor)
  rounds()
  assert rounds.host == {"draft": 1, "update": 2}
