"""The race with transformers: in full where it is installed, else an error."""

import builtins
import json
import sys

import pytest

from experiments import peer_race


@pytest.fixture
def without_torch(monkeypatch):
  """As if the extra were not installed."""
  real = builtins.__import__

  def guarded(name, *args, **kwargs):
    if name.split(".")[0] in ("torch", "transformers"):
      raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    return real(name, *args, **kwargs)

  monkeypatch.delitem(sys.modules, "torch", raising=False)
  monkeypatch.setattr(builtins, "__import__", guarded)


def test_says_what_to_install(without_torch, tiny, tmp_path, capsys):
  assert peer_race.main([f"--bundle={tiny}", f"--out={tmp_path}"]) == 2
  message = capsys.readouterr().err
  assert "torch is not installed" in message and "[parity]" in message


def test_a_toy_pair_gives_equal_greedy_text(tiny, tmp_path):
  pytest.importorskip("torch")
  pytest.importorskip("transformers")
  assert peer_race.main([
      f"--bundle={tiny}", f"--out={tmp_path}", "--num_prompts=1",
      "--max_new_tokens=8", "--repeats=1", "--depth=2", "--torch_threads=1",
      "--system=autoregressive"]) == 0
  rows = json.loads((tmp_path / "peer_race.json").read_text())["rows"]
  assert len(rows) == 4
  for row in rows:
    assert row["equal"] is True and row["emitted"] == 8
  calls = {row["name"]: row["target_calls"] for row in rows}
  assert calls["transformers autoregressive"] == 8
  assert calls["transformers assisted"] <= 8
