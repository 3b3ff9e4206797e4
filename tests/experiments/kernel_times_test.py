"""The timing program on a CPU: XLA only, and it says so."""

import argparse
import json

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import kernel_times
from experiments import verification_times
from spec_jax.core import tree as tree_lib
from spec_jax.kernels import tree_attention

SMALL = ["--prefix=64", "--rows=2", "--vocab=96", "--num_nodes=3",
         "--kv_heads=1", "--groups=2", "--head_size=16", "--repetitions=2",
         "--bandwidth_mib=1"]


@pytest.mark.parametrize("more", [[], ["--page=16", "--ragged",
                                       "--dtype=float32"]], ids=str)
def test_writes_a_card_and_a_table(tmp_path, capsys, more):
  assert kernel_times.main([f"--out={tmp_path}", *SMALL, *more]) == 0
  card = json.loads((tmp_path / "kernel_times.json").read_text())
  assert card["bytes_per_second"] > 0
  [row] = card["rows"]
  assert set(row["seconds"]) == {"xla", "jax.nn"}
  assert row["floor"] > 0
  assert [row["sampling"] for row in card["verification"]] == list(
      verification_times.SAMPLINGS)
  assert all(set(row["seconds"]) == {"xla"} and row["floor"] > 0
             for row in card["verification"])
  assert "interpreted" in card["notes"][0]
  table = (tmp_path / "kernel_times.md").read_text()
  assert "64 x 2" in table and "96 x 2" in table and "interpreted" in table
  assert table in capsys.readouterr().out


def test_a_run_that_is_cut_off_leaves_what_it_measured(tmp_path, monkeypatch):
  def cut_off(*args):
    raise KeyboardInterrupt
  monkeypatch.setattr(kernel_times, "measure_walks", cut_off)
  assert kernel_times.main([f"--out={tmp_path}", *SMALL]) != 0
  card = json.loads((tmp_path / "kernel_times.json").read_text())
  assert len(card["rows"]) == 1 and not card["verification"]
  assert "64 x 2" in (tmp_path / "kernel_times.md").read_text()


def test_jax_attention_is_given_the_same_problem():
  values = argparse.Namespace(
      dtype="float32", num_nodes=3, kv_heads=2, groups=2, head_size=8, page=16,
      ragged=True)
  arrays, mask = kernel_times.inputs(values, 32, 2)
  out = kernel_times.jax_attention(*kernel_times.joined(arrays, mask))
  ours = tree_attention.reference(*arrays)[0]
  np.testing.assert_allclose(
      out.reshape(2, 3, 2, 2, 8), jnp.swapaxes(ours, 1, 2), atol=1e-5)


def test_floor_counts_each_rows_own_prefix():
  values = argparse.Namespace(
      dtype="bfloat16", num_nodes=3, kv_heads=2, groups=2, head_size=8, page=0,
      ragged=True)
  arrays, _ = kernel_times.inputs(values, 32, 2)
  prefix = (16 + 32) * 2 * 8 * 2 * 2
  fresh, queries = 2 * 2 * 2 * 3 * 8 * 2, 2 * 2 * 2 * 3 * 2 * 8 * 2
  assert kernel_times.num_bytes(arrays) == prefix + fresh + queries


def test_one_of_the_two_can_be_left_out(tmp_path):
  assert kernel_times.main([f"--out={tmp_path}", *SMALL, "--prefix="]) == 0
  card = json.loads((tmp_path / "kernel_times.json").read_text())
  assert not card["rows"] and card["verification"]
  assert "jax.nn" not in (tmp_path / "kernel_times.md").read_text()


def test_the_timed_walk_descends_and_is_charged_for_its_path():
  tree, logits, ctx = verification_times.inputs(96, 2, 7)
  assert tree.depth == int(tree_lib.depths(tree.parents).max())
  counts = set()
  for sampling in verification_times.SAMPLINGS.values():
    variants = verification_times.variants(sampling, tree, logits, ctx)
    assert set(variants) == {"xla"}
    verdict = variants["xla"](tree, logits, ctx)
    counts |= set(verdict.count.tolist())
    assert verification_times.num_bytes(verdict, logits) == (
        2 * 4 * 96 * int(verdict.count.sum()))
  assert max(counts) > 1


def test_bad_flags(capsys):
  assert kernel_times.main(["--prefix=30", "--page=16"]) == 2
  assert "--prefix=30" in capsys.readouterr().err
  assert kernel_times.main(["--vocab=0"]) == 2
  assert "--vocab=[0]" in capsys.readouterr().err
  assert kernel_times.main(["--rows=0"]) == 2
  assert "at least 1" in capsys.readouterr().err
