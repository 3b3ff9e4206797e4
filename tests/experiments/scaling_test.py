"""Curves of a toy pair: every point once, resumed, fitted."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import scaling
from experiments import scaling_lab
from spec_jax.core import keys
from spec_jax.core import types
from spec_jax.executors import fused
from spec_jax.systems import registration
from tests import toy

_ONLY = ["--batch=1,2,3", "--prefix=40", "--nodes=1,4", "--devices="]


@pytest.fixture(scope="module")
def call(tiny, tmp_path_factory):
  folder = tmp_path_factory.mktemp("scaling")

  def run(*flags):
    code = scaling.main([
        f"--bundle={tiny}", f"--out={folder}", "--samples=1",
        "--prompt_tokens=8", "--max_new_tokens=12",
        "--system=speculative_sampling", "--set=depth=1", *flags])
    return code, folder
  return run


def test_points_are_measured_once_and_fitted(call, monkeypatch):
  code, folder = call(*_ONLY)
  assert code == 0
  card = json.loads((folder / "scaling.json").read_text())
  found = [(row["key"]["axis"], row["key"]["size"]) for row in card["rows"]]
  assert found == [("batch", 1), ("batch", 2), ("batch", 3), ("prefix", 40),
                   ("nodes", 1), ("nodes", 4)]
  for row in card["rows"]:
    result, batch = row["result"], 1
    if row["key"]["axis"] == "batch":
      batch = row["key"]["size"]
    assert result["tokens_per_second"] == pytest.approx(
        batch * result["tokens_per_call"]
        / result["seconds_per_round"]["median"])
  (fit,) = card["fits"]
  assert (fit["axis"], fit["system"]) == ("batch", "speculative_sampling")
  assert (folder / "scaling.png").read_bytes()[:4] == b"\x89PNG"

  def fail(*_):
    raise AssertionError("a point was measured twice")

  for name in ("on_prompts", "behind"):
    monkeypatch.setattr(scaling_lab.Lab, name, fail)
  assert call(*_ONLY)[0] == 0


def test_a_line_is_found():
  rows = [{"key": {"axis": "batch", "size": size, "system": "a"},
           "result": {"seconds_per_round": {"median": 2.0 + 0.5 * size},
                      "tokens_per_second": 1.0}} for size in (1, 2, 8)]
  (fit,) = scaling.fits(rows)
  np.testing.assert_allclose(
      [fit["seconds"], fit["seconds_per_unit"], fit["r_squared"]],
      [2.0, 0.5, 1.0])


def test_a_state_is_lengthened_for_target_and_draft():
  bundle = toy.bundle()
  parts = registration.Parts(bundle.target, bundle.models)
  system = registration.REGISTRY["speculative_sampling"].build(parts, depth=1)
  params = types.Params(bundle.params["target"], bundle.params["draft"])
  state = fused.Fused().start(system, params, toy.prompts((3, 5)),
                              keys.row_keys(0, 2), 8, 64)
  longer = scaling_lab.lengthened(state, 40)
  for cache in (longer.cache, longer.drafter.cache):
    np.testing.assert_array_equal(cache.length, [39, 39])
  np.testing.assert_array_equal(longer.limit - longer.length, [8, 8])
  assert bool(jnp.all(longer.is_running))


@pytest.mark.parametrize("flags,message", [
    (["--nodes=6"], "6 is not 1 + 3 k"), (["--batch=0"], "--batch=[0]"),
    (["--temperature=0,1"], "expected one")])
def test_bad_flags(call, capsys, flags, message):
  assert call(*flags)[0] == 2
  assert message in capsys.readouterr().err


def test_devices_are_counted_in_a_process_of_their_own(call):
  code, folder = call("--batch=", "--prefix=", "--nodes=", "--devices=2",
                      "--device_rows=3")
  assert code == 0
  (row,) = json.loads((folder / "scaling.json").read_text())["rows"]
  assert row["result"]["num_devices"] == 2
  assert row["key"]["rows"] == 3
