"""Threefry-2x32 written out flat: the bits of `jax.random`, in one kernel.

JAX rolls the twenty rounds into a loop on CPU, to compile faster. A decode
hashes a handful of small arrays every round, and each loop costs more than its
arithmetic. Salmon et al. 2011, "Parallel Random Numbers: As Easy as 1, 2, 3",
Sec. 4; the key schedule as in JAX, to which the tests hold it bit by bit.
"""

import jax
import jax.numpy as jnp

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA


def is_plain(key: jax.Array) -> bool:
  """Whether `jax.random` would draw from this key as this module does."""
  return (str(jax.random.key_impl(key)) == "threefry2x32"
          and jax.config.jax_threefry_partitionable)


def hash_pair(key: tuple[jax.Array, jax.Array], high: jax.Array,
              low: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Two words per counter; all arguments `u32` of shapes that broadcast."""
  schedule = (key[0], key[1], key[0] ^ key[1] ^ jnp.uint32(_PARITY))
  first, second = high + schedule[0], low + schedule[1]
  for group in range(5):
    for distance in _ROTATIONS[group % 2]:
      first = first + second
      second = first ^ (second << jnp.uint32(distance)
                        | second >> jnp.uint32(32 - distance))
    first = first + schedule[(group + 1) % 3]
    second = second + schedule[(group + 2) % 3] + jnp.uint32(group + 1)
  return first, second


def fold_in(key: jax.Array, *data) -> jax.Array:
  """`jax.random.fold_in` of each datum in turn; a scalar key, integers."""
  words = jax.random.key_data(key)
  pair = words[0], words[1]
  for datum in data:
    low = jnp.asarray(datum).astype(jnp.uint32)
    pair = hash_pair(pair, jnp.zeros_like(low), low)
  return jax.random.wrap_key_data(jnp.stack(pair), impl="threefry2x32")


def bits(key: jax.Array, size: int) -> jax.Array:
  """`jax.random.bits(key, (size,))`, `u32[size]`."""
  words = jax.random.key_data(key)
  low = jnp.arange(size, dtype=jnp.uint32)
  first, second = hash_pair(
      (words[:1], words[1:]), jnp.zeros_like(low), low)
  return first ^ second


def uniform(key: jax.Array, size: int, low: float) -> jax.Array:
  """`jax.random.uniform(key, (size,), minval=low)`, `f32[size]`."""
  mantissa = bits(key, size) >> jnp.uint32(9)
  ones = jnp.uint32(0x3F800000)
  unit = jax.lax.bitcast_convert_type(mantissa | ones, jnp.float32) - 1
  low = jnp.float32(low)
  return jnp.maximum(low, unit * (jnp.float32(1) - low) + low)
