"""The examples in the documentation of `theory` and the rules are true."""

import doctest
import importlib
import inspect
import pathlib

import pytest

from spec_jax import verifiers
import theory

_ROOTS = {"theory": pathlib.Path(theory.__file__).parent,
          "spec_jax.verifiers": pathlib.Path(verifiers.__file__).parent}


def _modules():
  for package, root in _ROOTS.items():
    for path in sorted(root.rglob("*.py")):
      if ">>> " in path.read_text(encoding="utf-8"):
        parts = path.relative_to(root).with_suffix("").parts
        yield ".".join((package, *parts)).removesuffix(".__init__")


_MODULES = tuple(_modules())


def test_there_are_examples():
  assert {"theory.latency", "theory.oracles.sequence",
          "spec_jax.verifiers"} <= set(_MODULES)


@pytest.mark.parametrize("name", _MODULES)
def test_examples(name):
  found = doctest.testmod(importlib.import_module(name))
  assert found.attempted and not found.failed


@pytest.mark.parametrize("module", [theory, verifiers] + [
    importlib.import_module(name) for name in _MODULES
    if name.startswith("theory.")], ids=lambda module: module.__name__)
def test_every_public_function_has_an_example(module):
  """Of the theory all functions, of the rules those of the package's face."""
  names = getattr(module, "__all__", None) or [
      name for name, value in vars(module).items()
      if getattr(value, "__module__", None) == module.__name__]
  without = [name for name in names if not name.startswith("_")
             and inspect.isfunction(function := getattr(module, name))
             and ">>> " not in (function.__doc__ or "")]
  assert not without
