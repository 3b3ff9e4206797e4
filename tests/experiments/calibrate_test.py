"""The calibration program: what it measures fits together."""

import json
import shlex

import pytest

from experiments import calibrate
from experiments import common
from spec_jax import systems
from spec_jax.models import bundle as bundle_lib
from spec_jax.trees import shapes


def test_calibration_is_a_plan_for_the_models(tiny, tmp_path, capsys):
  assert calibrate.main([
      f"--bundle={tiny}", f"--out={tmp_path}", "--max_new_tokens=12",
      "--num_prompts=2", "--repeats=1", "--num_children=3", "--depth=3"]) == 0
  shown = capsys.readouterr().out
  found = json.loads((tmp_path / "calibration.json").read_text())
  assert set(found["temperatures"]) == {"0", "0.8"}
  assert found["draft_cost"] > 0 and found["check_cost"] >= 0
  assert [size for size, _ in found["target_seconds"]][:3] == [1, 2, 3]
  for text, row in found["temperatures"].items():
    accepts = row["acceptance"]
    assert len(accepts) == 3 and 0 < sum(accepts) <= 1 + 1e-3
    assert f"temperature {text}" in shown
    shape = tuple(map(tuple, row["sequoia"]))
    assert len(shape) <= row["depth"] <= 3
    assert shapes.expected_tokens(shape, accepts) == pytest.approx(
        row["expected_tokens"], rel=1e-2)
  bundle = bundle_lib.load_bundle(tiny)
  system, _ = systems.build(
      "sequoia", bundle, acceptance=tuple(accepts), depth=3,
      draft_cost=found["target_seconds"][0][1],
      target_costs=tuple(map(tuple, found["target_seconds"])))
  assert system.drafter.depth <= 3
  for row, line in zip(found["temperatures"].values(), shown.splitlines()):
    options = flags_in(line)
    assert len(options) == 4
    (tree,), _ = common.choose(bundle, ["sequoia"], options)
    wanted = tuple(map(tuple, row["sequoia"]))
    assert tree.system.drafter.branching == wanted
  options = ["controller=cost_model"] + flags_in(shown.splitlines()[2])
  assert len(options) == 3
  (chain,), _ = common.choose(bundle, ["speculative_sampling"], options)
  beside = 1 + 5 * found["check_cost"]
  assert chain.system.drafter.controller.draft_cost == pytest.approx(
      found["draft_cost"] / beside, rel=1e-2)


def flags_in(line):
  """What --set says, of a line to be copied into a shell."""
  return [part.partition("=")[2] for part in shlex.split(line)
          if part[:5] == "--set"]


@pytest.mark.parametrize("arguments,message", [
    (["--temperature=cold"], "cold"), (["--num_prompts=0"], "num_prompts"),
    (["--bundle=nowhere"], "neither a shipped bundle"),
    (["--num_children=9999", "--num_prompts=1", "--max_new_tokens=2",
      "--repeats=1"], "num_children=9999")])
def test_bad_flags(arguments, message, tiny, tmp_path, capsys):
  flags = [f"--out={tmp_path}", "--temperature=0"]
  if "--bundle" not in arguments[0]:
    flags.append(f"--bundle={tiny}")
  assert calibrate.main(flags + arguments) == 2
  assert message in capsys.readouterr().err
