"""SuffixDecoding: the request's tree, the cache, and the contract."""

import jax.numpy as jnp
import numpy as np
import pytest

from spec_jax.core import keys as keys_lib
from spec_jax.core import sampling as sampling_lib
from spec_jax.core import system as system_lib
from spec_jax.core import types
from spec_jax.executors import hosted
from spec_jax.stores import suffix_draft
from spec_jax.systems.retrieval import suffix_decoding
from spec_jax.verifiers import recursive
from tests import rounds

V = 32


def drafter(max_requests=100, **fields):
  return suffix_decoding.SuffixDecoding(
      suffix_draft.Speculation(**fields), max_requests=max_requests)


def test_better_score_drafts_and_the_own_text_if_equal():
  cache = suffix_draft.RequestCache()
  other = cache.begin()
  cache.append(other, [1, 2, 3, 4, 5, 6])
  speculation = suffix_draft.Speculation(budget=8)
  fresh = suffix_decoding.Row(speculation, cache, 64, [9, 1, 2, 3])
  assert fresh.draft(()).tokens == [4, 5, 6]
  # Seen before in its own text, but there every other time only.
  own = suffix_decoding.Row(speculation, cache, 64, [1, 2, 3, 7, 8, 1, 2, 3])
  assert own.draft(()).score == 3 and own.draft(()).tokens == [4, 5, 6]
  alone = suffix_decoding.Row(
      speculation, None, 64, [1, 2, 3, 7, 8, 1, 2, 3])
  assert alone.draft(()).score == 1.5 and alone.draft(()).tokens == [7, 8, 1]
  # As likely in both: the own text's.
  cache.append(other, [0, 11, 12, 30, 0, 11])
  equal = suffix_decoding.Row(speculation, cache, 64, [0, 11, 31, 0, 11])
  assert equal.draft(()).tokens[0] == 31


def test_prompts_stay_out_of_the_cache_and_responses_are_seen_at_once():
  sessions = drafter()
  store = sessions.open_store()
  session = sessions.open_session(
      store, [np.asarray([1, 2, 3]), np.asarray([4, 9])])
  session.extend(0, np.asarray([6, 7]))
  assert store.tree.count([2]) == 0 and store.tree.count([6, 7]) == 1
  session.extend(1, np.asarray([6]))
  draft = session.draft((), np.asarray([False, True]))
  assert draft.valid.sum(1).tolist() == [0, 1] and draft.tokens[1, 0] == 7
  session.close()
  assert store.tree.count([6]) == 2


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_what_was_kept_decides_about_speed_only(temperature):
  rng = np.random.default_rng(0)
  table = jnp.asarray(rng.normal(size=(V, V)) * 8, jnp.float32)
  system = rounds.compose(
      drafter(), rounds.TableModel(V), sampling_lib.Sampling(temperature))
  args = (types.Params(table), rounds.prompts_of([[3], [3, 4]]),
          keys_lib.row_keys(0, 2), 50)
  executor = hosted.Hosted()
  cold, warm = (executor.run(system, *args) for _ in range(2))
  np.testing.assert_array_equal(cold.tokens, warm.tokens)
  calls = [int(d.counts.target_calls.sum()) for d in (cold, warm)]
  assert calls[1] < 0.7 * calls[0]
  stranger = hosted.Hosted().run(system, *args)
  np.testing.assert_array_equal(
      stranger.counts.target_calls, cold.counts.target_calls)


def test_a_rule_that_looks_at_drafts_is_refused():
  system = rounds.compose(drafter(), rounds.TableModel(V))
  with pytest.raises(system_lib.IncompatibleParts,
                     match="SuffixDecoding.*remembers.*Rejection"):
    system_lib.System(**{
        **{name: getattr(system, name) for name in (
            "name", "target", "drafter", "make_cache", "walk")},
        "verifier": _anything()})


def _anything():
  class Anything(recursive.Rejection):
    draws = types.DRAWS
    max_drafts = None

    def __repr__(self):
      return "Rejection()"
  return Anything()


def test_without_requests_only_the_own_text_counts():
  alone = drafter(max_requests=0)
  assert alone.open_store() is None
  session = alone.open_session(None, [np.asarray([1, 2, 3, 1, 2])])
  assert session.draft((), np.asarray([True])).tokens[0, 0] == 3
