"""Builds interrupted anywhere go on; foreign folders are left alone."""

import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest

from spec_jax.stores import dense_build
from spec_jax.stores import dense_index
from spec_jax.stores import dense_store
from spec_jax.stores import notes

RNG = np.random.default_rng(0)
PARTS = [(RNG.normal(size=(size, 8)).astype(np.float16),
          RNG.integers(0, 9, (size, 4)))
         for size in RNG.integers(1, 30, 20)]
TOTAL = sum(len(hidden) for hidden, _ in PARTS)
PLAN = dense_build.Plan(
    9, 8, 0, following=4, dims=5, fit_keys=60, num_cells=12, rounds=3,
    source={"corpus": "random"})


class Killed(BaseException):
  """Nobody catches it."""


def parts(first):
  yield from PARTS[first:]


def run(folder, plan=PLAN, parts_fn=parts):
  return dense_build.build(folder, plan, parts_fn, save_every=40)


def contents(folder):
  return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
  monkeypatch.setattr(dense_index, "_PRODUCT", 12 * 25)
  monkeypatch.setattr(dense_build, "_PROJECTED", 16)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  folder = tmp_path_factory.mktemp("whole") / "store"
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(dense_index, "_PRODUCT", 12 * 25)
    patch.setattr(dense_build, "_PROJECTED", 16)
    run(folder)
  return folder


def test_equals_the_store_written_at_once(whole, tmp_path):
  store = dense_store.open_store(whole, 9, 8)
  hidden = np.concatenate([hidden for hidden, _ in PARTS])
  projection = dense_index.fit(hidden[:60], 5)
  dense_store.write(tmp_path, projection, PARTS, 9, 0, 12)
  other = dense_store.open_store(tmp_path)
  np.testing.assert_array_equal(store.values, other.values)
  np.testing.assert_allclose(
      np.float32(store.keys), np.float32(other.keys), atol=1e-3)
  assert store.header["size"] == TOTAL
  assert store.header["plan"] == PLAN.as_dict()
  assert sorted(store.cells.members.tolist()) == list(range(TOTAL))
  nearest = (np.float32(store.keys) @ store.cells.centres.T).argmax(1)
  owner = np.repeat(np.arange(12), np.diff(store.cells.starts))
  np.testing.assert_array_equal(nearest[store.cells.members], owner)
  assert not {"progress.json", "hidden.npy", "owners.npy"} & set(
      contents(whole))


def steps_until(kill_at, monkeypatch):
  """Everything that changes the folder counts as a step; one of them kills."""
  taken = {"count": 0}

  def patch(owner, name):
    real = getattr(owner, name)

    def fake(*args, **kwargs):
      taken["count"] += 1
      if taken["count"] == kill_at:
        raise Killed
      return real(*args, **kwargs)
    monkeypatch.setattr(owner, name, fake)

  patch(pathlib.Path, "replace")
  patch(pathlib.Path, "unlink")
  patch(notes.Rows, "append")
  patch(notes.Rows, "sync")
  patch(notes.Rows, "__init__")
  return taken


def test_killed_at_every_step_it_goes_on_to_the_same_store(
    whole, tmp_path, monkeypatch):
  monkeypatch.setattr(os, "fsync", lambda file: None)  # A disk's time.
  wanted, kill_at = contents(whole), 1
  while True:
    folder = tmp_path / str(kill_at)
    with monkeypatch.context() as patch:
      steps_until(kill_at, patch)
      try:
        run(folder)
        break
      except Killed:
        pass
    run(folder)
    assert contents(folder) == wanted, kill_at
    kill_at += 1
  assert kill_at > 60  # Some in every stage.


def test_killed_again_and_again_it_goes_on(whole, tmp_path, monkeypatch):
  """Every run gets a little further, and reads nothing that is noted."""
  firsts = []

  def once(first):
    firsts.append(first)
    for number, part in enumerate(parts(first)):
      if number == 6:
        raise Killed
      yield part

  with monkeypatch.context():
    for _ in range(20):
      try:
        run(tmp_path / "store", parts_fn=once)
        break
      except Killed:
        continue
  assert contents(tmp_path / "store") == contents(whole)
  assert len(firsts) > 3 and firsts == sorted(firsts) and firsts[2] > 3


_SCRIPT = """
import os, pathlib, signal, sys
sys.path.insert(0, {root!r})
from tests.stores import dense_build_test as test
test.dense_index._PRODUCT, test.dense_build._PROJECTED = 300, 16

def parts(first):
  for number, part in enumerate(test.parts(first), first):
    if number == 15:
      os.kill(os.getpid(), signal.SIGKILL)
    yield part

test.run(pathlib.Path({folder!r}), parts_fn=parts)
"""


def test_a_killed_process_leaves_a_build_that_goes_on(whole, tmp_path):
  root = str(pathlib.Path(__file__).parents[2])
  script = _SCRIPT.format(root=root, folder=str(tmp_path / "store"))
  done = subprocess.run([sys.executable, "-c", script], cwd=root,
                        env=os.environ | {"PYTHONPATH": root}, check=False)
  assert done.returncode == -signal.SIGKILL
  note = json.loads((tmp_path / "store" / "progress.json").read_text())
  assert note["stage"] == "keys" and 8 < note["parts"] <= 15
  with pytest.raises(ValueError, match="no dense store there"):
    dense_store.open_store(tmp_path / "store")
  firsts = []
  run(tmp_path / "store", parts_fn=lambda n: firsts.append(n) or parts(n))
  assert firsts == [note["parts"]]
  assert contents(tmp_path / "store") == contents(whole)


def test_a_finished_store_is_opened_and_another_plan_refused(
    whole, tmp_path):
  run(tmp_path)
  assert len(run(tmp_path, parts_fn=None).keys) == TOTAL
  other = dataclasses.replace(PLAN, dims=4)
  with pytest.raises(ValueError, match=r"another plan \(other: dims\)"):
    run(tmp_path, other)


def interrupted(folder):
  def breaking(first):
    yield from PARTS[first:12]
    raise Killed
  with pytest.raises(Killed):
    run(folder, parts_fn=breaking)


def spoil(name, data):
  return lambda folder: (folder / name).write_bytes(data)


def note(**fields):
  def edit(folder):
    path = folder / "progress.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
  return edit


@pytest.mark.parametrize("damage, message", [
    (spoil("progress.json", b"{"), "progress.json is broken .JSONDecodeError"),
    (note(rows="many"), "progress.json is broken .TypeError: rows='many'"),
    (note(parts=-1), "parts=-1, expected a count"),
    (note(stage="lunch"), "stage='lunch', expected one of fit"),
    (note(rows=9999), "keys.npy is shorter than progress.json says"),
    (note(plan={}), "half of a dense store of another plan .other: vocab_size"),
    (spoil("values.npy", b""), "values.npy is shorter than"),
    (spoil("keys.npy", b"x" * 9999), "broken .keys.npy: "),
    (spoil("mean.npy", b"?"), "broken .mean.npy: "),
    (lambda f: np.save(f / "values.npy", np.zeros((9999, 4))),
     "broken .values.npy has rows float64"),
    (lambda f: (f / "keys.npy").unlink(), "keys.npy is shorter than"),
    (note(stage="k-means"), "keys, .* continuations, expected"),
    (note(stage="cells"), "broken .*.npy: ")])
def test_damage_is_named(tmp_path, damage, message):
  interrupted(tmp_path)
  damage(tmp_path)
  with pytest.raises(ValueError, match=message):
    run(tmp_path)


def test_foreign_folders_are_left_alone(tmp_path):
  (tmp_path / "thesis.txt").write_text("mine")
  with pytest.raises(ValueError, match="not empty .it has thesis.txt.*dense"):
    run(tmp_path)
  assert contents(tmp_path) == {"thesis.txt": b"mine"}


@pytest.mark.parametrize("most", [30, 60, 137])
def test_stops_at_the_limit(tmp_path, most):
  store = run(tmp_path, dataclasses.replace(PLAN, max_tokens=most))
  wanted = np.concatenate([values for _, values in PARTS])[:most]
  np.testing.assert_array_equal(store.values, wanted)


def test_few_hidden_states_or_none(tmp_path):
  plan = dataclasses.replace(PLAN, fit_keys=10 ** 6)
  assert len(run(tmp_path / "few", plan).keys) == TOTAL
  with pytest.raises(ValueError, match="no hidden states to store.*random"):
    run(tmp_path / "none", parts_fn=lambda first: iter([]))


@pytest.mark.parametrize("field, value, message", [
    ("dims", 0, "dims=0, expected >= 1"),
    ("dims", 9, "dims=9, expected at most the hidden size 8"),
    ("fit_keys", 1, "fit_keys=1, expected >= 2"),
    ("max_tokens", -1, "max_tokens=-1, expected >= 0"),
    ("rounds", 0, "rounds=0, expected >= 1")])
def test_bad_plans_are_named(field, value, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(PLAN, **{field: value})


def test_rows_of_another_shape_are_refused(tmp_path):
  with pytest.raises(ValueError, match=r"rows of shape \(3,\), expected"):
    run(tmp_path, parts_fn=lambda first: iter([
        (np.zeros((5, 3)), np.zeros((5, 4)))]))
