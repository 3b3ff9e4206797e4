"""The law of a drafter's data is fitted to real trainings."""

import functools
import json

import jax
import numpy as np
import pytest

from experiments import draft_laws
from experiments import parts
from tests.experiments import drafter_race_test
from tests.experiments import train_test


def test_law_of_points_on_a_line():
  points = [{"x": 10.0 ** n, "y": 1 + .5 * n} for n in (2, 3, 4)]
  found = draft_laws.law_of(points, ceiling=9)
  np.testing.assert_allclose(
      [found["law"]["slope"], found["law"]["intercept"], found["predicted"]],
      [.5, 1, 3])
  np.testing.assert_allclose(found["band"], 2 * [[2, 2.5, 3]])
  assert draft_laws.law_of(points, ceiling=2.8)["predicted"] == 2.8
  assert draft_laws.law_of(points, ceiling=None)["predicted"] == 3


def test_the_three_laws(tiny, tmp_path, monkeypatch, capsys):
  *names, recipe = parts.TRAINERS["scylla"].args
  monkeypatch.setattr(parts, "TRAINERS", {"scylla": functools.partial(
      parts.TRAINERS["scylla"].func, *names,
      train_test.small("scylla", recipe))})
  out = tmp_path / "out"
  arguments = [
      f"--models={tiny}", "--own_windows=4", f"--out={out}", "--steps=1,2,3",
      f"--corpus={drafter_race_test.corpus(tmp_path / 'corpus')}",
      "--layers=1,2,3", "--batches=1,2,3", "--shape=chain",
      "--max_new_tokens=3", "--repeats=1"]
  with jax.numpy_dtype_promotion("standard"):
    assert draft_laws.main(arguments) == 0
  assert capsys.readouterr().out.count("R2 = ") == 3
  points = json.loads((out / "draft_laws.json").read_text())["points"]
  x, y = ({law: [point[key] for point in rows]
           for law, rows in points.items()} for key in ("x", "y"))
  assert x["data"] == [32, 64, 96] and x["batch"] == [1, 2, 3]
  assert all(1 <= calls <= 3 for calls in y["data"] + y["capacity"])
  assert min(y["batch"]) > 0
  steps = np.diff(x["capacity"])
  assert steps[0] == steps[1] > 0  # Each layer adds as many parameters.
  assert (out / "draft_laws.png").stat().st_size > 1000


@pytest.mark.parametrize("axis", [
    "steps=0,1,2", "steps=3,4", "layers=1,2", "batches=2", "layers=0,1,2"])
def test_too_few_points_are_named(axis, tmp_path, capsys):
  assert draft_laws.main([f"--{axis}", f"--out={tmp_path}"]) == 2
  error = capsys.readouterr().err
  assert axis.split("=")[0] in error
  assert "expected three different numbers" in error
