"""The cost of the optimum and of the race, and how near the race comes."""

import json

import pytest

from experiments import transport_costs


def test_costs_and_gaps(tiny, tmp_path, capsys):
  out = tmp_path / "out"
  assert transport_costs.main([
      f"--bundle={tiny}", "--vocab=300,5000", "--num_drafts=2,4",
      "--num_positions=2", "--repeats=2", f"--out={out}"]) == 0
  card = json.loads((out / "transport_costs.json").read_text())
  assert [(row["vocab"], row["num_drafts"]) for row in card["rows"]] == [
      (300, 2), (300, 4), (5000, 2), (5000, 4)]
  for row in card["rows"]:
    assert min(row["seconds"].values()) > 0
    # The optimum is not exceeded, and reached to the nodes of the race.
    assert -1e-6 < row["gap"] < 1e-3
  assert card["target"]["forward_seconds"] > 0
  assert "optimum / sort" in capsys.readouterr().out


@pytest.mark.parametrize("arguments, message", [
    (["--vocab=1"], "--vocab=['1']"),
    (["--num_drafts=0"], "--num_drafts=['0']"),
    (["--family=cauchy"], "cauchy"),
])
def test_bad_flags(arguments, message, tmp_path, capsys):
  assert transport_costs.main([*arguments, f"--out={tmp_path}"]) == 2
  assert message in capsys.readouterr().err
