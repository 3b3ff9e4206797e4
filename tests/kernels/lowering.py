"""Lowers for accelerators on a machine that has none."""

import jax
import jax.numpy as jnp

from spec_jax.kernels import tree_attention as lib

# The custom call that a kernel becomes.
KERNEL = {"tpu": "tpu_custom_call", "cuda": "mosaic_gpu"}


def lower(platform, fn, *shapes) -> str:
  """The program for `platform`, as text."""
  lowered = jax.jit(fn).trace(*shapes).lower(lowering_platforms=(platform,))
  return lowered.as_text()


def shapes(case):
  """Shapes of the arguments of a case of tree attention, without arrays."""
  shape = lambda dtype, *axes: jax.ShapeDtypeStruct(axes, jnp.dtype(dtype))
  batch, heads, size, dtype = case.batch, case.heads, case.size, case.dtype
  num_fresh = case.num_past + case.num_nodes
  fresh = shape(dtype, batch, heads, num_fresh, size)
  stored, table = shape(dtype, batch, heads, case.capacity, size), None
  if case.page is not None:
    num_pages = case.capacity // case.page
    stored = shape(dtype, batch * num_pages, heads, case.page, size)
    table = shape("int32", batch, num_pages)
  prefix = lib.Prefix(stored, stored, shape("int32", batch), table)
  return (shape(dtype, batch, heads, case.num_nodes, case.groups, size), fresh,
          fresh, shape(bool, batch, case.num_nodes, num_fresh), prefix,
          shape("int32", batch, case.num_nodes))
