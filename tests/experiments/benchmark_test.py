"""Cells are written at once, found again, and voided by errors."""

import json
import pathlib

from absl import flags
import pytest

from experiments import benchmark
from experiments import cells as cells_lib
import spec_jax

_ROWS = (
    {"question_id": 1, "category": "coding", "turns": ["def f(x):", "Again."]},
    {"question_id": 2, "category": "coding", "turns": ["class A:", "More."]},
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp("benchmark")
  (path / "spec.jsonl").write_text(
      "".join(json.dumps(row) + "\n" for row in _ROWS))
  return path


@pytest.fixture(scope="module")
def call(tiny, folder):
  def run(*flags):
    return benchmark.main([
        f"--bundle={tiny}", f"--out={folder / 'out'}",
        f"--prompts={folder / 'spec.jsonl'}", "--max_new_tokens=3",
        "--repeats=1", "--batch=2", "--temperature=0", "--noaudit",
        "--system=autoregressive,prompt_lookup", *flags])
  return run


@pytest.fixture(scope="module")
def first(call, folder):
  assert call() == 0
  return folder / "out"


@pytest.fixture
def measured(monkeypatch):
  """Names of the systems that are really measured, which costs nothing."""
  names, known = [], {}

  def fake(values, baseline, choice, work, temperature):
    names.append((choice.name, temperature))
    return known["result"]

  def use(result):
    known["result"] = result
    monkeypatch.setattr(benchmark, "measure", fake)
    return names
  return use


def _cells(folder):
  return {path: json.loads(path.read_text())
          for path in sorted((folder / "cells").iterdir())}


def test_multi_turn_cells_are_whole(first):
  cells = _cells(first)
  assert len(cells) == 2
  for row in cells.values():
    # Two conversations of two turns, three tokens each.
    assert row["result"]["counts"]["emitted"] == 12
    assert row["key"]["num_prompts"] == 2 and row["key"]["batch"] == 2
    assert len(row["key"]["prompts_sha256"]) == 64
    assert row["result"]["clock"]["rounds"]["count"] == 1
    assert row["result"]["predicted_in_turn"] > 0
  assert "| in turn |" in (first / "benchmark.md").read_text()
  for name in ("benchmark.md", "benchmark.json"):
    assert "prompt_lookup" in (first / name).read_text()
  assert (first / "benchmark.png").read_bytes()[:4] == b"\x89PNG"


def test_a_published_draft_is_measured_as_what_it_is(call, tmp_path):
  """Beside a bundle that has a part of that name: neither takes its cells."""
  heads = pathlib.Path(__file__).parents[1] / "data" / "heads" / "medusa_b"
  flags = [f"--out={tmp_path}", "--num_prompts=1", "--system=medusa_1"]
  assert call(*flags) == 0
  assert call(*flags, f"--draft_head={heads}") == 0
  rows = list(_cells(tmp_path).values())
  assert len(rows) == 2 and all("result" in row for row in rows)
  assert len({row["key"]["models"] for row in rows}) == 2


def test_resumes_after_an_interruption(first, call, measured):
  cells = _cells(first)
  gone, kept = cells
  gone.unlink()
  torn = first / "cells" / "torn.json.tmp"
  torn.write_text('{"key":')
  names = measured(cells[gone]["result"])
  assert call() == 0
  assert names == [(cells[gone]["key"]["system"], 0.0)]
  assert json.loads(kept.read_text()) == cells[kept]
  assert call() == 0
  assert len(names) == 1
  torn.unlink()


@pytest.mark.parametrize("flag", [
    "--max_new_tokens=4", "--seed=1", "--repeats=2", "--num_prompts=1",
    "--temperature=0.5", "--batch=1", "--notruncate", "--dtype=bfloat16",
    "--set=max_ngram=2"])
def test_a_changed_configuration_is_measured_again(first, call, measured, flag):
  cells = _cells(first)
  names = measured(next(iter(cells.values()))["result"])
  assert call(flag, "--system=prompt_lookup") == 0
  assert len(names) == 1
  for path in set(_cells(first)) - set(cells):
    path.unlink()


def test_changed_prompts_are_measured_again(first, call, measured, folder):
  cells = _cells(first)
  names = measured(next(iter(cells.values()))["result"])
  other = folder / "other" / "spec.jsonl"
  other.parent.mkdir()
  other.write_text(json.dumps({"prompt": "while"}))
  assert call(f"--prompts={other}", "--system=prompt_lookup") == 0
  assert len(names) == 1
  for path in set(_cells(first)) - set(cells):
    path.unlink()


def test_an_error_voids_its_row_and_is_tried_again(first, call, monkeypatch,
                                                   measured, capsys):
  cells = _cells(first)
  (good,) = [r for r in cells.values() if r["key"]["system"] != "prompt_lookup"]

  def fail(values, baseline, choice, work, temperature):
    if choice.name == "prompt_lookup":
      raise MemoryError("no room for the cache")
    return good["result"]

  monkeypatch.setattr(benchmark, "measure", fail)
  assert call("--seed=9") == 1
  assert "void: MemoryError: no room" in capsys.readouterr().out
  names = measured(good["result"])
  assert call("--seed=9") == 0
  assert names == [("prompt_lookup", 0.0)]
  for path in set(_cells(first)) - set(cells):
    path.unlink()


def test_context_that_does_not_fit_voids_the_row(call, folder, capsys):
  long = folder / "long.txt"
  long.write_text("def area " * 300)
  assert call(f"--prompts={long}", "--notruncate",
              "--system=autoregressive") == 1
  assert "void" in capsys.readouterr().out


@pytest.mark.parametrize("flags,message", [
    (["--batch=two"], "--batch: 'two' is not a whole number"),
    (["--batch=0"], "batch=0, expected >= 1"),
    (["--temperature="], "--temperature is empty"),
    (["--temperature=-1"], "temperature=-1.0, expected >= 0"),
    (["--system=prompt_lokup"], "Did you mean 'prompt_lookup'"),
    (["--repeats=0"], "repeats"),
    (["--prompts=/no/such.jsonl"], "/no/such.jsonl: cannot be read")])
def test_bad_flags(call, capsys, flags, message):
  assert call(*flags) == 2
  assert message in capsys.readouterr().err


def test_malformed_line_is_named(call, folder, capsys):
  path = folder / "bad.jsonl"
  path.write_text('{"prompt": "a"}\n{"prompt": \n')
  assert call(f"--prompts={path}") == 2
  assert "bad.jsonl, line 2: not JSON" in capsys.readouterr().err


def test_out_below_a_file(call, folder, capsys):
  file = pathlib.Path(folder / "file")
  file.write_text("")
  assert call(f"--out={file / 'out'}") == 2
  assert "cannot be written: Not a directory" in capsys.readouterr().err


def test_samples_of_a_prompt_make_a_batch(folder, tiny):
  bundle = spec_jax.load_bundle(tiny)
  values = flags.FlagValues()
  benchmark.define(values)
  values(["", f"--prompts={folder / 'spec.jsonl'}", "--samples=3"])
  (rows,) = benchmark.read_files(values, bundle).values()
  batches = benchmark.workload(values, bundle, rows, 3).groups()
  assert [[row.turns[0] for row in batch] for batch in batches] == [
      ["def f(x):"] * 3, ["class A:"] * 3]


def test_the_name_of_the_edits_stands_for_them():
  rows = benchmark.read_prompts("edits", None)
  assert len(rows) == 16 and {len(row.turns) for row in rows} == {3}
  with pytest.raises(ValueError, match="no.such: cannot be read"):
    benchmark.read_prompts("no.such", None)


def test_compiled_programs_are_dropped_before_they_are_too_many(monkeypatch):
  dropped = []
  monkeypatch.setattr(cells_lib.jax, "clear_caches", lambda: dropped.append(1))
  cells_lib.drop_programs_in_time(most_maps=10 ** 9)
  assert not dropped
  cells_lib.drop_programs_in_time(most_maps=1)
  assert dropped or not cells_lib._MAPS.exists()
