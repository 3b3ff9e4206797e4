"""The fused executor: statuses, streaming, capacity, failure of a row."""

import dataclasses
import functools

import jax.numpy as jnp
import numpy as np
import pytest

from spec_jax import systems
from spec_jax.core import keys as keys_lib
from spec_jax.core import sampling as sampling_lib
from spec_jax.core import types
from spec_jax.executors import decoding
from spec_jax.executors import fused
from tests import toy
from tests.executors import cases

POISON = 9  # Greedy rows 2 and 3 of `toy.prompts()` write it, 0 and 1 do not.
BUDGET = 12


def test_inputs_survive_and_the_same_call_gives_the_same_text():
  system, params = cases.build("prompt_lookup")
  prompts, keys, budget = cases.inputs()
  first, second = (
      fused.Fused().run(system, params, prompts, keys, budget)
      for _ in range(2))
  cases.assert_equal(first, second)


def test_statuses_and_budgets():
  system, params = cases.build("speculative_sampling")
  prompts, keys, _ = cases.inputs()
  budgets = np.asarray([9, 14, 0])
  decoded = fused.Fused().run(system, params, prompts, keys, budgets)
  emitted = np.asarray(decoded.length - prompts.length)
  wanted = cases.expected("speculative_sampling")
  assert cases.text(decoded, 0) == cases.text(wanted, 0)[:1 + 9]
  assert cases.text(decoded, 1) == cases.text(wanted, 1)
  assert decoded.status.tolist() == [
      types.Status.BUDGET, types.Status.END_OF_TEXT, types.Status.BUDGET]
  assert cases.text(decoded, 1)[-1] == cases.END_OF_TEXT
  assert emitted[0] == 9 and emitted[1] < 14 and emitted[2] == 0
  assert decoded.counts.target_calls[2] == 0
  assert not np.asarray(decoded.counts.drafted[2]).any()


@pytest.mark.parametrize("name", ["speculative_sampling", "prompt_lookup"])
def test_stream_grows_into_the_whole(name):
  wanted = cases.expected(name)
  pieces = list(fused.Fused().stream(
      *cases.build(name), *cases.inputs(), rounds_per_yield=2))
  assert len(pieces) > 2
  for before, after in zip(pieces, pieces[1:]):
    for old, new in zip(cases.texts(before), cases.texts(after)):
      assert new[:len(old)] == old
  cases.assert_equal(pieces[-1], wanted)
  assert all((p.counts.target_calls <= 2 * (i + 1)).all()
             for i, p in enumerate(pieces))


def test_capacity():
  prompts = toy.prompts((1, 7))
  assert decoding.capacity_for(prompts, 57) == 64
  assert decoding.capacity_for(prompts, np.asarray([1, 58])) == 128
  assert decoding.capacity_for(prompts, 5, 12) == 12
  with pytest.raises(ValueError, match="capacity=11 .* at least 12"):
    decoding.capacity_for(prompts, 5, 11)


def test_text_that_fills_the_last_slot():
  system, params = cases.build("prompt_lookup")
  prompts, keys, budget = cases.inputs()
  tight = prompts.tokens.shape[1] + budget
  decoded = fused.Fused().run(system, params, prompts, keys, budget, tight)
  assert cases.texts(decoded) == cases.texts(cases.expected("prompt_lookup"))


def test_prefill_in_chunks_changes_nothing():
  system, params = cases.build("speculative_sampling")
  decoded = fused.Fused(chunk=2).run(system, params, *cases.inputs())
  cases.assert_equal(decoded, cases.expected("speculative_sampling"))


@dataclasses.dataclass(frozen=True)
class PoisonedModel:
  """A target whose logits behind one token are not numbers."""

  inner: object
  token: int

  def __getattr__(self, name):
    return getattr(self.inner, name)

  def forward(self, params, tokens, *args, **kwargs):
    out = self.inner.forward(params, tokens, *args, **kwargs)
    if out.logits is None:
      return out
    is_bad = (tokens == self.token)[:, :, None]
    return out.replace(logits=jnp.where(is_bad, jnp.nan, out.logits))


def decode_greedy(system, params):
  return fused.Fused().run(
      system.with_sampling(sampling_lib.GREEDY), params, toy.prompts(),
      keys_lib.row_keys(0, 4), BUDGET)


@functools.cache
def healthy_texts():
  return cases.texts(decode_greedy(*systems.build(
      "autoregressive", toy.bundle())))


def assert_only_poisoned_rows_stopped(decoded):
  healthy = healthy_texts()
  assert cases.texts(decoded)[:2] == healthy[:2]
  assert decoded.status.tolist() == (
      [types.Status.BUDGET] * 2 + [types.Status.NAN_LOGITS] * 2)
  for row in (2, 3):
    text = cases.text(decoded, row)
    start = int(decoded.prompt_length[row])
    assert text == healthy[row][:len(text)]
    assert POISON not in text[start:-1]


@pytest.mark.parametrize("name,hyper", [
    ("autoregressive", {}), ("speculative_sampling", dict(depth=2))])
def test_nan_logits_stop_their_row_only(name, hyper):
  system, params = systems.build(name, toy.bundle(), **hyper)
  system = dataclasses.replace(
      system, target=PoisonedModel(system.target, POISON))
  assert_only_poisoned_rows_stopped(decode_greedy(system, params))


def test_nan_parameters_stop_their_row_only():
  system, params = systems.build("autoregressive", toy.bundle())
  target = dict(params.target)
  target["embedding"] = target["embedding"].at[POISON].set(jnp.nan)
  decoded = decode_greedy(system, params.replace(target=target))
  # In row 2 the poison is in the prompt already: in keys and values.
  assert POISON in np.asarray(toy.prompts().tokens[2])
  assert cases.text(decoded, 2) == toy.prompts().tokens[2].tolist()
  assert_only_poisoned_rows_stopped(decoded)
