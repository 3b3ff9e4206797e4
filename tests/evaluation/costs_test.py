"""Forwards can be timed alone, whatever is passed to them."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import pytest

from spec_jax import systems
from spec_jax.core import keys as keys_lib
from spec_jax.evaluation import costs
from spec_jax.executors import fused
from tests import toy


@pytest.mark.parametrize("name,num_tokens", [("kangaroo", 4), ("glide", 4)])
def test_forwards_of_a_round_are_timed(name, num_tokens):
  """A forward from a middle layer on; one that reads a second cache."""
  system, params = systems.build(name, toy.bundle(), depth=3)
  state = fused.Fused().start(
      system, params, toy.prompts((3, 4)), keys_lib.row_keys(0, 2),
      jnp.full((2,), 8), 32)
  forwards = costs.Forwards({name: (system, params, state)})
  forwards.sample(1)
  cost = forwards.take()[name]
  assert cost.tree_tokens == num_tokens and cost.draft_forwards >= 2
  assert cost.target > 0 and cost.draft > 0


def test_loops_over_a_model_are_timed_as_a_whole():
  """A loop's body is traced once, whatever it costs to go through it often."""
  def draft_cost(name, **hyper):
    system, params = systems.build(name, toy.bundle(), **hyper)
    state = fused.Fused().start(
        system, params, toy.prompts((3, 4)), keys_lib.row_keys(0, 2),
        jnp.full((2,), 40), 64)
    ticks = iter(range(1000))
    forwards = costs.Forwards(
        {name: (system, params, state)}, timer=lambda: next(ticks))
    num_timed = len(forwards._fns)  # pylint: disable=protected-access
    forwards.sample(1)
    return num_timed, forwards.take()[name]

  # With a clock that counts calls, each function costs the same: the target's
  # forward, and one of the draft or one proposal.
  num_timed, cost = draft_cost("opt_tree", budget=7, depth=4)
  assert num_timed == 2 and cost.draft == cost.target
  assert cost.draft_forwards == 2  # The root's and the loop's.
  num_timed, cost = draft_cost("specinfer", branching=(1, 1, 1, 1))
  assert cost.draft == pytest.approx(cost.draft_forwards * cost.target)


def test_forwards_in_turn_are_timed_if_asked():
  cases = {}
  for name, hyper in (("autoregressive", {}), ("specinfer",
                                               {"branching": (1, 1)})):
    system, params = systems.build(name, toy.bundle(), **hyper)
    cases[name] = system, params, fused.Fused().start(
        system, params, toy.prompts((3, 4)), keys_lib.row_keys(0, 2),
        jnp.full((2,), 8), 32)
  ticks = iter(range(1000))
  forwards = costs.Forwards(
      cases, timer=lambda: next(ticks), with_in_turn=True)
  forwards.sample(1)
  plain, drafted = forwards.take().values()
  # The clock counts calls: all forwards in turn are one, as each alone is.
  assert plain.in_turn == plain.total == plain.target
  assert drafted.in_turn == drafted.target < drafted.total


@dataclasses.dataclass(frozen=True)
class _Counting:
  """A model that says how many tokens it was traced with."""

  model: Any
  seen: list = dataclasses.field(compare=False)

  def __getattr__(self, name):
    return getattr(self.model, name)

  def forward(self, params, tokens, *args, **kwargs):
    self.seen.append(tokens.shape[1])
    return self.model.forward(params, tokens, *args, **kwargs)


def test_forwards_in_turn_are_all_of_a_round():
  """One program of every draft forward, then the target's."""
  system, params = systems.build(
      "specinfer", toy.bundle(), branching=(1, 1, 1))
  state = fused.Fused().start(
      system, params, toy.prompts((3, 4)), keys_lib.row_keys(0, 2),
      jnp.full((2,), 8), 32)
  seen = []
  system = dataclasses.replace(
      system, target=_Counting(system.target, seen),
      drafter=dataclasses.replace(
          system.drafter, model=_Counting(system.drafter.model, seen)))
  ticks = iter(range(0, 1000, 8))
  timed = costs.in_turn(system, params, state, timer=lambda: next(ticks))
  assert seen[-4:] == [2, 1, 1, 4]  # The last draft's sibling, three drafts.
  assert timed() == 1  # Eight ticks over eight rounds.
