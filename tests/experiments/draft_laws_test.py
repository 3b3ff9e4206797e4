"""The law of a drafter's data is fitted to real trainings."""

import functools
import json

import jax
import numpy as np
import pytest

from experiments import draft_laws
from experiments import parts
from spec_jax.training import data
from tests.experiments import train_test


def test_law_of_points_on_a_line():
  points = [{"tokens": 10.0 ** n, "tokens_per_call": 1 + .5 * n}
            for n in (2, 3, 4)]
  found = draft_laws.law_of(points, ceiling=9)
  np.testing.assert_allclose(
      [found["law"]["slope"], found["law"]["intercept"], found["predicted"]],
      [.5, 1, 3])
  assert draft_laws.law_of(points, ceiling=2.8)["predicted"] == 2.8


def test_trainings_of_growing_length(tiny, tmp_path, monkeypatch, capsys):
  corpus = tmp_path / "corpus"
  corpus.mkdir()
  names = [f"{i}.py" for i in range(200)]
  held = [name for name in names if data.is_heldout(name)]
  for name in names[:20] + held[:4]:
    (corpus / name).write_text("def f(x):\n  return x + 1\n" * 30)
  *names, recipe = parts.TRAINERS["scylla"].args
  monkeypatch.setattr(parts, "TRAINERS", {"scylla": functools.partial(
      parts.TRAINERS["scylla"].func, *names,
      train_test.small("scylla", recipe))})
  arguments = [f"--models={tiny}", f"--corpus={corpus}", "--own_windows=4",
               f"--out={tmp_path / 'out'}", "--steps=1,2,3"]
  with jax.numpy_dtype_promotion("standard"):
    assert draft_laws.main(arguments) == 0
  assert "R2 = " in capsys.readouterr().out
  card = json.loads((tmp_path / "out" / "draft_laws.json").read_text())
  assert [point["tokens"] for point in card["points"]] == [32, 64, 96]
  assert all(1 <= point["tokens_per_call"] <= 3 for point in card["points"])


@pytest.mark.parametrize("steps", ["5,5,5", "0,1,2", "3"])
def test_too_few_points_are_named(steps, tmp_path, capsys):
  assert draft_laws.main([f"--steps={steps}", f"--out={tmp_path}"]) == 2
  assert "expected three different numbers" in capsys.readouterr().err
