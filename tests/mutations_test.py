"""The suite notices every planted bug, and nothing where there is none."""

import pathlib

import pytest

from tests import mutations
from tests import planted_bugs
from tests.mutation_checks import catalogue


@pytest.mark.parametrize("check", catalogue.CHECKS)
def test_sound_code_passes(check):
  catalogue.CHECKS[check]()


@pytest.mark.parametrize("bug", planted_bugs.BUGS, ids=lambda bug: bug.name)
def test_planted_bug_is_caught(bug):
  results = mutations.run_bug(bug, bug.suspects)
  # An assertion, not a crash: the bug must be seen in what is decoded.
  assert "AssertionError" in results.values(), results


def test_a_bug_that_cannot_be_planted_is_an_error():
  gone = planted_bugs.Bug("gone", "core.tree:positions", "no such text", "", ())
  with pytest.raises(ValueError, match="has 0 places"):
    mutations.run_bug(gone, ())


def test_the_published_table_has_every_bug():
  table = (pathlib.Path(__file__).parent / "MUTATIONS.md").read_text("utf-8")
  for bug in planted_bugs.BUGS:
    assert f"| {bug.name} | yes |" in table, (
        f"run `make mutations`: {bug.name!r} is not in MUTATIONS.md")
