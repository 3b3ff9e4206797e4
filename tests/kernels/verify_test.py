"""The verification kernel draws what the walk in plain JAX draws."""

import functools

import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spec_jax.core import keys as keys_lib
from spec_jax.core import sampling as sampling_lib
from spec_jax.core import tree as tree_lib
from spec_jax.core import types
from spec_jax.kernels import verify_tpu
from spec_jax.verifiers import matching
from spec_jax.verifiers import recursive
from spec_jax.verifiers import walk
from tests.kernels import lowering

VOCAB, ROWS, BRANCHING = 1280, 3, (3, 2)
RULES = {
    "match": (matching.SampleAndMatch(), "iid"),
    "iid": (recursive.Recursive(), "iid"),
    "without_replacement": (recursive.RecursiveWithoutReplacement(),
                            "without_replacement"),
}
CASES = [
    ("iid", sampling_lib.Sampling(0.7)),
    ("without_replacement", sampling_lib.Sampling(1.0, top_p=0.8)),
    ("match", sampling_lib.Sampling(1.0, top_k=7)),
    ("without_replacement", sampling_lib.Sampling(
        0.9, top_k=50, top_p=0.9, min_p=0.02)),
]


def make(draw, seed, step=0.0):
  """A tree drawn from a law near the target's; logits rounded to `step`."""
  rng = np.random.default_rng(seed)
  parents = tree_lib.static_parents(BRANCHING)
  shape = (ROWS, len(parents), VOCAB)
  logits = (3 * rng.normal(size=shape)).astype(np.float32)
  if step:
    logits = np.round(logits / np.float32(step)) * np.float32(step)
  q = np.asarray(jax.nn.softmax(
      logits + rng.normal(size=shape).astype(np.float32), -1))
  tokens = np.zeros(shape[:2], np.int32)
  for row, node in np.ndindex(shape[:2]):
    children = np.flatnonzero(parents == node)
    law = q[row, node].astype(np.float64)
    if children.size:
      tokens[row, children] = rng.choice(
          VOCAB, children.size, p=law / law.sum(), replace=draw == "iid")
  valid = rng.random(shape[:2]) < 0.9
  valid[:, 0] = True
  for node in range(1, len(parents)):
    valid[:, node] &= valid[:, parents[node]]
  tree = types.DraftTree(
      jnp.asarray(tokens), jnp.broadcast_to(jnp.asarray(parents), shape[:2]),
      jnp.asarray(valid), jnp.asarray(q), draw, len(BRANCHING), max(BRANCHING))
  keys = keys_lib.row_keys(seed, ROWS)
  ctx = types.Context(jnp.zeros((ROWS, 20), jnp.int32),
                      jnp.asarray([5, 9, 13], jnp.int32), keys, None, None)
  return tree, jnp.asarray(logits), ctx


@functools.cache
def walker(rule, sampling, backend):
  return jax.jit(functools.partial(
      walk.walk, RULES[rule][0], sampling, backend=backend))


@pytest.mark.parametrize("rule, sampling", CASES, ids=str)
@hypothesis.settings(max_examples=8, deadline=None, derandomize=True,
                     database=None)
@hypothesis.given(seed=st.integers(0, 10 ** 6),
                  step=st.sampled_from([0.0, 0.125, 1.0]))
def test_the_same_path_and_the_same_token(rule, sampling, seed, step):
  inputs = make(RULES[rule][1], seed, step)
  jax.tree.map(np.testing.assert_array_equal,
               walker(rule, sampling, "pallas")(*inputs),
               walker(rule, sampling, "xla")(*inputs))


def test_the_cases_reach_every_depth():
  counts = np.concatenate([
      walker("iid", CASES[0][1], "xla")(*make("iid", seed)).count
      for seed in range(12)])
  assert set(counts.tolist()) == {1, 2, 3}


def test_clocks_are_those_of_the_sampler():
  key = jax.random.key(7)
  words = jax.lax.bitcast_convert_type(jax.random.key_data(key), jnp.int32)
  clocks = verify_tpu._clocks(words[0], words[1], jnp.arange(5000))
  np.testing.assert_array_equal(clocks, sampling_lib.clocks(key, 5000))


@pytest.mark.parametrize("k", [1, 5, 900])
def test_ordered_bits_bisect_to_the_kth_largest(k):
  x = np.random.default_rng(k).normal(size=1000).astype(np.float32)
  x[::7] = -np.inf
  x[1::9] = 0.25
  above = lambda t: (verify_tpu._ordered(jnp.asarray(x)) >= t).sum() >= k
  found = verify_tpu._bisect(above, -2 ** 31 + 1, 2 ** 31 - 1)
  assert found == verify_tpu._ordered(jnp.sort(jnp.asarray(x))[-k])


def test_rows_with_nan_end():
  tree, logits, ctx = make("iid", 0)
  verdict = walker(*CASES[0], "pallas")(
      tree, logits.at[1].set(jnp.nan), ctx)
  assert 1 <= verdict.count[1] <= tree.depth + 1
  assert 0 <= verdict.next_token[1] < VOCAB
  clean = walker(*CASES[0], "pallas")(tree, logits, ctx)
  assert verdict.next_token[0] == clean.next_token[0]


def _shapes(vocab, num_nodes=16, batch=4):
  """Shapes of a walk's arguments, without arrays."""
  shape = lambda dtype, *axes: jax.ShapeDtypeStruct(axes, dtype)
  grid = shape(jnp.int32, batch, num_nodes)
  laws = shape(jnp.float32, batch, num_nodes, vocab)
  tree = types.DraftTree(grid, grid, shape(bool, batch, num_nodes), laws,
                         "iid", 4, 3)
  keys = jax.eval_shape(lambda: keys_lib.row_keys(0, batch))
  return tree, laws, types.Context(
      grid, shape(jnp.int32, batch), keys, None, None)


@pytest.mark.parametrize("vocab", [32_000, 151_936, 2 ** 18])
def test_lowers_to_a_kernel_on_a_tpu_only(vocab):
  fn = functools.partial(walk.walk, recursive.Recursive(), CASES[-1][1],
                         backend="pallas")
  shapes = _shapes(vocab)
  for platform, is_kernel in (("tpu", True), ("cuda", False)):
    text = lowering.lower(platform, fn, *shapes)
    assert (lowering.KERNEL[platform] in text) == is_kernel


@pytest.mark.parametrize("vocab, sampling", [
    (50_257, sampling_lib.Sampling(1.0)), (1280, sampling_lib.GREEDY),
    (1280, sampling_lib.Sampling(1.0, repetition_penalty=1.2))], ids=str)
def test_falls_back(vocab, sampling):
  tree, laws, ctx = _shapes(vocab)
  assert not verify_tpu.supports("iid", sampling, tree, laws, ctx.keys)


def test_a_walk_of_choice_is_hashed_by_value():
  assert walk.Walk("xla") == walk.Walk("xla") != walk.Walk("pallas")
  assert hash(walk.Walk("xla")) == hash(walk.Walk("xla"))
  with pytest.raises(ValueError, match="'triton'.*auto"):
    walk.Walk("triton")(matching.SampleAndMatch(), CASES[0][1],
                        *make("iid", 0))
