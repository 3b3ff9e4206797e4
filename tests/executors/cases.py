"""Small decodes that every executor must reproduce."""

import functools

import jax
import numpy as np

from spec_jax import systems
from spec_jax.core import keys as keys_lib
from spec_jax.core import sampling as sampling_lib
from spec_jax.executors import decoding
from spec_jax.executors import fused
from tests import toy

# A sampled tree, a greedy chain with a cache of its own, a sampled draft that
# needs no model, and a rule with a state of its own.
CASES = {
    "specinfer": (0.8, dict(branching=(2, 1))),
    "speculative_sampling": (0.0, dict(depth=2)),
    "prompt_lookup": (0.8, dict(depth=3)),
    "greedy_block_verification": (0.8, dict(depth=3)),
}
END_OF_TEXT = 10
MAX_NEW = 14
LENGTHS = (1, 7, 4)


def build(name, bundle=None):
  temperature, hyper = CASES[name]
  system, params = systems.build(
      name, bundle or toy.pair(END_OF_TEXT), **hyper)
  return system.with_sampling(sampling_lib.Sampling(temperature)), params


def inputs():
  """Prompts, row keys and budget: three rows, so that 2 and 4 do not fit."""
  return toy.prompts(LENGTHS), keys_lib.row_keys(0, len(LENGTHS)), MAX_NEW


@functools.cache
def expected(name) -> decoding.Decoded:
  return run(fused.Fused(), name)


def run(executor, name) -> decoding.Decoded:
  return jax.device_get(executor.run(*build(name), *inputs()))


def assert_equal(actual, wanted):
  jax.tree.map(np.testing.assert_array_equal, actual, wanted)


def text(decoded, row) -> list[int]:
  return np.asarray(decoded.tokens)[row, :int(decoded.length[row])].tolist()


def texts(decoded) -> list[list[int]]:
  return [text(decoded, row) for row in range(len(decoded.length))]
