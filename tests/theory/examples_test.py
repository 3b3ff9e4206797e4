"""The examples in the documentation of `theory` are true."""

import doctest
import importlib
import pathlib

import pytest

import theory

_MODULES = sorted(
    path.stem for path in pathlib.Path(theory.__file__).parent.glob("*.py")
    if ">>> " in path.read_text(encoding="utf-8"))


def test_there_are_examples():
  assert {"closed_forms", "latency", "policies", "trees"} <= set(_MODULES)


@pytest.mark.parametrize("name", _MODULES)
def test_examples(name):
  found = doctest.testmod(importlib.import_module(f"theory.{name}"))
  assert found.attempted and not found.failed
