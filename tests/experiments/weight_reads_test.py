"""Costs of reading weights: each size, type and number of rows is timed."""

import json

import pytest

from experiments import weight_reads


def test_all_cases_are_timed_and_sized(tiny, tmp_path, capsys):
  assert weight_reads.main([
      f"--bundle={tiny}", "--megabytes=0.1,0.2", "--rows=1,3", "--repeats=2",
      f"--out={tmp_path}"]) == 0
  card = json.loads((tmp_path / "weight_reads.json").read_text())
  width, outputs = card["kernel"]
  matrix = width * outputs * 4e-6
  assert len(card["rows"]) == 8
  for row in card["rows"]:
    assert row["seconds"] > 0
    of_float32 = row["megabytes"] * (2 if row["type"] == "bfloat16" else 1)
    assert of_float32 == pytest.approx(
        min((.1, .2), key=lambda size: abs(size - of_float32)), abs=matrix)
  assert "GB/s" in capsys.readouterr().out


@pytest.mark.parametrize("flag,message", [
    ("--megabytes=-1", "positive"), ("--rows=x", "whole number"),
    ("--types=int8", "int8"), ("--types=", "float32")])
def test_bad_flags(flag, message, tiny, tmp_path, capsys):
  assert weight_reads.main([f"--bundle={tiny}", flag, f"--out={tmp_path}"]) == 2
  assert message in capsys.readouterr().err
