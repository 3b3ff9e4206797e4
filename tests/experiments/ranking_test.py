"""Ranks and verdicts by hand; one small run from prompts to tables."""

import dataclasses
import json

import pytest

from experiments import benchmark
from experiments import claims
from experiments import judging
from experiments import ranking
from spec_jax import systems
from spec_jax.evaluation import edits
from spec_jax.evaluation import prompts


def record(name="a", speedup=1.5, spread=0.1, count=5, histogram=(0.5, 0.5),
           calls=100):
  """Of a system that accepts 0 or 1 drafts a round."""
  accepted = calls * sum(i * h for i, h in enumerate(histogram))
  return {
      "system": name, "exact": True, "acceptance": None, "overhead": 1.0,
      "predicted_speedup": speedup,
      "counts": {
          "target_calls": calls, "drafted": calls, "accepted": accepted,
          "block_efficiency": 1 + accepted / calls, "histogram": histogram,
          "acceptance": accepted / calls,
          "marginal_by_depth": [accepted / calls],
          "conditional_by_depth": [accepted / calls]},
      "clock": {"speedup": {
          "median": speedup, "lower": speedup - spread,
          "upper": speedup + spread, "count": count},
          "seconds_per_round": {"median": 0.002},
          "tokens_per_second": {"median": 500.0}}}


ORDER = claims.Claim(("a", "b"), "speed-up", "code", True, "nobody 2020")


def verdicts(a, b, claim=ORDER, kind="code", temperature=0.0):
  cells = [(kind, temperature, {"a": a, "b": b})]
  return [row["verdict"] for row in judging.judge([claim], cells)]


@pytest.mark.parametrize("claim", claims.CLAIMS, ids=str)
def test_every_system_of_a_claim_is_ranked(claim):
  assert set(claim.order) <= set(ranking.default_names())
  assert set(claim.order) <= set(systems.names())
  assert claim.source


def test_claims_do_not_repeat_themselves():
  keys = [(c.order, c.quantity, c.kind, c.is_greedy, c.source)
          for c in claims.CLAIMS]
  assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("field, value, message", [
    ("order", ("a",), "expected two or more systems"),
    ("order", ("a", "a"), "expected two or more systems"),
    ("quantity", "beauty", "quantity='beauty', expected one of speed-up"),
    ("kind", "poems", "kind='poems', expected one of code, chat, edits, any")])
def test_malformed_claims_are_refused(field, value, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(ORDER, **{field: value})


def test_a_result_against_every_claim_is_reported_so():
  """All published orders, upside down."""
  for claim in claims.CLAIMS:
    size, records = len(claim.order), {}
    for place, name in enumerate(claim.order):
      good = (place + 1) / (size + 1)
      records[name] = record(name, 1 + place, 0.01,
                             histogram=(1 - good, good), calls=100_000)
    kind = "chat" if claim.kind == "any" else claim.kind
    cells = [(kind, 0.0 if claim.is_greedy else 0.8, records)]
    rows = judging.judge([claim], cells)
    assert [row["verdict"] for row in rows] == ["disagrees"] * (size - 1)
    reverse = dataclasses.replace(claim, order=claim.order[::-1])
    assert {row["verdict"] for row in judging.judge([reverse], cells)} == {
        "agrees"}


def test_a_small_difference_is_noise():
  assert verdicts(record(speedup=2.0), record(speedup=1.0)) == ["agrees"]
  assert verdicts(record(speedup=1.0), record(speedup=2.0)) == ["disagrees"]
  for a, b in ((1.0, 1.2), (1.2, 1.0), (1.0, 1.0)):
    assert verdicts(record(speedup=a), record(speedup=b)) == ["within noise"]


def test_few_passes_have_no_spread_to_judge_by():
  assert verdicts(record(speedup=9.0, count=2), record(speedup=1.0)) == [
      "within noise"]


@pytest.mark.parametrize("quantity", ["tokens/call", "acceptance"])
def test_counts_are_judged_by_their_standard_errors(quantity):
  claim = dataclasses.replace(ORDER, quantity=quantity)
  some, more = (0.5, 0.5), (0.4, 0.6)
  for calls, wanted in ((100, "within noise"), (10_000, "agrees")):
    pair = [record(histogram=h, calls=calls) for h in (more, some)]
    assert verdicts(*pair, claim) == [wanted]
  found = judging.measured(record(histogram=some), quantity)
  assert found.error == pytest.approx(0.05, abs=1e-3)


def test_claims_speak_of_their_workload_and_temperature_only():
  pair = record(speedup=2.0), record(speedup=1.0)
  assert verdicts(*pair, kind="chat") == []
  assert verdicts(*pair, temperature=0.8) == []
  anywhere = dataclasses.replace(ORDER, kind="any", is_greedy=False)
  assert verdicts(*pair, anywhere, "edits", 0.8) == ["agrees"]


def test_who_was_not_measured_leaves_the_order():
  claim = dataclasses.replace(ORDER, order=("a", "x", "b"))
  rows = judging.judge([claim], [
      ("code", 0.0, {"a": record(speedup=3.0), "b": record(speedup=1.0)})])
  assert [(row["claim"], row["verdict"]) for row in rows] == [
      ("a > b", "agrees")]
  row, = judging.judge([claim], [("code", 0.0, {"a": record()})])
  assert row["claim"] == "a > x > b" and row["verdict"] == "not measured"


def test_without_drafts_there_is_no_acceptance():
  plain = record(histogram=(1.0,))
  plain["counts"] |= {"drafted": 0}
  assert judging.measured(plain, "acceptance") is None
  assert judging.measured(plain, "tokens/call").value == 1
  unlucky = record(histogram=(1.0,))
  assert judging.measured(unlucky, "acceptance").value == 0


def test_equal_values_share_a_rank():
  assert judging.ranks({"a": 1.0, "b": 3.0, "c": 1.0, "d": 2.0}) == {
      "b": 1, "d": 2, "a": 3, "c": 3}


def test_prompts_are_spread_over_the_file():
  assert ranking.spread(range(480), 4) == (0, 120, 240, 360)
  assert list(ranking.spread(range(3), 5)) == [0, 1, 2]
  assert list(ranking.spread(range(3), 0)) == [0, 1, 2]


def test_the_ranked_systems_are_those_of_two_families():
  names = ranking.default_names()
  assert names[:2] == ("autoregressive", "speculative_sampling")
  assert {"prompt_lookup", "rest", "swift", "dresd"} < set(names)
  assert not {"eagle_3", "medusa_1", "specinfer", "multi_sample"} & set(names)


@pytest.fixture(scope="module")
def call(tiny, tmp_path_factory):
  folder = tmp_path_factory.mktemp("ranking")
  (folder / "question.jsonl").write_text("".join(
      json.dumps({"question_id": i, "turns": [f"for name in {i}"]}) + "\n"
      for i in range(4)))
  (folder / "corpus").mkdir()
  for i in range(4):
    (folder / "corpus" / f"{i}.py").write_text(
        "for name in names:\n  print(name, sizes[name])\n" * 3)

  def run(*flags):
    return ranking.main([
        f"--bundle={tiny}", f"--out={folder / 'out'}", "--num_prompts=1",
        f"--spec_bench={folder / 'question.jsonl'}", "--repeats=1",
        f"--corpus={folder / 'corpus'}", "--noheldout", "--noaudit",
        "--max_new_tokens=3", "--temperature=0",
        "--system=prompt_lookup,rest", *flags])
  run.folder = folder / "out"
  return run


@pytest.fixture(scope="module")
def short_edits():
  """One turn instead of three: fewer shapes to compile."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(edits, "conversations", lambda files: prompts.from_texts(
        ["def area(x):", "def size(x):"], "edits"))
    yield


def test_from_prompts_to_tables(call, short_edits, capsys, monkeypatch):
  assert call() == 0
  shown = capsys.readouterr().out
  assert "9 of 9 cells are whole" in shown
  text = (call.folder / "ranking.md").read_text()
  for heading in ("## code, temperature 0", "## chat, temperature 0",
                  "## edits, temperature 0", "## ranks by speed-up",
                  "## what papers claim"):
    assert heading in text
  found = json.loads((call.folder / "ranking.json").read_text())
  for group in found["ranks"]:
    for places in group["systems"].values():
      assert sorted(places) == ["autoregressive", "prompt_lookup", "rest"]
      assert min(places.values()) == 1
  pairs = {row["claim"] for row in found["claims"]}
  assert {"prompt_lookup > rest", "rest > autoregressive"} <= pairs
  assert {row["verdict"] for row in found["claims"]} <= {
      "agrees", "disagrees", "within noise", "not measured"}
  assert (call.folder / "ranking.png").read_bytes()[:4] == b"\x89PNG"
  assert (call.folder / "datastore" / "header.json").exists()
  assert not (call.folder / "dense_store").exists()  # Nobody asked for it.
  # Started again it measures nothing.

  def fail(*args):
    raise MemoryError("no room")
  monkeypatch.setattr(benchmark, "measure", fail)
  assert call() == 0
  # Given a store it builds none; what fails voids its cells and is said.
  store = call.folder / "datastore"
  assert call(f"--datastore={store}", "--nobuild_stores", "--seed=1",
              "--spec_bench=") == 1
  shown = capsys.readouterr().out
  assert "void: rest, edits, temperature 0: MemoryError: no room" in shown
  assert "0 of 6 cells are whole" in shown


@pytest.mark.parametrize("flags, message", [
    (["--spec_bench=/no/such.jsonl"], "--spec_bench=/no/such.jsonl: no such"),
    (["--system=rest", "--nobuild_stores"], "rest retrieves from a datastore"),
    (["--system=lokahead"], "Did you mean 'lookahead'"),
    (["--datastore=/nowhere"], "/nowhere: no datastore there")])
def test_bad_flags(call, short_edits, capsys, flags, message):
  assert call(*flags) == 2
  assert message in capsys.readouterr().err
