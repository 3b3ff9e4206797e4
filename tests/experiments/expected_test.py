"""What parts are expected to accept is read from the cards of races."""

import json

import pytest

from experiments import drafter_shapes
from experiments import expected
from experiments import parts


def write(folder, name, minutes, accepted, **more):
  judged = {f"eval_accept_{i + 1}": share for i, share in enumerate(accepted)}
  (folder / f"{name}.json").write_text(json.dumps({
      "environment": {"backend": "cpu", "device": "cpu", "num_cpus": 2},
      "flags": {"minutes": minutes, "batch": 4}, **more,
      "rows": [{"system": "medusa_1", "part": {
          "steps": 7, "judged": [{"step": 1}, {"step": 7, **judged}]}},
               {"system": "hydra", "part": {"parameters": 1}}]}))


def test_budgets_of_a_part_the_least_first(tmp_path):
  write(tmp_path, "long", 10, (0.5, 0.25), remark="with care")
  write(tmp_path, "brief", 1, (0.4, 0.2))
  brief, long = expected.of("medusa_1", tmp_path)
  assert brief == expected.Budget("2 CPU cores", 1, 7, 4, (0.4, 0.2))
  assert long.accepted == (0.5, 0.25) and long.remark == "with care"
  first, second, hour = expected.text("medusa_1", tmp_path).splitlines()
  assert hour.startswith("medusa_1, 60 min")  # Ten were tried.
  assert first == ("medusa_1, 1 min on 2 CPU cores (7 steps of 4 windows):"
                   " expect acceptance to depth 1, 2, ... of 0.40 0.20")
  assert "with care" in second and second.endswith("0.50 0.25")


def test_steps_instead_of_minutes_on_another_machine(tmp_path):
  (tmp_path / "far.json").write_text(json.dumps({
      "environment": {"backend": "cpu", "device": "cpu", "num_cpus": 2},
      "flags": {"minutes": 1, "steps": 600, "batch": 32},
      "rows": [{"system": "medusa_1", "part": {
          "steps": 600, "seconds_per_step": 0.05,
          "machine": {"backend": "gpu", "device": "NVIDIA H200"},
          "judged": [{"eval_accept_1": 0.3}]}}]}))
  assert expected.of("medusa_1", tmp_path) == [
      expected.Budget("NVIDIA H200", 0.5, 600, 32, (0.3,))]


def test_estimates_lie_between_the_budgets_that_were_tried(tmp_path):
  write(tmp_path, "brief", 1, (0.2, 0.1))
  (tmp_path / "far.json").write_text(json.dumps({
      "environment": {"backend": "gpu", "device": "H200"},
      "flags": {"minutes": 1, "steps": 700, "batch": 4},
      "rows": [{"system": "medusa_1", "part": {
          "steps": 700, "seconds_per_step": 0.01, "judged": [
              {"eval_accept_1": 0.6, "eval_accept_2": 0.5}]}}]}))
  ten, hour = expected.estimates("medusa_1", (10, 1000), tmp_path)
  # Those tried had 28 and 2,800 windows.
  assert ten.machine == "2 CPU cores" and ten.windows == 280
  assert (ten.least, ten.most) == ((0.2, 0.1), (0.6, 0.5))
  # Windows of a GPU are not those of cores.
  assert (hour.least, hour.most) == ((0.2, 0.1), None)
  _, _, ten, hour = expected.text("medusa_1", tmp_path).splitlines()
  assert ("10 min on 2 CPU cores (280 windows): expect at least 0.20 0.10, at"
          " most 0.60 0.50 (not tried" in ten)
  assert "60 min on 2 CPU cores (1,680 windows): expect at least 0.20" in hour


def test_without_a_pace_on_cores_nothing_is_estimated(tmp_path):
  assert expected.estimates("medusa_1", folder=tmp_path) == []


def test_a_part_that_was_not_trained_has_no_expectation(tmp_path):
  write(tmp_path, "brief", 1, (0.4,))
  assert expected.of("hydra", tmp_path) == []
  assert expected.text("hydra", tmp_path) == ""


def lengths(folder, **judged):
  (folder / "lengths.json").write_text(json.dumps({
      "environment": {"backend": "cpu", "device": "cpu", "num_cpus": 2},
      "flags": {"minutes": 1, "batch": 4}, "rows": [{
          "system": "ada_eagle", "part": {"steps": 7, "judged": [judged]}}]}))


def test_lengths_that_were_not_judged_by_depth(tmp_path):
  """No list without a number, and nothing is estimated from it."""
  lengths(tmp_path, step=7, eval_error=0.5)
  assert expected.text("ada_eagle", tmp_path) == (
      "ada_eagle, 1 min on 2 CPU cores (7 steps of 4 windows): expect lengths"
      " wrong by 0.50 drafts")
  lengths(tmp_path, step=7)
  assert expected.text("ada_eagle", tmp_path) == ""
  for line in expected.text("ada_eagle").splitlines():  # What is shipped.
    assert line.endswith(" drafts") or line[-1].isdigit() or line[-1] == ")"
    assert "expect at least (" not in " ".join(line.split())


def test_lengths_that_were(tmp_path):
  lengths(tmp_path, eval_error=0.5, eval_wasted=0.25, eval_accept_1=0.4)
  first, *estimates = expected.text("ada_eagle", tmp_path).splitlines()
  assert first.endswith("expect acceptance to depth 1, 2, ... of 0.40, 0.25"
                        " drafts of a call made in vain, lengths wrong by 0.50"
                        " drafts")
  assert len(estimates) == 2


@pytest.mark.parametrize("name", [
    name for name in parts.TRAINERS if parts.is_counted(name)])
def test_what_is_counted_says_so(name):
  said = expected.text(name)
  assert said.startswith(f"{name}, counted, not trained: The ") or (
      name == "cs_drafting" and "Max-Gram" in said)
  assert len(said.splitlines()) == 1
  assert ("tokens to cover 0." in said) == (name in ("fr_spec", "vocab_trim"))


def test_coverage_grows_with_the_tokens(tmp_path):
  for name in ("fr_spec", "vocab_trim"):
    found = expected.coverage(name)
    assert list(found) == sorted(found)
    assert 0 < min(found.values()) and max(found.values()) < 1
    assert list(found.values()) == sorted(found.values())
  assert expected.coverage("eagle_9") == {}
  assert expected.coverage("fr_spec", tmp_path / "none.json") == {}


# What is counted takes no steps; lengths were judged by their error alone.
@pytest.mark.parametrize("name", [
    name for name in drafter_shapes.BY_SYSTEM if name in parts.TRAINERS
    and not parts.is_counted(name) and name != "ada_eagle"])
def test_every_recipe_says_what_a_minute_gives(name):
  found = expected.of(name)
  assert any(budget.minutes == 1 for budget in found)
  for budget in found:
    assert 0 < budget.minutes and 0 < budget.steps
    assert sorted(budget.accepted, reverse=True) == list(budget.accepted)
    assert 0 < budget.accepted[0] < 1
  said = {10, 60} & {round(budget.minutes) for budget in found}
  estimates = expected.estimates(name)
  assert said | {estimate.minutes for estimate in estimates} == {10, 60}
  least = [found[0].accepted[0], *(e.least[0] for e in estimates)]
  assert least == sorted(least)
