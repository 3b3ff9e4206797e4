"""The token counter."""

import jax
import jax.numpy as jnp
import numpy as np

from spec_jax.core import counts as counts_lib
from spec_jax.core import types


def step_info(active, drafted, reached, accepted, emitted):
  return types.StepInfo(*(jnp.asarray(a, jnp.int32) for a in (
      active, drafted, reached, accepted, emitted)))


def test_rounds_add_up_row_by_row():
  counts = counts_lib.zero(2, 2)
  counts = counts_lib.add(counts, step_info(
      [1, 1], [[2, 2], [1, 0]], [[1, 1], [1, 0]], [[1, 1], [0, 0]], [3, 1]))
  counts = counts_lib.add(counts, step_info(
      [1, 0], [[2, 1], [0, 0]], [[1, 1], [0, 0]], [[1, 0], [0, 0]], [2, 0]))
  assert counts.target_calls.tolist() == [2, 1]
  assert counts.emitted.tolist() == [5, 1]
  assert counts.drafted.tolist() == [[4, 3], [1, 0]]
  assert counts.reached.tolist() == [[2, 2], [1, 0]]
  assert counts.accepted.tolist() == [[2, 1], [0, 0]]
  assert counts.histogram.tolist() == [[0, 1, 1], [1, 0, 0]]


def test_stopped_rows_count_nothing():
  # A stopped row's verdict is still computed; whatever it says is void.
  counts = counts_lib.add(counts_lib.zero(1, 1), step_info(
      [0], [[0]], [[1]], [[1]], [0]))
  assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(counts))


def test_without_draft_there_is_no_depth():
  counts = counts_lib.add(counts_lib.zero(1, 0), step_info(
      [1], np.zeros((1, 0)), np.zeros((1, 0)), np.zeros((1, 0)), [1]))
  assert counts.histogram.tolist() == [[1]]
  assert counts.accepted.shape == (1, 0)


def test_buffers_are_separate_so_that_all_can_be_donated():
  leaves = jax.tree.leaves(counts_lib.zero(3, 2))
  pointers = {leaf.unsafe_buffer_pointer() for leaf in leaves}
  assert len(pointers) == len(leaves)
