"""Strict numerics for every test; two host devices for the mapped ones."""

import os

os.environ.setdefault(
    "XLA_FLAGS", "--xla_force_host_platform_device_count=4")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax  # pylint: disable=g-import-not-at-top

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_default_matmul_precision", "highest")

import pytest  # pylint: disable=g-import-not-at-top


def pytest_collection_modifyitems(items):
  """One worker per file; conformance rows go by system, which may be many.

  Tests of one group share their compilations (`pytest -n 2 --dist=loadgroup`).
  """
  for item in items:
    group = item.path.name
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    if "conformance" in item.path.parts and "name" in parameters:
      group = f"conformance-{parameters['name']}"
    item.add_marker(pytest.mark.xdist_group(group))
