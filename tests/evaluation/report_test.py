"""Cards, tables, plots; files are written whole or not at all."""

import json
import struct

import numpy as np
import pytest

from spec_jax.evaluation import plots
from spec_jax.evaluation import report


def test_card_tells_where_it_comes_from():
  card = report.card({"seed": 3}, counts={"n": np.int32(4)})
  assert card["flags"] == {"seed": 3}
  for name in ("python", "jax", "flax", "numpy", "device", "backend", "git"):
    assert name in card["environment"]
  assert json.loads(report.to_json(card))["counts"]["n"] == 4


def test_json_knows_no_nan():
  with pytest.raises(ValueError):
    report.to_json({"speed": float("nan")})


def test_markdown_is_aligned():
  text = report.markdown([{"system": "a", "x": "1.00"},
                          {"system": "longer", "x": "-"}])
  assert text.splitlines() == [
      "| system |    x |", "| ------ | ---: |",
      "| a      | 1.00 |", "| longer |    - |"]
  assert report.markdown([]) == ""


def test_number():
  assert report.number(None) == "-"
  assert report.number(1.256, 1, "x") == "1.3x"


def test_folder_below_a_file_is_refused(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(ValueError, match="file/out: cannot be written"):
    report.make_folder(tmp_path / "file" / "out")
  folder = report.make_folder(tmp_path / "a" / "b")
  assert folder.is_dir() and not list(folder.iterdir())


def test_no_folder_is_not_the_current_one():
  with pytest.raises(ValueError, match=r"name of the folder is empty \(--out"):
    report.make_folder("")


def test_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
  path = tmp_path / "card.json"
  report.write_json(path, {"old": 1})

  def full(descriptor):
    raise OSError(28, "No space left on device")
  monkeypatch.setattr("os.fsync", full)
  with pytest.raises(ValueError, match="card.json: cannot be written: No space"
                     " left on device"):
    report.write_json(path, {"new": 2})
  assert json.loads(path.read_text()) == {"old": 1}
  assert [p.name for p in tmp_path.iterdir()] == ["card.json"]


def test_git_is_optional(tmp_path, monkeypatch):
  monkeypatch.setattr(report, "_ROOT", tmp_path)
  assert report.git_sha() is None
  (tmp_path / ".git").mkdir()
  assert report.git_sha() is None


@pytest.mark.parametrize("num_bars", [1, 3, 20])
def test_plot_is_a_png(num_bars):
  bars = [plots.Bar("autoregressive", 1, 1, 1, 1.0, 1.0, ())]
  bars += [plots.Bar(f"s{i}", 1.5, 1.4, 1.6, None, 2.0, (.8, .6))
           for i in range(num_bars - 1)]
  image = plots.comparison([("temperature 0", bars)], "title")
  width, height = struct.unpack(">II", image[16:24])
  assert image[:4] == b"\x89PNG" and width > 1000 and height > 200
