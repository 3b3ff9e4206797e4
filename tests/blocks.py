"""What block drafters must do, written down without caches."""

import functools

import jax
import numpy as np

from spec_jax.core import compiling
from spec_jax.models import block_net
from spec_jax.training import blocks
from tests import features

_WIDTH = 32


@functools.partial(jax.jit, static_argnums=0,
                   compiler_options=compiling.ONCE)
def _read(model, params, tokens, read, offset):
  return blocks.read_text(model, params, tokens, read, offset)


def run_pairs(model, params, tokens, read):
  """All pairs at once, the last k of them a block."""
  size = len(tokens)
  padded = np.zeros((1, _WIDTH), np.int32)
  padded[0, :size] = tokens
  wide = np.zeros((1, _WIDTH, read.shape[1]), np.float32)
  wide[0, :size] = read
  return jax.device_get(_read(
      model, params, padded, wide, np.int32(size % model.block)))


def rollout(model, params, text, path):
  """Logits `[len(path) + 1, V]` after a text and each token behind it.

  Everything is run again for every block.
  """
  tokens, read = features.pairs(model, params, text)
  path, found = np.asarray(path, np.int32), []
  for begin in range(0, len(path) + 1, model.block):
    out = run_pairs(model, params, tokens, read)
    last = slice(len(tokens) - model.block, len(tokens))
    found += list(out.logits[0, last])
    tokens = np.append(tokens, path[begin:begin + model.block])
    guesses = out.taps["hidden"][0, last]
    read = np.concatenate([read, guesses])[:len(tokens)]
  return np.stack(found[:len(path) + 1])


def assert_memory_is_that_of_the_text(model, params, state, tokens, length):
  """Keys, values and recurrence of a `BlockState` between two rounds."""
  for row, size in enumerate(length):
    known, lacking = int(state.stable.length[row]), int(state.count[row])
    if size < 2:
      assert known == 0
      continue
    own, read = features.pairs(
        model, params, np.asarray(tokens)[row, :size])
    if lacking:
      assert known + lacking == size - 1
      np.testing.assert_allclose(
          state.features[row, :lacking], read[known:], atol=1e-4)
    if not known:
      assert not np.asarray(state.memory[row]).any()
      continue
    out = run_pairs(model, params, own, read)
    np.testing.assert_allclose(
        state.memory[row], out.taps[block_net.MEMORY][0, known - 1], atol=1e-4)
    for ours, theirs in zip(state.stable.k + state.stable.v,
                            out.fresh.k + out.fresh.v):
      np.testing.assert_allclose(
          ours[row, :, :known], theirs[0, :, :known], atol=1e-4)
