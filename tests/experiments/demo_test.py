"""The demo from flags to files, and what it says about bad flags."""

import json
import pathlib

import pytest

from experiments import demo

_FAST = ("--max_new_tokens=6", "--num_prompts=1", "--repeats=1",
         "--law_rows=16", "--temperature=0.8,0",
         "--system=speculative_sampling,gumbel_coupled", "--set=depth=2")


@pytest.fixture(scope="module")
def done(tiny, tmp_path_factory):
  folder = tmp_path_factory.mktemp("demo")
  capture = pytest.MonkeyPatch()
  lines = []
  capture.setattr("builtins.print", lambda *a, **k: lines.append(
      " ".join(map(str, a))))
  code = demo.main([f"--bundle={tiny}", f"--out={folder}", *_FAST])
  capture.undo()
  return code, "\n".join(lines), pathlib.Path(folder)


def test_ends_well(done):
  code, output, _ = done
  assert code == 0, output
  assert "FAIL" not in output


@pytest.mark.parametrize("line", [
    "greedy text equals autoregressive: speculative_sampling: 6 tokens of 1",
    "greedy text equals autoregressive: gumbel_coupled: 6 tokens of 1",
    "sampled text, same seed, equals autoregressive: gumbel_coupled: 6",
    "output law, enumerated: recursive_without_replacement: largest error",
    "output law, enumerated: greedy: not exact, and says so",
    "first two tokens, chi-square: speculative_sampling: p = "])
def test_proves_it(done, line):
  assert line in done[1]


def test_says_when_text_came_and_how_much_memory_it_took(done):
  _, output, folder = done
  card = json.loads((folder / "card.json").read_text())
  assert 0 < card["seconds_to_first_text"] < 600
  assert 0.01 < card["peak_memory_gib"] < 1000
  spent, last = output.splitlines()[-2:]
  assert last.endswith(f"{folder}")
  assert spent == (
      f"first text after {card['seconds_to_first_text']:.1f} s; at most"
      f" {card['peak_memory_gib']:.2f} GiB of main memory")


def test_only_the_first_text_counts():
  first = demo.FirstText()
  assert "not shown" in demo.spent_text(
      {"seconds_to_first_text": first.seconds, "peak_memory_gib": 1.0})
  first()
  seconds = first.seconds
  first()
  assert first.seconds == seconds > 0


def test_card_holds_what_is_needed_to_repeat_it(done):
  card = json.loads((done[2] / "card.json").read_text())
  assert {"environment", "flags", "setting", "results", "checks"} <= set(card)
  assert card["flags"]["max_new_tokens"] == 6
  assert len(card["setting"]["prompts_sha256"]) == 64
  assert len(card["results"]) == 6
  names = {(r["system"], r["temperature"]) for r in card["results"]}
  assert ("speculative_sampling", 0.8) in names
  for result in card["results"]:
    assert result["counts"]["emitted"] == 6
    assert result["hyper_parameters"].get("depth", 2) == 2
  audited = [r for r in card["results"] if r["acceptance"]]
  assert [r["system"] for r in audited] == ["speculative_sampling"]
  assert 0 < audited[0]["acceptance"]["optimum"] <= 1


def test_table_and_plot(done):
  table = (done[2] / "table.md").read_text()
  assert table.count("| speculative_sampling |") == 2
  assert (done[2] / "comparison.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("flags,message", [
    (["--system=specinfr"], "Did you mean 'specinfer'"),
    (["--system=specinfer", "--set=depht=3"], "unknown hyper-parameter of"),
    (["--set=depth"], "expected key=value"),
    (["--set=depth=two"], "'two' is not of the type of"),
    (["--set=nobody.depth=2"], "unknown system 'nobody'"),
    (["--temperature=-1"], "temperature=-1.0, expected >= 0"),
    (["--temperature=nan"], "temperature=nan, expected >= 0"),
    (["--temperature=warm"], "--temperature: 'warm' is not a number"),
    (["--prompts=/no/such/file.jsonl"], "/no/such/file.jsonl: cannot be read"),
    (["--max_new_tokens=1000"], "the model has 256 positions"),
    (["--max_new_tokens=240"], "at most 16 fit into the model's 256"),
    (["--out=/dev/null/demo"], "/dev/null/demo: cannot be written"),
    (["--bundle=nowhere"], "'nowhere' is neither a shipped bundle"),
    (["--hf_draft=x"], "only used together with --hf"),
    (["--num_prompts=0"], "num_prompts"),
    (["--out="], "--out is empty, expected a path"),
    (["--show=specinfr", "--system=specinfer"], "Did you mean 'specinfer'"),
    (["--show=mcsd", "--system=specinfer"],
     "unknown system among those of this demo 'mcsd'"),
    (["--seed=99999999999999999999"], "--seed=99999999999999999999"),
    (["--no_such_flag"], "no_such_flag"),
    (["leftover"], "unexpected argument 'leftover'")])
def test_bad_flags(tiny, tmp_path, capsys, flags, message):
  code = demo.main([f"--bundle={tiny}", f"--out={tmp_path}", *flags])
  assert code == 2
  assert message in capsys.readouterr().err
