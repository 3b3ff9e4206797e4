"""The datastore against scans; broken and foreign files are refused."""

import json
import re

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from spec_jax.stores import datastore

END = 0


def make(folder, tokens, sort_depth=8, vocab_size=5, chunk_tokens=10 ** 6):
  datastore.write(folder, np.asarray(tokens, np.uint16), vocab_size, END,
                  sort_depth, chunk_tokens)
  return datastore.open_store(folder, vocab_size)


@hypothesis.given(tokens=st.lists(st.integers(0, 2), min_size=1, max_size=60),
                  depth=st.integers(1, 9))
@hypothesis.settings(deadline=None, max_examples=100, derandomize=True)
def test_sort_is_by_the_first_tokens_then_by_place(tokens, depth):
  order = datastore.sort_suffixes(np.asarray(tokens, np.uint16), depth)
  assert order.tolist() == sorted(
      range(len(tokens)), key=lambda i: (tokens[i:i + depth], i))


@pytest.fixture(scope="module")
def corpus():
  rng = np.random.default_rng(0)
  tokens = rng.integers(1, 4, 600)
  tokens[::37] = END
  return tokens.tolist()


@pytest.fixture(scope="module", params=[10 ** 6, 150])
def store(request, corpus, tmp_path_factory):
  """In one chunk, and in four."""
  return make(tmp_path_factory.mktemp("store"), corpus,
              chunk_tokens=request.param)


def occurrences(corpus, pattern, chunk):
  """Those that do not cross the border of two chunks."""
  size = len(pattern)
  return [i for i in range(len(corpus) - size + 1)
          if corpus[i:i + size] == pattern
          and i // chunk == (i + size - 1) // chunk]


def suffixes(store, places):
  return sorted(start for low, high in places
                for start in store.suffixes[low:high].tolist())


@pytest.mark.parametrize("size", [1, 2, 5, 8])
def test_hits_are_those_of_a_scan(corpus, store, size):
  rng = np.random.default_rng(size)
  for _ in range(40):
    start = rng.integers(len(corpus) - size)
    pattern = corpus[start:start + size]
    if rng.random() < 0.3:
      pattern[-1] = int(rng.integers(1, 5))
    assert suffixes(store, store.find(pattern)) == occurrences(
        corpus, pattern, store.header["chunk_tokens"])


def test_longest_suffix_is_preferred(corpus, store):
  rng = np.random.default_rng(1)
  for _ in range(60):
    text = rng.integers(1, 4, 12).tolist()
    where = {size: occurrences(corpus, text[-size:],
                               store.header["chunk_tokens"])
             for size in range(2, 9)}
    size, places = store.longest_suffix(text, 8, 2)
    assert size == max((n for n in where if where[n]), default=0)
    assert suffixes(store, places) == where.get(size, [])
  assert store.longest_suffix([4, 4], 8, 2) == (0, [])
  assert store.longest_suffix([2], 8, 2) == (0, [])


def test_continuations_stop_at_the_end_of_a_document(corpus, store):
  rows, lengths = store.continuations(store.find([1, 2]), 2, 10, 10_000)
  found = sorted(tuple(row[:size]) for row, size in zip(rows, lengths))
  wanted = []
  for start in occurrences(corpus, [1, 2], store.header["chunk_tokens"]):
    tail = corpus[start + 2:start + 12]
    wanted.append(tuple(tail[:tail.index(END)] if END in tail else tail))
  assert found == sorted(wanted)


def test_of_many_hits_some_are_taken_evenly(store):
  places = store.find([1])
  rows, lengths = store.continuations(places, 1, 3, 7)
  everything, _ = store.continuations(places, 1, 3, 10 ** 6)
  assert len(everything) == sum(high - low for low, high in places)
  picked = np.arange(7) * len(everything) // 7
  assert len(rows) == len(lengths) == 7
  np.testing.assert_array_equal(rows, everything[picked])


def test_wrong_patterns_are_refused(store):
  for pattern in ([], [1] * 9):
    with pytest.raises(ValueError, match=f"{len(pattern)} tokens, expected 1"):
      store.find(pattern)


def test_another_vocabulary_is_refused(tmp_path, corpus):
  make(tmp_path, corpus)
  with pytest.raises(ValueError, match="vocabulary of 5 tokens, the target one"
                     " of 7"):
    datastore.open_store(tmp_path, 7)


def edit(key, value):
  def change(folder):
    path = folder / "header.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
  return change


def cut(folder):
  (folder / "tokens.bin").write_bytes(
      (folder / "tokens.bin").read_bytes()[:-2])


def flip(folder):
  data = np.fromfile(folder / "suffixes.bin", np.uint32)
  data[::5] += 1
  data.tofile(folder / "suffixes.bin")


@pytest.mark.parametrize("damage, message", [
    (lambda f: (f / "header.json").unlink(), "no datastore there"),
    (lambda f: (f / "header.json").write_text("{"), "not JSON"),
    (lambda f: (f / "header.json").write_text("[1]"), "not the header of a"),
    (edit("format", "other"), "not the header of a datastore"),
    (edit("version", 99), "version 99, expected 1"),
    (edit("num_tokens", "x"), "num_tokens='x', expected int"),
    (edit("token_dtype", "float64"), "expected uint16 or uint32"),
    (lambda f: (f / "tokens.bin").unlink(), "tokens.bin: missing, expected"),
    (cut, "1198 bytes, expected 1200"),
    (flip, "wrong checksum")])
def test_damage_is_named_with_the_way_out(tmp_path, corpus, damage, message):
  make(tmp_path, corpus)
  damage(tmp_path)
  with pytest.raises(ValueError, match=f"{re.escape(message)}.*"
                     "experiments.build_datastore"):
    datastore.open_store(tmp_path)
