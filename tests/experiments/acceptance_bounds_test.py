"""Acceptance beside the optimum: golden values, sources, resumption."""

import json

import numpy as np
import pytest

from experiments import acceptance_bounds
from experiments import laws
from tests.exactness import golden

GOLDEN = {"recursive": "rrs", "recursive_without_replacement": "rrs_wor"}
DRAWS = {"iid": "iid", "without_replacement": "wor", "greedy": "greedy"}


def call(folder, *flags):
  return acceptance_bounds.main([f"--out={folder}", "--num_samples=4", *flags])


def rows(folder):
  card = json.loads((folder / "acceptance_bounds.json").read_text())
  return {(row["rule"], row["draw"], row["num_drafts"]): row
          for row in card["summaries"][0]["rows"]}


@pytest.fixture(scope="module")
def case():
  return next(c for c in golden.single_step() if c["id"] == "D_k2")


@pytest.fixture(scope="module")
def files(tmp_path_factory, case):
  folder = tmp_path_factory.mktemp("laws")
  np.save(folder / "p.npy", np.asarray([case["p"]]))
  (folder / "q.json").write_text(json.dumps(case["q"]))
  return f"--p={folder / 'p.npy'}", f"--q={folder / 'q.json'}"


def test_files_give_the_golden_values(tmp_path, files, case):
  assert call(tmp_path, *files, "--num_drafts=2") == 0
  found = rows(tmp_path)
  for rule, known in GOLDEN.items():
    draw = "iid" if rule == "recursive" else "without_replacement"
    assert found[rule, draw, 2]["acceptance"] == pytest.approx(
        case["verifiers"][known]["accept"], abs=1e-9)
  for (rule, draw, _), row in found.items():
    assert row["optimum"] == pytest.approx(
        case["optimal"][DRAWS[draw]]["alpha_lp"], abs=1e-9)
    assert row["acceptance"] <= row["optimum"] + 1e-9, rule
    assert row["microseconds"] > 0
  assert "**optimum**" in (tmp_path / "acceptance_bounds.md").read_text()
  assert (tmp_path / "acceptance_bounds.png").read_bytes()[:4] == b"\x89PNG"


@pytest.fixture(scope="module")
def family():
  return ("--family=dirichlet", "--vocab_size=40", "--num_positions=20",
          "--num_drafts=1,2", "--temperature=1", "--draw=iid",
          "--rule=recursive,sample_and_match")


def test_families_stream_and_resume(tmp_path, family, monkeypatch):
  assert call(tmp_path, *family) == 0
  first = rows(tmp_path)
  assert first["recursive", "iid", 2]["positions"] == 20
  assert (first["sample_and_match", "iid", 2]["acceptance"]
          < first["recursive", "iid", 2]["acceptance"])
  measured = []
  real = acceptance_bounds.measure
  monkeypatch.setattr(acceptance_bounds, "measure",
                      lambda *a, **k: measured.append(a) or real(*a, **k))
  gone = sorted((tmp_path / "chunks").iterdir())[-1]
  gone.write_text("{torn")
  assert call(tmp_path, *family) == 0
  assert len(measured) == 1
  drop = lambda found: {k: {**v, "microseconds": 0} for k, v in found.items()}
  assert drop(rows(tmp_path)) == drop(first)


def test_model_pairs(tmp_path, tiny):
  assert call(tmp_path, f"--bundle={tiny}", "--num_positions=6",
              "--num_drafts=1", "--temperature=1", "--draw=iid",
              "--rule=rejection") == 0
  row = rows(tmp_path)["rejection", "iid", 1]
  assert row["positions"] == 6 and row["method"] == "closed_form"
  assert row["acceptance"] == pytest.approx(row["optimum"], abs=1e-9)


def test_a_chunk_is_a_function_of_its_number():
  source = laws.from_family("zipf", 50, 40, seed=3)
  assert source.num_chunks == 3
  for again, first in zip(source.laws(2, 0.7), source.laws(2, 0.7)):
    np.testing.assert_array_equal(again, first)
    assert first.shape == (8, 50)
    np.testing.assert_allclose(first.sum(-1), 1)


@pytest.mark.parametrize("flags,message", [
    (["--p=x.npy"], "belong together"),
    (["--p=none.npy", "--q=none.npy"], "none.npy: cannot be read"),
    (["--family=gauss"], "gauss"),
    (["--temperature=0"], "--temperature=0"),
    (["--draw=sorted"], "--draw=sorted"),
    (["--rule=recursiv"], "Did you mean 'recursive'"),
    (["--num_drafts=0"], "--num_drafts=0"),
    (["--rule=rejection", "--num_drafts=2"], "takes none of the draws"),
    (["--draft=big"], "no draft model 'big'"),
])
def test_bad_flags_are_named(tmp_path, tiny, capsys, flags, message):
  assert call(tmp_path, f"--bundle={tiny}", *flags) == 2
  assert message in capsys.readouterr().err
