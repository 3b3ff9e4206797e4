"""A target of its own: what a system changes in the weights of a bundle's.

Hu et al. 2021 (LoRA), Sec. 4.1: to a weight `W` is added a product `a b` of two
thin factors, the second of which starts at zero; here it is not scaled. A
*change* is a tree of some of the target's parameters: where it holds a pair of
factors their product is added, an array takes the parameter's place.
"""

import math
from typing import Any

from flax import traverse_util
import jax
import jax.numpy as jnp

from spec_jax.models import decoder

CHANGE = "target"  # Under this key a part holds the change of its target.
_FACTORS = {"a", "b"}


def init(key: jax.Array, params: Any, rank: int) -> Any:
  """Factors for all linear maps of a decoder's layers, that change nothing yet.

  Args:
    key: consumed.
    params: of the decoder.
    rank: of each product.

  Returns:
    A change. Of a kernel `[*in, *out]` the factors are a normal `a`
    `f32[*in, rank]` of variance 1 / in, and a zero `b` `f32[rank, *out]`.

  Raises:
    ValueError: a rank that is not below that of some map.
  """
  factors = {}
  for path, kernel in traverse_util.flatten_dict(params).items():
    num_in = decoder.INPUT_AXES.get(path[-2]) if path[-1] == "kernel" else None
    if num_in is None:
      continue
    read, written = kernel.shape[:num_in], kernel.shape[num_in:]
    size, num_out = math.prod(read), math.prod(written)
    if not 1 <= rank < min(size, num_out):
      raise ValueError(
          f"rank={rank}: {'/'.join(path)} maps {size} values to {num_out},"
          f" expected 1 to {min(size, num_out) - 1}.")
    key, own = jax.random.split(key)
    factors[path] = {
        "a": jax.random.normal(own, read + (rank,)) * size ** -0.5,
        "b": jnp.zeros((rank,) + written)}
  return traverse_util.unflatten_dict(factors)


def merged(params: Any, change: Any) -> Any:
  """The parameters with a change in them; pure, and differentiable in it.

  Args:
    params: of a model.
    change: see the module.

  Raises:
    ValueError: a change of what the model does not have, or of another shape.
  """
  flat = traverse_util.flatten_dict(params)
  changes = traverse_util.flatten_dict(
      change, is_leaf=lambda path, tree: set(tree) == _FACTORS)
  for path, own in changes.items():
    if path not in flat:
      raise ValueError(
          f"the change of {'/'.join(path)} has no place in this target, which"
          f" has {', '.join(sorted(map('/'.join, flat))[:3])}, ...")
    old, is_pair = flat[path], isinstance(own, dict)
    own = _product(path, **own) if is_pair else own
    if own.shape != old.shape:
      raise ValueError(
          f"the change of {'/'.join(path)} has shape {own.shape}, the target's"
          f" has {old.shape}.")
    own = old.astype(jnp.float32) + own if is_pair else own
    flat[path] = own.astype(old.dtype)
  return traverse_util.unflatten_dict(flat)


def _product(path, a, b):
  if a.shape[-1] != b.shape[0]:
    raise ValueError(
        f"the factors of {'/'.join(path)} have shapes {a.shape} and {b.shape},"
        " expected the last axis of one to be as long as the other's first.")
  return jnp.tensordot(a, b, 1)


def adapted(params: Any, name: str) -> Any:
  """A bundle's parameters with the target that one of its parts brings.

  Args:
    params: by name; the target's under "target".
    name: of the part. What it holds under `CHANGE` goes into the target.

  Raises:
    ValueError: there is no such part, or it does not bring a target.
  """
  if CHANGE not in params.get(name, {}):
    raise ValueError(
        f"a target of its own is expected in the part {name!r}; there are the"
        f" parameters of {sorted(params)}, those that bring a target are"
        f" {sorted(k for k, v in params.items() if CHANGE in v)}.")
  part = dict(params[name])
  change = part.pop(CHANGE)
  return {**params, "target": merged(params["target"], change), name: part}
