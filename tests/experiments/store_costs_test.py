"""The costs are measured and written; the numbers are not judged."""

import json

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
           "--online_tokens=100", "--queries=10", f"--out={tmp_path / 'out'}"]
  assert store_costs.main(flags) == 0
  assert "900 tokens: built in" in capsys.readouterr().out
  found = json.loads((tmp_path / "out" / "store_costs.json").read_text())
  row, = found["datastores"]
  assert row["tokens"] == 900 and row["bytes_per_million"] >= 6e6
  for part, name in ((row, "match_microseconds"), (row, "tree_microseconds"),
                     (row, "tree_search_microseconds"),
                     (found["online"], "automaton_append_microseconds"),
                     (found["online"], "tree_draft_microseconds")):
    assert 0 < part[name]["lower"] <= part[name]["upper"]
  assert found["online"]["automaton_states_per_token"] <= 2
  assert store_costs.main(flags + ["--tokens=99999999"]) == 2
  assert "the corpus has only" in capsys.readouterr().err
