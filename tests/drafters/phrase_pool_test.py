"""The pool against a dictionary of lists."""

import collections

import hypothesis
from hypothesis import strategies as st
import jax.numpy as jnp

from spec_jax.drafters import phrase_pool

VOCAB, PER_KEY = 3, 2


def contents(pool, row):
  """What the pool holds, newest first, by token."""
  return {key: [tuple(phrase) for phrase in pool.phrases[row, key].tolist()
                if phrase[0] >= 0] for key in range(pool.phrases.shape[1])}


_insert = st.tuples(st.integers(0, VOCAB - 1),
                    st.tuples(st.integers(0, 1), st.integers(0, 1)),
                    st.booleans())


@hypothesis.given(inserts=st.lists(
    st.tuples(_insert, _insert), min_size=12, max_size=12))
@hypothesis.settings(deadline=None, max_examples=40, derandomize=True)
def test_keeps_the_most_recent_of_each_key(inserts):
  model = [collections.defaultdict(list) for _ in range(2)]
  for step in inserts:
    for row, (key, phrase, is_real) in enumerate(step):
      if is_real:
        kept = [p for p in model[row][key] if p != phrase]
        model[row][key] = [phrase, *kept][:PER_KEY]
  columns = [jnp.asarray([[step[row][i] for step in inserts]
                          for row in range(2)]) for i in range(3)]
  pool = phrase_pool.empty(2, VOCAB, PER_KEY, 2).insert_all(
      columns[0].astype(jnp.int32), columns[1].astype(jnp.int32), columns[2])
  for row in range(2):
    assert contents(pool, row) == {
        key: model[row][key] for key in range(VOCAB)}
  for key in range(VOCAB):
    found, exists = pool.lookup(jnp.full((2,), key))
    assert exists.sum(-1).tolist() == [len(m[key]) for m in model]
    assert [tuple(p) for p in found[0][exists[0]].tolist()] == model[0][key]
