"""The search for layers to skip finds, remembers and resumes."""

import json
import shlex

import numpy as np

from experiments import common
from experiments import search_layers


class Known:
  """The more of the first half is skipped the better, the rest never."""

  num_layers = 4
  calls = 0

  def __call__(self, skipped):
    self.calls += 1
    return float(skipped[:4].sum() - 2 * skipped[4:].sum())


def test_finds_a_good_set_and_resumes(tmp_path):
  path = tmp_path / "trials.jsonl"
  first, whole = Known(), Known()
  search_layers.search(first, 6, path, seed=0)
  kept = path.read_text()
  path.write_text(kept + '{"trial": 6, "po')  # Killed while it wrote.
  rows = search_layers.search(whole, 25, path, seed=0)
  assert first.calls == 1 + 6 and whole.calls == 1 + 25 - 6
  assert [row["trial"] for row in rows] == list(range(25))
  assert path.read_text().startswith(kept)
  assert len(path.read_text().splitlines()) == 25
  assert max(row["value"] for row in rows) > rows[0]["value"] == 0


def test_set_as_flags():
  point = [.9, .1, .6, .2, .1, .7]
  found = search_layers.as_flags(point)
  assert found == (
      "--set 'draft_and_verify.skip_attention=[0,2]'"
      " --set 'draft_and_verify.skip_feed_forward=[2]'")
  name = "draft_and_verify"
  assert common.hyper_parameters([name], shlex.split(found)[1::2]) == {
      name: {"skip_attention": (0, 2), "skip_feed_forward": (2,)}}


def test_program_searches_a_real_loop(tiny, tmp_path, capsys):
  flags = [f"--bundle={tiny}", "--max_new_tokens=6", "--num_prompts=1",
           "--objective=layers", f"--out={tmp_path}"]
  assert search_layers.main([*flags, "--trials=4"]) == 0
  assert "tokens per layer after 4 trials" in capsys.readouterr().out
  best = json.loads((tmp_path / "best.json").read_text())
  values = [json.loads(line)["value"] for line in
            (tmp_path / "trials.jsonl").read_text().splitlines()]
  assert best["best"]["value"] == max(values) and len(values) == 4
  # With nothing left out all drafts are kept: D + 1 tokens for D + 1 passes.
  assert np.isclose(best["nothing_skipped"], values[0])


def test_bundle_without_prompts_is_refused(tmp_path, capsys, monkeypatch, tiny):
  import shutil
  bare = tmp_path / "bare"
  shutil.copytree(tiny, bare)
  (bare / "prompts.jsonl").write_text("")
  assert search_layers.main([f"--bundle={bare}", f"--out={tmp_path}"]) == 2
  assert "has no prompts" in capsys.readouterr().err
