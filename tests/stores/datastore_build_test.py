"""Builds that are interrupted go on; foreign folders are left alone."""

import json

import numpy as np
import pytest

from spec_jax.stores import datastore
from spec_jax.stores import datastore_build

RNG = np.random.default_rng(0)
DOCUMENTS = [RNG.integers(1, 5, size).tolist()
             for size in RNG.integers(0, 40, 60)]
PLAN = datastore_build.Plan(5, 0, sort_depth=6, chunk_tokens=200,
                            source={"corpus": "random"})


def documents(first):
  yield from DOCUMENTS[first:]


def breaking_at(number):
  def fn(first):
    for i, ids in enumerate(documents(first), first):
      if i == number:
        raise KeyboardInterrupt
      yield ids
  return fn


def contents(store):
  return store.tokens.tolist(), store.suffixes.tolist()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  return datastore_build.build(
      tmp_path_factory.mktemp("whole"), PLAN, documents)


def test_equals_the_store_written_at_once(whole, tmp_path):
  tokens = [t for ids in DOCUMENTS if ids for t in [*ids, 0]]
  assert whole.tokens.tolist() == tokens
  datastore.write(tmp_path, np.asarray(tokens, np.uint16), 5, 0, 6, 200)
  assert contents(datastore.open_store(tmp_path)) == contents(whole)
  assert whole.header["documents"] == len(DOCUMENTS)


@pytest.mark.parametrize("number", [0, 1, 23, 59])
def test_interrupted_reading_goes_on(whole, tmp_path, number):
  with pytest.raises(KeyboardInterrupt):
    datastore_build.build(
        tmp_path, PLAN, breaking_at(number), save_every=50)
  with pytest.raises(ValueError, match="no datastore there"):
    datastore.open_store(tmp_path)
  first = []
  store = datastore_build.build(
      tmp_path, PLAN, lambda n: first.append(n) or documents(n))
  assert contents(store) == contents(whole)
  assert number < 20 or first[0] > 10  # It did not begin again.
  assert not (tmp_path / "progress.json").exists()


@pytest.mark.parametrize("chunk", [1, 3])
def test_interrupted_sorting_goes_on(whole, tmp_path, chunk):
  def stop(done, total):
    assert total == -(-len(whole.tokens) // 200)
    if done == chunk:
      raise KeyboardInterrupt
  with pytest.raises(KeyboardInterrupt):
    datastore_build.build(tmp_path, PLAN, documents, on_chunk=stop)
  with (tmp_path / "suffixes.bin").open("ab") as file:
    file.write(b"torn")
  sorted_now = []
  store = datastore_build.build(
      tmp_path, PLAN, breaking_at(0),
      on_chunk=lambda done, _: sorted_now.append(done))
  assert contents(store) == contents(whole)
  assert sorted_now[0] == chunk + 1


def test_a_finished_store_is_opened_and_another_plan_refused(
    whole, tmp_path_factory):
  folder = tmp_path_factory.mktemp("again")
  datastore_build.build(folder, PLAN, documents)
  again = datastore_build.build(folder, PLAN, breaking_at(0))
  assert contents(again) == contents(whole)
  other = datastore_build.Plan(5, 0, sort_depth=7, chunk_tokens=200,
                               source={"corpus": "random"})
  with pytest.raises(ValueError, match=r"another plan \(other: sort_depth\)"):
    datastore_build.build(folder, other, documents)


def test_half_of_another_plan_is_refused(tmp_path):
  with pytest.raises(KeyboardInterrupt):
    datastore_build.build(tmp_path, PLAN, breaking_at(5))
  other = datastore_build.Plan(6, 0, sort_depth=6, chunk_tokens=200)
  with pytest.raises(ValueError, match=r"half of .*vocab_size, source"):
    datastore_build.build(tmp_path, other, documents)


def test_foreign_folders_are_left_alone(tmp_path):
  (tmp_path / "thesis.txt").write_text("mine")
  with pytest.raises(ValueError, match="not empty .it has thesis.txt"):
    datastore_build.build(tmp_path, PLAN, documents)
  assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_broken_progress_is_named(tmp_path):
  with pytest.raises(KeyboardInterrupt):
    datastore_build.build(tmp_path, PLAN, breaking_at(5))
  note = json.loads((tmp_path / "progress.json").read_text())
  (tmp_path / "progress.json").write_text(json.dumps(note | {"tokens": 9999}))
  with pytest.raises(ValueError, match="tokens.bin is shorter than"):
    datastore_build.build(tmp_path, PLAN, documents)
  (tmp_path / "progress.json").write_text("{")
  with pytest.raises(ValueError, match="progress.json is broken"):
    datastore_build.build(tmp_path, PLAN, documents)


def test_stops_at_the_limit(tmp_path):
  plan = datastore_build.Plan(5, 0, max_tokens=101)
  store = datastore_build.build(tmp_path, plan, documents)
  assert len(store.tokens) == 101
  assert datastore_build.Plan(70_000, 0).token_dtype == np.uint32
  assert datastore_build.Plan(1 << 16, 1 << 16).token_dtype == np.uint32


def test_bad_tokens_and_empty_corpora_are_named(tmp_path):
  with pytest.raises(ValueError, match="document 1 has tokens from 1 to 9,"
                     " expected ids from 0 to 4"):
    datastore_build.build(
        tmp_path / "a", PLAN, lambda n: iter([[1], [1, 9]]))
  with pytest.raises(ValueError, match="the documents have no tokens"):
    datastore_build.build(tmp_path / "b", PLAN, lambda n: iter([[]]))
