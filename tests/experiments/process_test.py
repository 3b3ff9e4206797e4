"""What a process asks of JAX, and that a user's own wishes go before."""

import pathlib

import jax
import pytest

from experiments import process


@pytest.fixture
def cache_folder():
  """Where JAX keeps programs; as before, afterwards."""
  names = ("jax_compilation_cache_dir",
           "jax_persistent_cache_min_compile_time_secs")
  before = {name: getattr(jax.config, name) for name in names}
  yield lambda: jax.config.jax_compilation_cache_dir
  for name, value in before.items():
    jax.config.update(name, value)


def test_programs_are_kept_where_the_makefile_keeps_them(cache_folder):
  jax.config.update("jax_compilation_cache_dir", None)
  process.keep_compilations()
  root = pathlib.Path(__file__).parents[2]
  assert pathlib.Path(cache_folder()) == root / ".cache" / "jax"
  assert "$(CURDIR)/.cache/jax" in (root / "Makefile").read_text()


def test_a_cache_of_ones_own_is_left_alone(cache_folder):
  jax.config.update("jax_compilation_cache_dir", "/some/where")
  process.keep_compilations()
  assert cache_folder() == "/some/where"


def test_source_lines_that_were_asked_for_stay(monkeypatch):
  name = "jax_traceback_in_locations_limit"
  before = getattr(jax.config, name)
  try:
    monkeypatch.delenv(name.upper(), raising=False)
    jax.config.update(name, 7)
    process.trace_quickly()
    assert getattr(jax.config, name) == 0
    monkeypatch.setenv(name.upper(), "7")
    jax.config.update(name, 7)
    process.trace_quickly()
    assert getattr(jax.config, name) == 7
  finally:
    jax.config.update(name, before)
