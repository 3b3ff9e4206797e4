"""Imports run one way; parts stay small; nothing lazy slips in."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parent.parent

# Who may import whom, as rooms of spec_jax. Same room is always allowed.
_PARTS = {"models", "kernels", "caches", "trees", "controllers", "stores",
          "verifiers"}
ALLOWED = {
    "core": set(),
    "stores": set(),
    "models": {"core", "kernels"},
    "kernels": {"core"},
    "caches": {"core", "kernels"},
    "trees": {"core"},
    "controllers": {"core"},
    "verifiers": {"core", "kernels"},
    "drafters": {"core"} | _PARTS,
    "training": {"core"} | _PARTS,
    "executors": {"core", "drafters"} | _PARTS,
    "evaluation": {"core", "drafters", "executors"} | _PARTS,
    "systems": {"core", "drafters", "executors", "evaluation", "training"}
               | _PARTS,
}
# Modules directly below spec_jax: the public face, which may see everything.
_FACE = {"__init__", "api"}
_MAX_LINES = 400


def _sources(folder):
  return sorted((ROOT / folder).rglob("*.py"))


def _imports(path):
  """Dotted names a file imports; `from a import b` counts as `a.b`."""
  for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
    if isinstance(node, ast.Import):
      yield from ((alias.name, node) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f"{path}: relative import"
      for alias in node.names:
        assert alias.name != "*", f"{path}: import *"
        yield f"{node.module}.{alias.name}", node


def violations(path, room):
  """Imports of a file in `room` that run against the arrows."""
  found = []
  for name, node in _imports(path):
    parts = name.split(".")
    where = f"{path.relative_to(ROOT)}:{node.lineno} imports {name}"
    if parts[0] in ("experiments", "tests", "theory"):
      found.append(where)
    elif parts[0] == "spec_jax" and len(parts) > 1 and room is not None:
      if parts[1] != room and parts[1] not in ALLOWED[room]:
        found.append(where)
  return found


@pytest.mark.parametrize("room", sorted(ALLOWED))
def test_imports_run_one_way(room):
  paths = _sources(f"spec_jax/{room}")
  assert paths
  assert not [line for path in paths for line in violations(path, room)]


def test_every_room_is_listed():
  rooms = {path.name for path in (ROOT / "spec_jax").iterdir()
           if path.is_dir() and any(path.glob("*.py"))}
  assert rooms == set(ALLOWED)
  modules = {path.stem for path in (ROOT / "spec_jax").glob("*.py")}
  assert modules == _FACE


def test_the_face_imports_no_program():
  for name in _FACE:
    assert not violations(ROOT / "spec_jax" / f"{name}.py", None)


def test_stores_never_import_jax():
  for path in _sources("spec_jax/stores"):
    assert not [n for n, _ in _imports(path) if n.split(".")[0] == "jax"]


def test_theory_stands_alone():
  for path in _sources("theory"):
    roots = {name.split(".")[0] for name, _ in _imports(path)}
    assert not roots & {"spec_jax", "experiments", "tests"}, path


def test_a_planted_violation_is_seen(tmp_path, monkeypatch):
  monkeypatch.setitem(globals(), "ROOT", tmp_path)
  path = tmp_path / "bad.py"
  path.write_text("from spec_jax.systems import build\n")
  assert violations(path, "core")


@pytest.mark.parametrize(
    "path", _sources("spec_jax") + _sources("theory") + _sources("experiments"),
    ids=lambda path: str(path.relative_to(ROOT)))
def test_source_habits(path):
  text = path.read_text(encoding="utf-8")
  assert len(text.splitlines()) <= _MAX_LINES
  tree = ast.parse(text)
  package = path.relative_to(ROOT).parts[0]
  for node in ast.walk(tree):
    if isinstance(node, ast.ExceptHandler):
      assert node.type is not None, f"{path}:{node.lineno}: bare except"
    is_print = (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
                and node.func.id == "print")
    assert not (is_print and package != "experiments"), (
        f"{path}:{node.lineno}: print in the package")
  if text.strip():
    assert ast.get_docstring(tree), f"{path} has no docstring"
  assert "TODO" not in text
