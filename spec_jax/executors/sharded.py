"""Tensor parallelism: parameters laid over a mesh, the program unchanged.

Heads, hidden units and vocabulary rows are split; XLA's partitioner adds the
two sums per layer (Shoeybi et al. 2019, Megatron-LM, Sec. 3). The fused
executor then runs as it is on the placed parameters.
"""

from typing import Any

import jax
from jax.sharding import NamedSharding

# Which axis of a parameter is split, by the last names of its path: kv heads
# K of `qkv [E, K, G+2, C]` and `out [K, G, C, E]`, hidden units F of
# `up [E, ways, F]` and `down [F, E]`, tokens V of the vocabulary `[V, E]`.
_SPLIT_AXIS = {
    ("qkv", "kernel"): 1,
    ("qkv", "bias"): 0,
    ("out", "kernel"): 0,
    ("up", "kernel"): 2,
    ("up", "bias"): 1,
    ("down", "kernel"): 0,
    ("embedding",): 0,
    ("head",): 0,
}


def shard_params(params: Any, mesh: jax.sharding.Mesh, axis: str = "model"
                 ) -> Any:
  """Places the parameters of a `models.decoder.Decoder` on a mesh.

  A parameter whose split axis the mesh does not divide (few kv heads) stays
  whole on every device, as does everything small.

  Args:
    params: of one model.
    mesh: its other axes hold copies.
    axis: the mesh axis to split over.

  Raises:
    ValueError: the mesh has no such axis.
  """
  if axis not in mesh.shape:
    raise ValueError(f"axis={axis!r} is not an axis of the mesh, which has"
                     f" {tuple(mesh.shape)}.")
  # The partitioner decides about everything in between: axes must be Auto,
  # whatever the type the caller made the mesh with.
  mesh = jax.sharding.Mesh(mesh.devices, mesh.axis_names)
  specs = param_specs(params, mesh.shape[axis], axis)
  return jax.tree.map(
      lambda leaf, spec: jax.device_put(leaf, NamedSharding(mesh, spec)),
      params, specs)


def param_specs(params: Any, size: int, axis: str) -> Any:
  """How each parameter is split `size` ways: a pytree of `PartitionSpec`."""

  def spec(path, leaf):
    names = tuple(entry.key for entry in path)
    split = _SPLIT_AXIS.get(names[-2:], _SPLIT_AXIS.get(names[-1:]))
    if split is None or leaf.shape[split] % size:
      return jax.P()
    return jax.P(*(None,) * split, axis)

  return jax.tree_util.tree_map_with_path(spec, params)
