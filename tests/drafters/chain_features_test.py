"""Every drafter of chains takes every controller, a learned head among them."""

import dataclasses
import functools
from typing import ClassVar

from flax import struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spec_jax import controllers
from spec_jax import systems
from spec_jax.controllers import bandits
from spec_jax.controllers import learned
from spec_jax.controllers import threshold
from spec_jax.core import keys as keys_lib
from spec_jax.core import types
from tests import rounds
from tests import toy
from tests.conformance import runs

DEPTH = 3
SYSTEMS = {
    "eagle_1": {"branching": (1,) * DEPTH}, "glide": {"depth": DEPTH},
    "eesd": {"depth": DEPTH}, "kangaroo": {"depth": DEPTH},
    "draft_and_verify": {"depth": DEPTH, "skip_attention": (1,),
                         "skip_feed_forward": ()},
    "speculative_sampling": {"depth": DEPTH}}
# One a drafter: Kangaroo's is EESD's.
ONE_EACH = tuple(name for name in SYSTEMS if name != "kangaroo")


def with_controller(name, controller, own=None):
  """A system with that very controller, and `own` parameters for it."""
  system, params = systems.build(
      name, toy.bundle(runs.END_OF_TEXT), controller="fixed", **SYSTEMS[name])
  drafter, names = system.drafter, None
  if own is not None and name in ("eagle_1", "eesd"):  # By part already.
    names = name, "head"
    params = params.replace(drafter={**params.drafter, "head": own})
  elif own is not None:
    names = "model", "head"
    params = params.replace(drafter={"model": params.drafter, "head": own})
  return dataclasses.replace(system, drafter=dataclasses.replace(
      drafter, controller=controller, names=names)).with_sampling(
          runs.GREEDY), params


@struct.dataclass
class Seen:
  """`f[B, D, E]`, what was read before each draft."""

  features: jax.Array


@dataclasses.dataclass(frozen=True)
class Recorder:
  """Goes on and keeps what it reads."""

  width: int
  taps: ClassVar[tuple[str, ...]] = ("final",)

  def init(self, batch):
    return Seen(jnp.zeros((batch, DEPTH, self.width)))

  def begin(self, state, keys, length):
    return state

  def proceed(self, params, state, drafted):
    found = state.features.at[:, drafted.index].set(drafted.features["final"])
    return jnp.ones(drafted.confidence.shape, bool), Seen(found)

  def update(self, state, checked):
    return state


def width_of(name):
  return (toy.HEADS["glide"] if name == "glide" else
          {"d_model": toy.config().d_model})["d_model"]


def spoken(name, system, params, features):
  """The logits that belong to features which the controller read."""
  model, own = system.drafter.model, params.drafter
  if name == "glide":
    return model.net.apply({"params": own}, features,
                           method=lambda net, x: net.ends.unembed(x))
  if name in ("eagle_1", "eesd"):
    return model.logits(own, features)
  return model.unembed(own, features)


@pytest.mark.parametrize("name", ONE_EACH)
def test_controllers_read_what_the_next_token_is_drawn_from(name):
  system, params = with_controller(name, Recorder(width_of(name)))
  *_, last = rounds.play(system, params, toy.prompts((3, 6)), 9, num_rounds=2)
  tokens = np.argmax(spoken(
      name, system, params, jnp.asarray(last.proposed.control.features)), -1)
  assert last.tree.valid.all()
  np.testing.assert_array_equal(last.tree.tokens[:, 1:], tokens)


@pytest.mark.parametrize("name", ONE_EACH)
def test_a_learned_head_leaves_the_text_alone(name):
  head = learned.AcceptanceHead(1)
  own = head.init(
      jax.random.key(3), jnp.zeros((1, width_of(name))))["params"]
  system, params = with_controller(
      name, learned.LearnedAcceptance(head, .6), own)
  found = runs.play(system, params, toy.prompts(), keys_lib.row_keys(0, 4),
                    runs.BUDGETS)
  assert found.texts == runs.greedy_texts()
  drafted = found.counts.drafted.sum(0)
  # No draft is judged before the second; toy heads deny about half of all.
  assert drafted[0] >= drafted[1] > drafted[2]


@pytest.mark.parametrize("name, published", [
    ("kangaroo", threshold.ConfidenceThreshold(.6, step=0.0)),
    ("eesd", bandits.Thompson()),
    ("draft_and_verify", threshold.ConfidenceThreshold(.6))])
def test_a_name_takes_the_place_of_the_published_controller(name, published):
  build = functools.partial(systems.build, name, toy.bundle(), **SYSTEMS[name])
  assert build()[0].drafter.controller == published
  found = build(controller="ucb", draft_cost=.25)[0].drafter
  assert found.controller == controllers.get("ucb", draft_cost=.25)
  with pytest.raises(ValueError, match="controller='greedy'"):
    build(controller="greedy")


@pytest.mark.parametrize("name", ["kangaroo", "draft_and_verify"])
def test_rows_that_ended_draft_nothing(name):
  system, params = systems.build(
      name, toy.bundle(runs.END_OF_TEXT), controller="thompson",
      **SYSTEMS[name])
  idle = 0
  for each in rounds.play(
      system.with_sampling(runs.GREEDY), params, toy.prompts(), 12):
    has_ended = each.before.status != types.Status.RUNNING
    assert not each.tree.valid[has_ended, 1:].any()
    idle += has_ended.sum()
  assert idle
