"""One batch over several devices: every device decodes its own rows.

The same pure function `decoding.decode` runs under `jax.pmap`, or under `jit`
and `jax.shard_map`. A row never looks at another one, so devices do not talk
and each stops when its own rows have.
"""

import dataclasses
import functools
from typing import Any

import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp
import numpy as np

from spec_jax.executors import decoding

_ROWS = "rows"
_HOWS = ("shard_map", "pmap")


@dataclasses.dataclass(frozen=True)
class Replicated:
  """Parameters on every device, rows split over the devices.

  Attributes:
    devices: default: all of them with "shard_map" (also those of other
      processes, which must make the same call with the same prompts), the
      local ones with "pmap".
    how: "shard_map" or "pmap".
  """

  devices: tuple[jax.Device, ...] | None = None
  how: str = "shard_map"

  def __post_init__(self):
    if self.how not in _HOWS:
      raise ValueError(f"how={self.how!r}, expected one of {_HOWS}.")
    if self.devices is not None:
      object.__setattr__(self, "devices", tuple(self.devices))
      if not self.devices:
        raise ValueError("devices=() is empty, expected at least one device of"
                         " jax.devices(), or None for all.")

  def run(self, system, params, prompts, keys, max_new_tokens,
          capacity=None) -> decoding.Decoded:
    """Decodes a batch to the end; arguments as of `fused.Fused.run`.

    Drafters with `needs.memory` learn nothing here across requests.

    Raises:
      IncompatibleParts: the drafter needs the host.
    """
    decoding.check_on_device(system, self)
    capacity = decoding.capacity_for(prompts, max_new_tokens, capacity)
    devices = self.devices or tuple(
        jax.local_devices() if self.how == "pmap" else jax.devices())
    num_rows = prompts.tokens.shape[0]
    batch = _pad(prompts, keys, max_new_tokens, -num_rows % len(devices))
    run = _run_pmap if self.how == "pmap" else _run_shard_map
    decoded = run(system, params, batch, capacity, devices)
    return jax.tree.map(lambda a: a[:num_rows], decoded)


def _pad(prompts, keys, max_new_tokens, num_pads
         ) -> tuple[decoding.Prompts, jax.Array, jax.Array]:
  """Adds rows whose budget is spent from the start: they never run."""
  budgets = jnp.broadcast_to(
      jnp.asarray(max_new_tokens, jnp.int32), prompts.length.shape)
  pad = lambda a: jnp.pad(a, ((0, num_pads),) + ((0, 0),) * (a.ndim - 1))
  padded = decoding.Prompts(
      pad(prompts.tokens), jnp.maximum(pad(prompts.length), 1))
  # A row keeps the key it was given, whichever device it lands on.
  keys = jnp.concatenate([keys, jnp.repeat(keys[:1], num_pads, axis=0)])
  return padded, keys, pad(budgets)


def _run_shard_map(system, params, batch, capacity, devices):
  mesh = jax.sharding.Mesh(np.asarray(devices), (_ROWS,))
  whole = jax.sharding.NamedSharding(mesh, jax.P())
  split = jax.sharding.NamedSharding(mesh, jax.P(_ROWS))
  prompts, keys, budgets = batch
  # `device_put` does not know how to give keys to other processes.
  keys = jax.make_array_from_callback(
      keys.shape, split, lambda index: batch[1][index])
  decoded = _shard_mapped(
      system, jax.device_put(params, whole), jax.device_put(prompts, split),
      keys, jax.device_put(budgets, split), capacity, devices)
  if all(a.is_fully_addressable for a in jax.tree.leaves(decoded)):
    return decoded
  return multihost_utils.process_allgather(decoded, tiled=True)


@functools.partial(jax.jit, static_argnums=(0, 5, 6))
def _shard_mapped(system, params, prompts, keys, budgets, capacity, devices):
  mesh = jax.sharding.Mesh(np.asarray(devices), (_ROWS,))
  split = jax.P(_ROWS)
  # The loop's carry starts equal on all devices and does not stay so, which
  # the checker of replication refuses to see.
  decode = jax.shard_map(
      functools.partial(_decode, system, capacity), mesh=mesh,
      in_specs=(jax.P(), split, split, split), out_specs=split,
      check_vma=False)
  return decode(params, prompts, keys, budgets)


def _run_pmap(system, params, batch, capacity, devices):
  count = len(devices)
  split = jax.tree.map(
      lambda a: a.reshape((count, a.shape[0] // count) + a.shape[1:]), batch)
  decoded = _pmapped(devices)(system, capacity, params, *split)
  return jax.tree.map(
      lambda a: a.reshape((-1,) + a.shape[2:]), decoded)


@functools.cache
def _pmapped(devices) -> Any:
  return jax.pmap(
      _decode, devices=devices, static_broadcasted_argnums=(0, 1),
      in_axes=(None, None, None, 0, 0, 0))


def _decode(system, capacity, params, prompts, keys, budgets):
  return decoding.decode(system, params, prompts, keys, budgets, capacity)
