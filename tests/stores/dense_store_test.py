"""The index against all products; projections; files that are refused."""

import json

import numpy as np
import pytest

from spec_jax.stores import dense_index
from spec_jax.stores import dense_store

RNG = np.random.default_rng(0)
# Few directions carry most of the variance.
HIDDEN = (RNG.normal(size=(400, 12)) * np.linspace(3, 0.1, 12)) @ (
    RNG.normal(size=(12, 12))) + 5
NEXT = RNG.integers(0, 9, (400, 6))


def make(folder, dims=6, num_cells=10):
  projection = dense_index.fit(HIDDEN, dims)
  parts = [(HIDDEN[:150], NEXT[:150]), (HIDDEN[150:], NEXT[150:])]
  dense_store.write(folder, projection, parts, 9, 0, num_cells)
  return dense_store.open_store(folder, 9, 12)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
  return make(tmp_path_factory.mktemp("dense"))


def test_a_stored_state_finds_itself(store):
  for i in range(0, 400, 37):
    rows, cosines = store.search(HIDDEN[i], 3, num_cells=10)
    assert cosines[0] == pytest.approx(1, abs=2e-3)
    assert rows[0].tolist() == NEXT[i].tolist()


def test_searching_all_cells_is_exact(store):
  keys = np.asarray(store.keys, np.float32)
  for query in RNG.normal(size=(20, 12)) * 4:
    point = store.projection(query)
    found, cosines = dense_index.search(
        store.keys, store.cells, point, 15, num_cells=10)
    scores = keys @ point
    np.testing.assert_array_equal(
        found, np.lexsort((np.arange(400), -scores))[:15])
    np.testing.assert_allclose(cosines, np.sort(scores)[::-1][:15], rtol=1e-5)


def test_more_cells_find_more(store):
  """Mean reciprocal rank of self-retrieval and recall grow."""
  recall = []
  for num_cells in (1, 3, 10):
    hits = 0
    for i in range(0, 400, 11):
      point = store.projection(HIDDEN[i] + 0.5)
      best = dense_index.search(store.keys, store.cells, point, 10, 10)[0]
      some = dense_index.search(
          store.keys, store.cells, point, 10, num_cells)[0]
      hits += len(set(best) & set(some))
    recall.append(hits)
  assert recall == sorted(recall) and recall[0] < recall[2]


def test_every_vector_is_in_the_cell_of_its_nearest_centre(store):
  cells = store.cells
  assert sorted(cells.members.tolist()) == list(range(400))
  nearest = (np.asarray(store.keys, np.float32) @ cells.centres.T).argmax(1)
  for i in range(10):
    members = cells.members[cells.starts[i]:cells.starts[i + 1]]
    assert (nearest[members] == i).all()


def test_more_dimensions_keep_more_and_retrieve_better():
  explained, ranks = [], []
  noisy = HIDDEN + RNG.normal(size=HIDDEN.shape) * 0.7
  for dims in (1, 3, 6, 12):
    projection = dense_index.fit(HIDDEN, dims)
    explained.append(projection.explained)
    scores = projection(noisy) @ projection(HIDDEN).T
    rank = (scores >= np.diagonal(scores)[:, None]).sum(1)
    ranks.append((1 / rank).mean())
  assert explained == sorted(explained)
  assert explained[-1] == pytest.approx(1)
  assert ranks == sorted(ranks) and ranks[-1] > 2 * ranks[0]


def test_z_scores_are_those_of_the_fit(store):
  wanted = (HIDDEN - HIDDEN.mean(0)) / HIDDEN.std(0)
  whole = dense_index.fit(HIDDEN, 12)
  np.testing.assert_allclose(
      whole(HIDDEN) @ whole(HIDDEN[0]),
      dense_index.unit(wanted) @ dense_index.unit(wanted[0]), atol=1e-4)
  with pytest.raises(ValueError, match="dims=13 of 400 hidden states of size"):
    dense_index.fit(HIDDEN, 13)


def spoil(name, data):
  return lambda folder: (folder / name).write_bytes(data)


def change(key, value):
  def edit(folder):
    path = folder / "header.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
  return edit


@pytest.mark.parametrize("damage, message", [
    (lambda f: (f / "header.json").unlink(), "no dense store there"),
    (spoil("header.json", b"{"), "not JSON"),
    (spoil("header.json", b"{}"), "not the header of a dense store"),
    (change("version", 7), "not the header of a dense store of version 1"),
    (change("bytes", {}), "bytes missing"),
    (lambda f: (f / "keys.npy").unlink(), "keys.npy: missing or broken"),
    (spoil("values.npy", b""), "values.npy: missing or broken"),
    (lambda f: np.save(f / "values.npy", np.zeros(3)), "24 bytes of data")])
def test_damage_is_named_with_the_way_out(tmp_path, damage, message):
  make(tmp_path)
  damage(tmp_path)
  with pytest.raises(ValueError, match=f"{message}.*build_dense_store"):
    dense_store.open_store(tmp_path)


def test_another_target_is_refused(tmp_path):
  make(tmp_path)
  with pytest.raises(ValueError, match="hidden_size=12, the target 16"):
    dense_store.open_store(tmp_path, 9, 16)
  with pytest.raises(ValueError, match="vocab_size=9, the target 8"):
    dense_store.open_store(tmp_path, 8)
