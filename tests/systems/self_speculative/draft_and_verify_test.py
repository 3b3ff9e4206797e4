"""Draft & Verify: what a faithful implementation must show."""

import dataclasses
import types as python_types

import jax.numpy as jnp
import numpy as np
import pytest

from spec_jax import api
from spec_jax import controllers
from spec_jax import systems
from spec_jax.core import types
from tests import toy
from tests.systems.self_speculative import models

PROMPTS = [[3, 1, 4, 1, 5], [9, 2]]


def decode(**hyper):
  model, params = models.deep(4)
  system, params = systems.build(
      "draft_and_verify", models.bundle(model, params), depth=4, **hyper)
  return api.generate(system, params, PROMPTS, max_new_tokens=20)


def test_whole_model_as_draft_is_always_accepted():
  stats = decode(skip_attention=(), skip_feed_forward=(),
                 threshold=0.0).stats
  assert stats.block_efficiency == pytest.approx(5.0)


def test_skipping_costs_acceptance_but_no_text():
  whole = decode(skip_attention=(), skip_feed_forward=(), threshold=0.0)
  half = decode(skip_attention=(1, 2), skip_feed_forward=(1,), threshold=0.0)
  assert half.tokens == whole.tokens
  assert half.stats.block_efficiency < whole.stats.block_efficiency


def test_confident_rows_draft_on_and_others_stop():
  """A threshold nothing reaches: one draft a round, and it is submitted."""
  stats = decode(threshold=1.0).stats
  assert stats.drafted == stats.target_calls


def outcome(drafted, accepted, depth=4):
  valid = np.arange(depth + 1)[None] <= drafted
  verdict = types.Verdict(None, jnp.asarray([accepted + 1]), None)
  return python_types.SimpleNamespace(
      verdict=verdict, tree=python_types.SimpleNamespace(
          valid=jnp.asarray(valid)))


@pytest.mark.parametrize("drafted, accepted, moves", [
    (4, 0, [.001] * 6), (2, 2, [.001] * 3 + [-.001] * 3),
    (4, 4, [.001] * 3 + [0] * 3)], ids=["rejected", "short", "full"])
def test_threshold_moves_with_what_was_accepted(drafted, accepted, moves):
  """Rejected drafts raise it; short ones, accepted for long, lower it."""
  model, params = models.deep(4)
  system, _ = systems.build(
      "draft_and_verify", models.bundle(model, params), depth=4)
  state = system.drafter.init(None, 1, 8)
  values = [float(state.control.threshold[0])]
  for _ in moves:
    state = system.drafter.update(None, state, outcome(drafted, accepted))
    values.append(float(state.control.threshold[0]))
  np.testing.assert_allclose(np.diff(values), moves, atol=1e-6)


@pytest.mark.parametrize("name", controllers.names())
def test_every_controller_leaves_the_text_alone(name):
  model, params = models.deep(4)
  system, params = systems.build(
      "draft_and_verify", models.bundle(model, params), depth=4)
  drafter = dataclasses.replace(
      system.drafter, controller=controllers.get(name))
  result = api.generate(dataclasses.replace(system, drafter=drafter), params,
                        PROMPTS, max_new_tokens=12)
  for prompt, text in zip(PROMPTS, result.tokens):
    assert prompt + text == toy.greedy_reference(
        model, params.target, prompt, 12)
  shares = result.stats.drafted / (4 * result.stats.target_calls)
  assert shares == 1 if name == "fixed" else shares < 1


def test_unknown_layer_is_named():
  with pytest.raises(ValueError, match="layer 7 .* layers 0 to 3"):
    decode(skip_attention=(7,))
