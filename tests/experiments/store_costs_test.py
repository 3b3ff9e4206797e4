"""The costs are measured and written; the numbers are not judged."""

import json

import numpy as np

from experiments import dense_costs
from experiments import store_costs
from spec_jax.training import data


def test_writes_what_it_measured(tiny, tmp_path, capsys):
  corpus = tmp_path / "corpus"
  corpus.mkdir()
  names = [f"{i}.py" for i in range(400)]
  heldout = [name for name in names if data.is_heldout(name)][:3]
  for i, name in enumerate([*heldout, *names[:40]]):
    (corpus / name).write_text(
        f"def area_{i}(radius):\n  return {i} * radius * radius\n" * 4)
  flags = [f"--bundle={tiny}", f"--corpus={corpus}", "--tokens=900",
           "--online_tokens=100,200", "--queries=10",
           "--dense_tokens=300,9000", "--dense_sample=300",
           f"--out={tmp_path / 'out'}"]
  assert store_costs.main(flags) == 0
  assert "900 tokens: built in" in capsys.readouterr().out
  found = json.loads((tmp_path / "out" / "store_costs.json").read_text())
  row, = found["datastores"]
  assert row["tokens"] == 900 and row["bytes_per_million"] >= 6e6
  for part, name in ((row, "match_microseconds"), (row, "tree_microseconds"),
                     (row, "tree_search_microseconds")):
    assert 0 < part[name]["lower"] <= part[name]["upper"]
  assert [row["tokens"] for row in found["online"]] == [100, 200]
  for row in found["online"]:
    assert row["automaton"]["states_per_token"] <= 2
    for name in ("automaton", "tree"):
      part = row[name]
      assert part["seconds_per_million"] > 0 <= part["bytes_per_million"]
      assert part["append_microseconds"]["count"] == row["tokens"]
      assert part["draft_microseconds"]["count"] == 10
  small, large = found["dense_stores"]
  assert (small["tokens"], large["tokens"]) == (300, 9000)
  assert large["cells"] == int(5 * 9000 ** 0.5)
  # A key of 16 dimensions, 20 tokens, a number in its cell.
  assert large["bytes_per_million"] > (16 * 2 + 20 * 4 + 8) * 1e6
  assert large["forward_seconds_per_million"] > 0
  assert found["peak_bytes"] > 1e7
  assert store_costs.main(flags + ["--tokens=99999999"]) == 2
  assert "the corpus has only" in capsys.readouterr().err


def test_mixtures_are_the_same_whenever_they_begin():
  rng = np.random.default_rng(0)
  sample = dense_costs.Sample(
      rng.normal(size=(50, 4)).astype(np.float16),
      rng.integers(0, 9, (50, 20)), 1.0)
  whole = list(dense_costs.mixtures(sample, 20_000, 0))
  assert sum(len(hidden) for hidden, _ in whole) == 20_000
  (hidden, following), = dense_costs.mixtures(sample, 20_000, len(whole) - 1)
  np.testing.assert_array_equal(hidden, whole[-1][0])
  np.testing.assert_array_equal(following, whole[-1][1])


def test_bad_sizes_are_named(tiny, capsys):
  for flag in ("tokens", "online_tokens", "dense_tokens"):
    assert store_costs.main([f"--bundle={tiny}", f"--{flag}=99"]) == 2
    assert f"--{flag}=99, expected sizes of at least" in capsys.readouterr().err
