"""What every program does."""

import importlib
import pathlib
import re

from absl import flags
import pytest

import experiments

_FOLDER = pathlib.Path(experiments.__file__).parent
# Modules that only share flags define some too, but nothing runs them.
_PROGRAMS = sorted(path.stem for path in _FOLDER.glob("*.py")
                   if "\ndef main(" in path.read_text(encoding="utf-8"))


def test_programs_are_found():
  assert {"demo", "export", "train", "store_costs"} <= set(_PROGRAMS)


@pytest.mark.parametrize("name", _PROGRAMS)
def test_help_shows_purpose_usage_and_flags(name, capsys):
  module = importlib.import_module(f"experiments.{name}")
  assert module.main(["--help"]) == 0
  shown = capsys.readouterr()
  text, listed = shown.out.split("\n\nFlags:\n")
  assert text == module.__doc__.strip() and not shown.err
  assert f"python -m experiments.{name}" in text
  values = flags.FlagValues()
  module.define(values)
  for flag in ("help", *values):
    assert re.search(rf"--(\[no\])?{flag}\b", listed), flag
