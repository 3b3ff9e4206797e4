"""The profile of a toy pair: whole, consistent, and with its plots."""

import json

import numpy as np
import pytest

from experiments import profile_round
from spec_jax.evaluation import stages


@pytest.fixture(scope="module")
def card(tiny, tmp_path_factory):
  folder = tmp_path_factory.mktemp("profile")
  assert profile_round.main([
      f"--bundle={tiny}", f"--out={folder}", "--system=speculative_sampling,"
      "suffix_decoding", "--set=depth=2", "--temperature=0.8", "--batch=2",
      "--samples=2", "--prompt_tokens=12", "--max_new_tokens=24",
      "--max_depth=2", "--plot_batch=2"]) == 0
  for name in ("profile.png", "break_even.png"):
    assert (folder / name).read_bytes()[:4] == b"\x89PNG"
  assert "speculative_sampling" in (folder / "profile.md").read_text()
  return json.loads((folder / "profile.json").read_text())


def test_every_stage_of_every_system_took_time(card):
  names = [row["system"] for row in card["rows"]]
  assert names == ["autoregressive", "speculative_sampling", "suffix_decoding"]
  for row in card["rows"]:
    assert set(row["stages"]) == set(stages.NAMES)
    assert all(seconds > 0 for seconds in row["stages"].values())
    assert row["sum_of_stages"] == pytest.approx(sum(row["stages"].values()))
    assert row["unexplained"] == pytest.approx(
        row["measured"] - row["sum_of_stages"])
    assert row["in_turn"] > 0 and row["compile_seconds"] > 0
    assert row["overhead"]["count"] == row["loop_overhead"]["count"] == 2
  plain, drafted, _ = card["rows"]
  assert plain["forwards"]["draft_forwards"] == 0
  assert drafted["forwards"]["draft_forwards"] == 2
  assert drafted["forwards"]["tree_tokens"] == 3


def test_the_half_on_the_host_is_part_of_draft_and_update(card):
  plain, drafted, hosted = card["rows"]
  assert not plain["host"] and not drafted["host"]
  assert set(hosted["host"]) == {"draft", "update"}
  for stage, seconds in hosted["host"].items():
    assert 0 < seconds < hosted["stages"][stage]


def test_speedups_are_tokens_over_time(card):
  plain, *others = card["rows"]
  assert plain["measured_speedup"] == pytest.approx(1)
  for drafted in others:
    assert drafted["measured_speedup"] == pytest.approx(
        drafted["counts"]["block_efficiency"] * plain["measured"]
        / drafted["measured"])


def test_break_even_follows_from_the_measured_forwards(card):
  grid = card["break_even"]
  (row,) = grid["batches"]
  plain, _, three = row["target_seconds"]
  speedups = np.asarray(row["speedups"])
  assert speedups.shape == (len(grid["acceptances"]), 2)
  assert (np.diff(speedups, axis=0) > 0).all()
  alpha = grid["acceptances"][-1]
  assert speedups[-1, 1] == pytest.approx(
      (1 + alpha + alpha ** 2) * plain / (three + 2 * row["draft_seconds"]))


@pytest.mark.parametrize("flag,message", [
    ("--batch=0", "expected sizes >= 1"),
    ("--timer=sun", "sun"), ("--samples=0", "samples")])
def test_bad_flags(tiny, tmp_path, capsys, flag, message):
  assert profile_round.main(
      [f"--bundle={tiny}", f"--out={tmp_path}", flag]) == 2
  assert message in capsys.readouterr().err
