"""Strict numerics for every test; four host devices for the mapped ones."""

import gc
import importlib.metadata
import itertools
import os

# Tests compile much and compute little: without optimisation, each in one piece
# (the workers use all cores) and with the older of two emitters of fused loops,
# programs are there in a third of the time. Later versions have one emitter
# only, and may not know these flags.
_FLAGS = ["--xla_force_host_platform_device_count=4",
          "--xla_backend_optimization_level=0",
          "--xla_llvm_disable_expensive_passes=true"]
if importlib.metadata.version("jaxlib").startswith("0.10."):
  _FLAGS += ["--xla_cpu_use_fusion_emitters=false",
             "--xla_cpu_parallel_codegen_split_count=1"]
os.environ.setdefault("XLA_FLAGS", " ".join(_FLAGS))
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax  # pylint: disable=g-import-not-at-top

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_default_matmul_precision", "highest")

import pytest  # pylint: disable=g-import-not-at-top

from experiments import cells  # pylint: disable=g-import-not-at-top
from experiments import process  # pylint: disable=g-import-not-at-top

process.trace_quickly()  # Which costs tests more than compiling.

_BY_NAME = {"conformance", "exactness"}
# What `make test-fast` leaves out, but for tests of these systems.
_SLOW = {"conformance", "drafters", "experiments", "kernels", "systems",
         "training", "mutations_test.py", "notebooks_test.py",
         "distributed_test.py", "trees_test.py"}
_ALWAYS = {"autoregressive", "speculative_sampling"}


@pytest.hookimpl(tryfirst=True)  # Before xdist reads the marks.
def pytest_collection_modifyitems(items):
  """One worker per file; where names are many, one per system or rule.

  Tests of one group share their compilations (`pytest -n 2 --dist=loadgroup`).
  """
  for item in items:
    group, rooms = item.path.name, set(item.path.parts)
    name = getattr(getattr(item, "callspec", None), "params", {}).get("name")
    if name is not None and _BY_NAME & rooms:
      group = f"{group}-{name}"
    item.add_marker(pytest.mark.xdist_group(group))
    if _SLOW & rooms and name not in _ALWAYS:
      item.add_marker(pytest.mark.slow)
  gc.freeze()  # What is imported by now stays.


_TESTS_BETWEEN_COUNTS = 20
_num_tests = itertools.count(1)


@pytest.fixture(autouse=True)
def few_compiled_programs():
  """Drops compiled programs in time."""
  yield
  if next(_num_tests) % _TESTS_BETWEEN_COUNTS == 0:
    cells.drop_programs_in_time()
