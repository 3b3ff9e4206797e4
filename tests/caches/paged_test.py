"""The paged cache holds what the dense one holds, wherever its pages lie."""

import dataclasses

import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spec_jax import systems
from spec_jax.caches import dense
from spec_jax.caches import paged
from spec_jax.core import keys as keys_lib
from spec_jax.core import sampling as sampling_lib
from spec_jax.core import types
from spec_jax.executors import fused
from spec_jax.kernels import tree_attention
from tests import toy

ROWS, NODES, SLOTS, CAPACITY, PAGE = 3, 5, 4, 10, 5

_per_row = lambda values: st.lists(values, min_size=ROWS, max_size=ROWS)
_commits = st.tuples(
    _per_row(st.integers(0, SLOTS)),
    _per_row(st.lists(st.integers(0, NODES - 1), min_size=SLOTS,
                      max_size=SLOTS)))
_truncations = _per_row(st.integers(0, CAPACITY))


def fresh_kv(model, seed):
  rng = np.random.default_rng(seed)
  c = model.config
  draw = lambda: tuple(
      jnp.asarray(rng.normal(size=(ROWS, c.num_kv_heads, NODES, c.head_dim)),
                  model.dtype) for _ in range(c.num_layers))
  return types.FreshKV(draw(), draw(), jnp.zeros((ROWS, NODES), jnp.int32))


_commit = jax.jit(lambda cache, *args: cache.commit(*args))


@hypothesis.given(st.permutations(range(ROWS * CAPACITY // PAGE)),
                  st.lists(_commits | _truncations, max_size=6))
@hypothesis.settings(deadline=None, max_examples=20, derandomize=True)
def test_equals_the_dense_cache(order, operations):
  model = toy.bundle().target
  flat = dense.empty(model, ROWS, CAPACITY)
  pages = paged.empty(model, ROWS, CAPACITY, PAGE)
  pages = pages.replace(
      table=jnp.asarray(order, jnp.int32).reshape(pages.table.shape))
  for seed, operation in enumerate(operations):
    if isinstance(operation, tuple):
      counts, paths = (jnp.asarray(a, jnp.int32) for a in operation)
      fresh = fresh_kv(model, seed)
      flat = _commit(flat, fresh, paths, counts)
      pages = _commit(pages, fresh, paths, counts)
    else:
      cut = jnp.asarray(operation, jnp.int32)
      flat, pages = flat.truncate(cut), pages.truncate(cut)
  np.testing.assert_array_equal(flat.length, pages.length)
  assert flat.capacity == pages.capacity
  for layer in range(model.config.num_layers):
    for buffer, stored in zip(flat.view(layer), pages.view(layer)[:2]):
      np.testing.assert_array_equal(
          buffer, tree_attention.gather(stored, pages.table))


def test_rows_may_share_a_page_that_is_full():
  model = toy.bundle().target
  cache = paged.empty(model, ROWS, CAPACITY, PAGE)
  fresh = fresh_kv(model, 0)
  path = jnp.broadcast_to(jnp.arange(NODES)[None], (ROWS, NODES))
  count = jnp.full((ROWS,), NODES, jnp.int32)
  cache = cache.commit(fresh, path, count)
  shared = cache.replace(table=cache.table.at[1, 0].set(cache.table[0, 0]))
  before = tree_attention.gather(shared.k[0], shared.table)
  after = shared.commit(fresh, path, count)
  now = tree_attention.gather(after.k[0], after.table)
  np.testing.assert_array_equal(before[:, :, :PAGE], now[:, :, :PAGE])
  np.testing.assert_array_equal(now[0, :, :PAGE], now[1, :, :PAGE])
  np.testing.assert_array_equal(now[1, :, PAGE:], fresh.k[0][1])


def test_bad_page_size():
  with pytest.raises(ValueError, match="page_size=0"):
    paged.empty(toy.bundle().target, 1, 8, 0)


def test_a_decode_from_pages_writes_the_same_text():
  system, params = systems.build("speculative_sampling", toy.bundle(), depth=2)
  system = system.with_sampling(sampling_lib.GREEDY)
  inputs = (params, toy.prompts((1, 7, 4)), keys_lib.row_keys(0, 3), 9)
  texts = []
  for make_cache in (dense.empty, paged.Paged(8)):
    decoded = fused.Fused().run(
        dataclasses.replace(system, make_cache=make_cache), *inputs)
    texts.append((np.asarray(decoded.tokens)[:, :16],
                  np.asarray(decoded.length)))
  jax.tree.map(np.testing.assert_array_equal, *texts)
  assert paged.Paged(8) == paged.Paged(8) != paged.Paged(16)
