"""A system with a target of its own is compared with that target."""

import functools
import json

import jax
import numpy as np
import pytest

from experiments import benchmark
from experiments import common
from experiments import demo
from experiments import peer_race
import spec_jax
from spec_jax import systems

_FLAGS = ("--max_new_tokens=6", "--num_prompts=1", "--temperature=0,0.8",
          "--repeats=1", "--system=medusa_2,prompt_lookup", "--law_rows=0",
          "--show=")
_PLAIN = "autoregressive (medusa_2)"


def assert_same_target(first, second):
  jax.tree.map(np.testing.assert_array_equal, first.params.target,
               second.params.target)


def play(tiny, folder, capsys):
  code = demo.main([f"--bundle={tiny}", f"--out={folder}", *_FLAGS])
  return code, capsys.readouterr().out


def test_demo_proves_it_with_that_target(tiny, tmp_path, capsys):
  code, output = play(tiny, tmp_path, capsys)
  assert code == 0, output
  for line in ("greedy text equals autoregressive: medusa_2: 6 tokens of 1",
               "same seed, equals autoregressive: medusa_2: 6 tokens of 1",
               "greedy text equals autoregressive: prompt_lookup: 6 tokens"):
    assert line in output
  assert "FAIL" not in output
  assert f"equals autoregressive: {_PLAIN}" not in output
  results = json.loads((tmp_path / "card.json").read_text())["results"]
  by_name = {row["system"]: row["baseline"] for row in results}
  assert by_name == {"autoregressive": "autoregressive",
                     "prompt_lookup": "autoregressive",
                     "medusa_2": _PLAIN, _PLAIN: _PLAIN}
  exact = [[cell.strip() for cell in line.split("|")[1:3]]
           for line in (tmp_path / "table.md").read_text().splitlines()
           if line.startswith("|")]
  assert exact.count(["medusa_2", "yes, for its own target"]) == 2
  assert exact.count(["prompt_lookup", "yes"]) == 2


def test_demo_fails_where_it_is_held_against_the_bundles_target(
    tiny, tmp_path, capsys, monkeypatch):
  """Planted: what any other system is compared with."""
  monkeypatch.setattr(common, "baseline_name", lambda name: common.BASELINE)
  code, output = play(tiny, tmp_path, capsys)
  assert code == 1
  for line in ("greedy text equals autoregressive: medusa_2: row 0 first",
               "same seed, equals autoregressive: medusa_2: row 0 first"):
    assert line in output


def test_benchmark_races_it_against_that_target(tiny, tmp_path, monkeypatch):
  pairs = []

  def fake(values, baseline, choice, work, temperature):
    del values, work, temperature
    pairs.append((baseline, choice))
    raise MemoryError("not measured here")

  monkeypatch.setattr(benchmark, "measure", fake)
  assert benchmark.main([
      f"--bundle={tiny}", f"--out={tmp_path}", "--temperature=0",
      "--max_new_tokens=4", "--system=medusa_1,medusa_2"]) == 1
  assert [(a.name, b.name) for a, b in pairs] == [
      ("autoregressive", "medusa_1"), (_PLAIN, "medusa_2")]
  for baseline, choice in pairs:
    assert_same_target(baseline, choice)
    assert not baseline.system.drafter.depth
  (_, first), (_, second) = pairs
  with pytest.raises(AssertionError):
    assert_same_target(first, second)


def test_transformers_runs_that_target_or_says_that_it_cannot(tiny):
  bundle = spec_jax.load_bundle(tiny)
  choose = functools.partial(common.choose, bundle, overrides=())
  alone, _ = choose(["medusa_2"])
  jax.tree.map(np.testing.assert_array_equal, alone[0].params.target,
               peer_race.shared_bundle(bundle, alone).params["target"])
  usual, _ = choose(["autoregressive", "medusa_1"])
  assert peer_race.shared_bundle(bundle, usual) is bundle
  with pytest.raises(ValueError, match="autoregressive,medusa_2: these decode"
                                       " different targets"):
    peer_race.shared_bundle(bundle, choose(["autoregressive", "medusa_2"])[0])


def test_baselines_stand_before_what_needs_them(tiny):
  bundle = spec_jax.load_bundle(tiny)
  chosen, _ = common.choose(bundle, ["medusa_2", "medusa_1"], ())
  names = [c.name for c in common.with_baselines(bundle, chosen)]
  assert names == [_PLAIN, "autoregressive", "medusa_2", "medusa_1"]
  own = common.with_baselines(bundle, chosen)[0]
  again = systems.bundle_of("medusa_2", bundle).params["target"]
  jax.tree.map(np.testing.assert_array_equal, own.params.target, again)
