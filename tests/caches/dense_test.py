"""The dense cache against lists: ragged commits, truncation, overflow."""

import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np

from spec_jax.caches import dense
from spec_jax.core import types
from tests import toy

ROWS, NODES, SLOTS, CAPACITY = 3, 5, 4, 10
HEADS, SIZE, LAYERS = 2, 3, 2

_per_row = lambda values: st.lists(values, min_size=ROWS, max_size=ROWS)
_commits = st.tuples(
    _per_row(st.integers(0, SLOTS)),
    _per_row(st.lists(st.integers(0, NODES - 1), min_size=SLOTS,
                      max_size=SLOTS)))
_truncations = _per_row(st.integers(0, CAPACITY))


def empty() -> dense.DenseCache:
  zeros = lambda: tuple(
      jnp.zeros((ROWS, HEADS, CAPACITY, SIZE)) for _ in range(LAYERS))
  return dense.DenseCache(zeros(), zeros(), jnp.zeros((ROWS,), jnp.int32))


def fresh_kv(label, counts, paths):
  """Every number different; not a number where nothing was accepted."""
  rng = np.random.default_rng(label)
  shape = (LAYERS, 2, ROWS, HEADS, NODES, SIZE)
  values = rng.normal(size=shape).astype(np.float32)
  for row, (count, path) in enumerate(zip(counts, paths)):
    rejected = [n for n in range(NODES) if n not in path[:count]]
    values[:, :, row, :, rejected] = np.nan
  layer = lambda i: tuple(jnp.asarray(v) for v in values[:, i])
  positions = jnp.zeros((ROWS, NODES), jnp.int32)
  return types.FreshKV(layer(0), layer(1), positions), values


_commit = jax.jit(lambda cache, *args: cache.commit(*args))


@hypothesis.given(st.lists(_commits | _truncations, max_size=6))
@hypothesis.settings(deadline=None, max_examples=40, derandomize=True)
def test_commit_and_truncate_like_lists(operations):
  cache, texts = empty(), [[] for _ in range(ROWS)]
  for label, operation in enumerate(operations):
    if isinstance(operation, tuple):
      counts, paths = operation
      fresh, values = fresh_kv(label, counts, paths)
      cache = _commit(cache, fresh, jnp.asarray(paths, jnp.int32),
                      jnp.asarray(counts, jnp.int32))
      for row, (count, path) in enumerate(zip(counts, paths)):
        texts[row] += [values[:, :, row, :, n] for n in path[:count]]
    else:
      cache = cache.truncate(jnp.asarray(operation, jnp.int32))
      texts = [text[:stop] for text, stop in zip(texts, operation)]
  assert cache.length.tolist() == [len(text) for text in texts]
  for layer in range(LAYERS):
    for i, buffer in enumerate(cache.view(layer)):
      # Nothing rejected ever entered, in no slot.
      assert np.isfinite(buffer).all()
      for row, text in enumerate(texts):
        # What does not fit is dropped, and overwrites nothing.
        for slot, token in enumerate(text[:CAPACITY]):
          np.testing.assert_array_equal(buffer[row, :, slot], token[layer, i])


def test_count_zero_changes_nothing():
  fresh, _ = fresh_kv(0, [SLOTS] * ROWS, [list(range(SLOTS))] * ROWS)
  path = jnp.broadcast_to(jnp.arange(SLOTS)[None], (ROWS, SLOTS))
  before = empty().commit(fresh, path, jnp.asarray([1, 2, 0], jnp.int32))
  after = before.commit(fresh, path, jnp.zeros((ROWS,), jnp.int32))
  jax.tree.map(np.testing.assert_array_equal, before, after)


def test_truncate_never_lengthens():
  cache = empty().replace(length=jnp.asarray([3, 1, 0], jnp.int32))
  cut = cache.truncate(jnp.asarray([2, 5, 0], jnp.int32))
  assert cut.length.tolist() == [2, 1, 0]


def test_empty_has_the_shape_of_the_model():
  model = toy.bundle().target
  cache = dense.empty(model, 2, 7)
  assert cache.capacity == 7 and len(cache.k) == len(cache.v) == 2
  assert cache.view(0)[0].shape == (2, 1, 7, 8)
  assert cache.view(1)[1].dtype == model.dtype
  assert cache.length.tolist() == [0, 0]
