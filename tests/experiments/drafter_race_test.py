"""Parts are trained for a budget, decode in each shape, and go on."""

import functools
import itertools
import json
import shutil

import jax
import pytest

from experiments import benchmark
from experiments import drafter_race
from experiments import drafter_shapes
from experiments import drafter_table
from experiments import parts
from spec_jax import systems
from spec_jax.training import data
from tests import toy
from tests.experiments import train_test

_SHAPED = [(name, shape) for name in drafter_shapes.BY_SYSTEM
           for shape in drafter_shapes.shapes_of(name) if shape != "published"]


def test_every_head_and_net_has_shapes():
  # The others race elsewhere: they add to a draft model, or draft without one.
  others = {"cs_drafting", "mcsd_improved", "specdec_pp", "superposed"}
  borrowed = set(drafter_shapes.PARTS)
  assert set(drafter_shapes.BY_SYSTEM) | others == (
      set(parts.TRAINERS) | borrowed)
  names = list(drafter_shapes.BY_SYSTEM)
  for name, owner in drafter_shapes.PARTS.items():
    assert names.index(owner) < names.index(name)


@pytest.mark.parametrize("name, shape", _SHAPED)
def test_shapes_are_hyper_parameters_of_the_system(name, shape):
  hyper = drafter_shapes.hyper_parameters(name, shape)
  assert set(hyper) <= set(systems.hyper_parameters(name))
  systems.build(name, toy.bundle(), **hyper)


def corpus(folder):
  folder.mkdir()
  names = [f"{i}.py" for i in range(200)]
  held = [name for name in names if data.is_heldout(name)]
  for name in names[:20] + held[:4]:
    (folder / name).write_text("def f(x):\n  return x + 1\n" * 30)
  return folder


def test_a_race_trains_decodes_and_goes_on(
    tiny, tmp_path, monkeypatch, capsys):
  *names, recipe = parts.TRAINERS["eagle_2"].args
  monkeypatch.setattr(parts, "TRAINERS", {"eagle_2": functools.partial(
      parts.TRAINERS["eagle_2"].func, *names,
      train_test.small("eagle_2", recipe))})
  out = tmp_path / "out"
  arguments = [
      f"--models={tiny}", f"--corpus={corpus(tmp_path / 'corpus')}",
      "--system=eagle_2", "--minutes=0.0005", "--own_windows=4",
      "--temperature=0", "--max_new_tokens=4", "--num_prompts=1",
      "--repeats=1", f"--out={out}"]
  with jax.numpy_dtype_promotion("standard"):
    assert drafter_race.main(arguments) == 0
  card = json.loads((out / "drafter_race.json").read_text())
  (row,) = card["rows"]
  assert row["part"]["steps"] >= 2 and row["part"]["seconds_per_step"] > 0
  assert row["part"]["judged"][-1]["step"] == row["part"]["steps"]
  assert [cell["key"]["shape"] for cell in row["decoded"]] == ["chain", "tree"]
  assert all(cell["result"]["clock"]["seconds_per_round"]["median"] > 0
             for cell in row["decoded"])
  assert "| eagle_2, tree " in capsys.readouterr().out
  assert (out / "drafter_race.png").stat().st_size > 1000
  # As if interrupted between the last step and what is written then.
  (finished,) = (out / "cells").glob("eagle_2-training-*.json")
  finished.unlink()
  with jax.numpy_dtype_promotion("standard"):
    assert drafter_race.main(arguments) == 0
  (again,) = json.loads((out / "drafter_race.json").read_text())["rows"]
  assert again["part"]["steps"] == row["part"]["steps"]
  assert again["part"]["seconds_per_step"] > 0
  for measure in (drafter_race, "_fit"), (benchmark, "measure"):
    monkeypatch.setattr(*measure, lambda *_: 1 / 0)  # Nothing is done again.
  with jax.numpy_dtype_promotion("standard"):
    assert drafter_race.main(arguments) == 0


def test_steps_that_an_interruption_left_untimed(tiny, tmp_path):
  out = tmp_path / "out"
  arguments = [f"--models={tiny}", f"--corpus={corpus(tmp_path / 'corpus')}",
               "--system=medusa_1", "--steps=2", "--own_windows=4", "--batch=4",
               "--shape=", f"--out={out}"]
  for _ in range(2):
    with jax.numpy_dtype_promotion("standard"):
      assert drafter_race.main(arguments) == 0
    (row,) = json.loads((out / "drafter_race.json").read_text())["rows"]
    assert row["part"]["steps"] == 2 and row["part"]["seconds_per_step"] > 0
    assert not row["decoded"]
    # The part is whole, but nothing is known of its training.
    (finished,) = (out / "cells").glob("medusa_1-training-*.json")
    finished.unlink()


def test_parts_that_are_counted_or_of_another_system(tiny, tmp_path):
  out = tmp_path / "out"
  assert drafter_race.main([
      f"--models={tiny}", f"--corpus={corpus(tmp_path / 'corpus')}",
      "--system=bpd_rescored,eagle_1", "--shape=chain", "--temperature=0",
      "--max_new_tokens=4", "--num_prompts=1", "--repeats=1",
      f"--out={out}"]) == 0
  card = json.loads((out / "drafter_race.json").read_text())
  assert [row["system"] for row in card["rows"]] == ["bpd_rescored", "eagle_1"]
  counted, judged = (row["part"] for row in card["rows"])
  assert set(counted) == {"parameters"}
  assert set(judged) == {"parameters", "judged"}
  assert 0 <= judged["judged"][-1]["eval_accept_1"] <= 1
  verdicts = {row["verdict"] for row in card["claims"]}
  assert verdicts == {"not measured"}


@pytest.mark.parametrize("arguments, message", [
    (["--system=eagle_9"], "--system=eagle_9, expected some of medusa_1"),
    (["--shape=star"], "--shape=star, expected some of chain"),
    (["--minutes=-1"], "minutes"),
])
def test_bad_flags(arguments, message, tmp_path, capsys):
  assert drafter_race.main([*arguments, f"--out={tmp_path}"]) == 2
  assert message in capsys.readouterr().err


def test_without_training_the_bundle_must_have_the_part(
    tiny, tmp_path, capsys):
  home = tmp_path / "bundle"
  shutil.copytree(tiny, home)
  (home / "heads" / "scylla.safetensors").unlink()
  arguments = [
      f"--models={home}", f"--corpus={corpus(tmp_path / 'corpus')}",
      "--minutes=0", "--shape=chain", "--temperature=0", "--num_prompts=1",
      "--max_new_tokens=4", "--repeats=1", f"--out={tmp_path / 'out'}"]
  assert drafter_race.main([*arguments, "--system=medusa_1,scylla"]) == 1
  out = capsys.readouterr().out
  assert "void: scylla" in out and "tiny has no part 'scylla'" in out
  assert "| medusa_1, chain " in out


def test_a_table_of_parts_with_and_without_steps():
  trained = {"system": "bpd", "part": {
      "parameters": 10 ** 6, "steps": 4, "seconds_per_step": 0.5,
      "tokens_per_step": 100,
      "judged": [{"eval_accept_1": 0.25}]}}
  counted = {"system": "bpd_rescored", "part": {"parameters": 10}}
  full, bare = map(drafter_table.part_line, (trained, counted))
  assert (full["steps"], full["trained"], full["tokens/s"], full["1"],
          full["2"]) == ("4", "2", "200", "0.25", "-")
  assert set(bare) == set(full) and bare["steps"] == bare["1"] == "-"


def test_time_of_a_step_is_that_without_judging(monkeypatch):
  clock = iter(itertools.accumulate([0, 9, 9, 1, 5, 1, 5, 1, 5]))
  monkeypatch.setattr(drafter_race.time, "monotonic", lambda: next(clock))
  laps = drafter_race.Laps()
  assert laps.seconds_per_step is None
  with laps(8, 100) as on_step:
    for step in range(8):
      on_step(step, {})
  assert laps.seconds_per_step == 1
