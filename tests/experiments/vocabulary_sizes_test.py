"""A draft's vocabulary is cut down; what it can say is counted."""

import json

import pytest

from experiments import vocabulary_sizes
from tests.experiments import drafter_race_test


def test_acceptance_and_cost_over_size(tiny, tmp_path, capsys):
  out = tmp_path / "out"
  arguments = [
      f"--models={tiny}", "--sizes=8,40", "--own_windows=2", "--shape=chain",
      f"--corpus={drafter_race_test.corpus(tmp_path / 'corpus')}",
      "--temperature=0", "--max_new_tokens=4", "--num_prompts=1",
      "--repeats=1", f"--out={out}"]
  assert vocabulary_sizes.main(arguments) == 0
  rows = json.loads((out / "vocabulary_sizes.json").read_text())["rows"]
  keys = [row["key"] for row in rows]
  assert [(key["system"], key["size"]) for key in keys][:4] == [
      ("fr_spec", 8), ("fr_spec", 40), ("vocab_trim", 8), ("vocab_trim", 40)]
  covers = [key["covers"] for key in keys]
  assert covers[0] <= covers[1] and covers[2] <= covers[3] <= covers[4] == 1
  # Those that the target writes cover more of what it writes.
  assert covers[2] >= covers[0]
  assert all(row["result"]["forward_costs"]["draft"] > 0 for row in rows)
  assert "| eagle_2, chain " in capsys.readouterr().out
  assert (out / "vocabulary_sizes.png").stat().st_size > 1000


@pytest.mark.parametrize("arguments, message", [
    (["--sizes=1"], "--sizes=['1'], expected numbers above 1"),
    (["--sizes=9999999"], "below the vocabulary's"),
    (["--shape=star", "--sizes=8"], "--shape=star"),
])
def test_bad_flags(arguments, message, tiny, tmp_path, capsys):
  assert vocabulary_sizes.main([
      *arguments, f"--models={tiny}", f"--out={tmp_path / 'out'}",
      f"--corpus={drafter_race_test.corpus(tmp_path / 'corpus')}"]) == 2
  assert message in capsys.readouterr().err
