"""What a process of this repository asks of JAX and of Python."""

import gc
import os
import pathlib

import jax

_ROOT = pathlib.Path(__file__).parent.parent
_LEAST_SECONDS = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"
_SOURCE_LINES = "JAX_TRACEBACK_IN_LOCATIONS_LIMIT"


def keep_compilations() -> None:
  """Lets JAX keep compiled programs on disk, so that a second run starts soon.

  In the folder that the Makefile also names, or the user's cache where this is
  not a checkout. Whoever configured JAX's cache is left alone.
  """
  if jax.config.jax_compilation_cache_dir is not None:
    return
  folder = _ROOT / ".cache" / "jax"
  if not (_ROOT / "Makefile").exists():
    home = os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")
    folder = pathlib.Path(home) / "spec_jax" / "jax"
  jax.config.update("jax_compilation_cache_dir", str(folder))
  if _LEAST_SECONDS not in os.environ:
    jax.config.update(_LEAST_SECONDS.lower(), 0.5)


def trace_quickly() -> None:
  """Makes tracing a seventh cheaper, for the whole process.

  Programs get no source lines (nobody reads them; whoever configured their
  number is left alone), and the collector of cycles looks less often at what
  tracing leaves behind.
  """
  if _SOURCE_LINES not in os.environ:
    jax.config.update(_SOURCE_LINES.lower(), 0)
  gc.set_threshold(500_000, 50, 50)
