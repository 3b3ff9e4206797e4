"""Composition errors, and the step's small parts against plain Python."""

import dataclasses
import types as python_types

import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spec_jax import systems
from spec_jax.core import keys as keys_lib
from spec_jax.core import registry
from spec_jax.core import sampling as sampling_lib
from spec_jax.core import system as system_lib
from spec_jax.core import types
from spec_jax.drafters import draft_model
from spec_jax.executors import decoding
from spec_jax.executors import fused
from spec_jax.models import contract
from spec_jax.systems import registration
from spec_jax.verifiers import recursive
from tests import toy


def compose(rule, branching=(1, 1), draw="iid", model=None):
  bundle = toy.bundle()
  parts = registration.Parts(bundle.target, bundle.models)
  drafter = draft_model.DraftModel(model or bundle.target, branching, draw)
  return registration.compose("composed", parts, drafter, rule)


@pytest.mark.parametrize("rule,changes,message", [
    (recursive.RecursiveWithoutReplacement(), dict(draw="iid"),
     r"draws children 'iid', rule RecursiveWithoutReplacement\(\) is valid for"
     r" \('without_replacement',\) only"),
    (recursive.Recursive(), dict(draw="coupled"), "draws children 'coupled'"),
    (recursive.Rejection(), dict(branching=(1, 3)),
     r"up to 3 drafts per node, rule Rejection\(\) takes at most 1"),
])
def test_parts_that_do_not_fit_name_both_sides(rule, changes, message):
  with pytest.raises(system_lib.IncompatibleParts, match=message) as error:
    compose(rule, **changes)
  assert "DraftModel(" in str(error.value)


@pytest.mark.parametrize("vocab_size,first", [(10, 10), (15, 12)])
def test_vocabularies_that_differ_name_the_first_id(vocab_size, first):
  model = contract.decoder_model(
      dataclasses.replace(toy.config(), vocab_size=vocab_size))
  with pytest.raises(system_lib.IncompatibleParts,
                     match=f"{vocab_size} tokens.* of 12.* is {first}"):
    compose(recursive.Recursive(), model=model)


def test_unknown_names_offer_the_nearest():
  bundle = toy.bundle()
  with pytest.raises(registry.UnknownName,
                     match="unknown system 'specinfr'.* mean 'specinfer'"):
    systems.build("specinfr", bundle)
  with pytest.raises(ValueError, match="specinfer 'branch'.* 'branching'"):
    systems.build("specinfer", bundle, branch=(1,))
  without = dataclasses.replace(bundle, models={})
  with pytest.raises(ValueError, match="the model 'draft', .* no draft models"):
    systems.build("specinfer", without)


def test_a_rebuilt_system_is_the_same_value():
  build = lambda: systems.build(
      "specinfer", toy.bundle.__wrapped__(), branching=(2, 1))[0]
  assert build() == build() and hash(build()) == hash(build())
  greedy = build().with_sampling(sampling_lib.GREEDY)
  assert greedy != build() and greedy.drafter == build().drafter


SLOTS, LENGTH, VOCAB = 4, 5, 6
_rows = st.lists(
    st.fixed_dictionaries(dict(
        drafts=st.lists(st.integers(0, VOCAB - 1), min_size=SLOTS - 1,
                        max_size=SLOTS - 1),
        count=st.integers(1, SLOTS), next_token=st.integers(0, VOCAB - 1),
        room=st.integers(1, SLOTS + 1), bad=st.integers(0, 3 * SLOTS),
        stopped=st.booleans())),
    min_size=6, max_size=6)


def stop_row(row, end_of_text):
  """What a row emits and why it stops, said plainly."""
  emitted = row["drafts"][:row["count"] - 1] + [row["next_token"]]
  emitted = emitted[:row["room"]]
  if end_of_text in emitted:
    emitted = emitted[:emitted.index(end_of_text) + 1]
  if row["stopped"]:
    return [], types.Status.END_OF_TEXT
  if row["bad"] < row["count"]:  # The logits of a node that was walked over.
    return [], types.Status.NAN_LOGITS
  if end_of_text in emitted:
    return emitted, types.Status.END_OF_TEXT
  done = len(emitted) == row["room"]
  return emitted, types.Status.BUDGET if done else types.Status.RUNNING


@hypothesis.given(_rows, st.sampled_from([None, 3]))
@hypothesis.settings(deadline=None, max_examples=50, derandomize=True)
def test_stop_and_append_like_lists(rows, end_of_text):
  column = lambda name: np.asarray([row[name] for row in rows], np.int32)
  batch = len(rows)
  drafts, count = column("drafts"), column("count")
  path = np.minimum(np.arange(SLOTS)[None], count[:, None] - 1)
  logits = np.zeros((batch, SLOTS, VOCAB), np.float32)
  logits[np.arange(SLOTS)[None] == column("bad")[:, None]] = np.nan
  tree = types.DraftTree(
      jnp.asarray(np.pad(drafts, ((0, 0), (1, 0)))), None,
      jnp.ones((batch, SLOTS), bool), None, "iid", SLOTS - 1, 1)
  state = types.DecodeState(
      None, jnp.full((batch, 16), 9, jnp.int32),
      jnp.full((batch,), LENGTH, jnp.int32),
      jnp.asarray(LENGTH + column("room")),
      jnp.where(column("stopped") > 0, types.Status.END_OF_TEXT, 0).astype(
          jnp.int32), None, None)
  verdict = types.Verdict(
      *map(jnp.asarray, (path, count, column("next_token"))))
  cut, status, tokens, length = _stop(end_of_text, state, tree,
                                      jnp.asarray(logits), verdict)
  for i, row in enumerate(rows):
    emitted, wanted = stop_row(row, end_of_text)
    assert (int(cut.count[i]), int(status[i])) == (len(emitted), wanted)
    assert tokens[i].tolist() == (
        [9] * LENGTH + emitted + [9] * (16 - LENGTH - len(emitted)))
    assert length[i] == LENGTH + len(emitted)
    assert not emitted or cut.next_token[i] == emitted[-1]


def _stop(end_of_text, state, tree, logits, verdict):
  system = python_types.SimpleNamespace(end_of_text=end_of_text)
  out = types.ModelOut(logits, None, {})
  cut, status, emitted = system_lib.stop(system, state, tree, out, verdict)
  return cut, status, *system_lib.append(state, emitted, cut.count)


def poisoned(cache):
  """Nonsense in every slot that holds no committed token."""
  is_free = (jnp.arange(cache.capacity)[None] >= cache.length[:, None])[
      :, None, :, None]
  spoil = lambda buffers: tuple(jnp.where(is_free, 1e6, b) for b in buffers)
  return cache.replace(k=spoil(cache.k), v=spoil(cache.v))


def test_free_slots_are_never_believed():
  system, params = systems.build(
      "speculative_sampling", toy.bundle(), depth=2)
  system = system.with_sampling(sampling_lib.GREEDY)
  executor, prompts = fused.Fused(), toy.prompts((1, 5))

  def finish(spoil_fn):
    state = executor.start(system, params, prompts, keys_lib.row_keys(0, 2), 8)
    state = state.replace(
        cache=spoil_fn(state.cache), drafter=state.drafter.replace(
            cache=spoil_fn(state.drafter.cache)))
    counts = decoding.zero_counts(system, 2)
    state, counts = executor.rounds(system, params, state, counts)
    return jax.device_get((state.tokens, counts))

  jax.tree.map(np.testing.assert_array_equal, finish(poisoned),
               finish(lambda cache: cache))


def test_rows_that_stopped_stay_as_they_are():
  system, params = systems.build("prompt_lookup", toy.bundle(), depth=2)
  state = fused.Fused().start(system, params, toy.prompts((2, 5)),
                              keys_lib.row_keys(0, 2), np.asarray([0, 4]))
  after, info = jax.jit(system_lib.step, static_argnums=0)(
      system, params, state)
  row = lambda s: (s.tokens[0], s.length[0], s.status[0], s.cache.length[0],
                   s.cache.k[0][0], s.cache.v[1][0])
  jax.tree.map(np.testing.assert_array_equal, row(state), row(after))
  assert info.active.tolist() == [0, 1]
  assert int(info.emitted[0]) == 0 < int(info.emitted[1])
