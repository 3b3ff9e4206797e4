"""Turns, batches and truncation, with a clock that decodes nothing."""

import types as python_types

import jax.numpy as jnp
import numpy as np
import pytest

from spec_jax.core import counts
from spec_jax.core import types
from spec_jax.evaluation import clock
from spec_jax.evaluation import prompts
from spec_jax.evaluation import workload
from spec_jax.executors import decoding

_SYSTEM = python_types.SimpleNamespace(end_of_text=0)


class _Letters:

  def encode(self, text, add_special_tokens=True):
    return ([1] if add_special_tokens else []) + [ord(c) for c in text]


class _Clock:
  """Emits 7 and the end of text for every row; keeps what it was asked."""

  def __init__(self, status=types.Status.END_OF_TEXT):
    self.asked, self.keys, self._status = [], [], status
    self.forgotten = []

  def forget(self):
    self.forgotten.append(len(self.asked))

  def decode(self, system, params, batch, keys, max_new_tokens):
    tokens, length = np.asarray(batch.tokens), np.asarray(batch.length)
    self.asked.append([row[:n].tolist() for row, n in zip(tokens, length)])
    self.keys.append(keys)
    text = np.pad(tokens, ((0, 0), (0, 2)))
    for row, n in enumerate(length):
      text[row, n:n + 2] = 7, 0
    status = jnp.full(length.shape, int(self._status))
    decoded = decoding.Decoded(
        jnp.asarray(text), batch.length + 2, batch.length, status,
        counts.zero(len(length), 0))
    return decoded, clock.Lap(1.0, 1.0, 1, 2 * len(length))


def _work(*turns, **more):
  rows = [prompts.Conversation(str(i), "c", t) for i, t in enumerate(turns)]
  fields = dict(max_positions=40, max_new_tokens=4)
  return workload.Workload(rows, _Letters(), **fields | more)


def test_a_turn_follows_the_answer_without_its_end():
  watch = _Clock()
  done = workload.run(watch, _SYSTEM, None, _work(("a", "b")))
  first, separator = [1, ord("a")], [ord(c) for c in "\n\n"]
  assert watch.asked == [[first], [first + [7] + separator + [ord("b")]]]
  assert done.prompts == [watch.asked[0][0], watch.asked[1][0]]
  assert done.rows == [[7, 0]] * 2
  assert done.lap == clock.Lap(2.0, 2.0, 2, 4)


def test_batches_have_one_number_of_turns():
  watch = _Clock()
  workload.run(watch, _SYSTEM, None, _work(
      ("a",), ("b", "c"), ("d",), ("e",), batch=2))
  assert [len(rows) for rows in watch.asked] == [2, 1, 1, 1]
  assert [chr(rows[0][1]) for rows in watch.asked[:3]] == ["a", "e", "b"]
  # No two rows share a key.
  assert len({str(key) for keys in watch.keys[:3] for key in keys}) == 4


def test_truncation_is_asked_for_and_counted():
  long = ("x" * 50,)
  with pytest.raises(ValueError, match="0: 51 prompt tokens, with"
                     " max_new_tokens=4 at most 36 fit"):
    workload.run(_Clock(), _SYSTEM, None, _work(long))
  watch = _Clock()
  done = workload.run(watch, _SYSTEM, None, _work(long, truncate=True))
  assert done.dropped == 15 and len(watch.asked[0][0]) == 36


def test_a_target_that_fails_voids_the_pass():
  watch = _Clock(types.Status.NAN_LOGITS)
  with pytest.raises(FloatingPointError, match="0: the target's logits"):
    workload.run(watch, _SYSTEM, None, _work(("a",)))


@pytest.mark.parametrize("turns,more,message", [
    ((), {}, "no prompts"), ((("a",),), {"batch": 0}, "batch=0, expected"),
    ((("a",),), {"max_new_tokens": 40}, "max_new_tokens=40, expected")])
def test_bad_workloads(turns, more, message):
  with pytest.raises(ValueError, match=message):
    _work(*turns, **more)


def test_every_pass_starts_knowing_nothing():
  fake = _Clock()
  work = _work(("ab", "cd"), ("ef",))
  for _ in range(2):
    workload.run(fake, _SYSTEM, None, work)
  assert fake.forgotten == [0, 3] and len(fake.asked) == 6
