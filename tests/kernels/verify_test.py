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
from spec_jax.kernels import backend as backend_lib
from spec_jax.kernels import verify_gpu
from spec_jax.kernels import verify_law
from spec_jax.kernels import verify_tpu
from spec_jax.verifiers import joint
from spec_jax.verifiers import matching
from spec_jax.verifiers import recursive
from spec_jax.verifiers import walk
from tests.kernels import interpreters
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


def make(draw, seed, step=0.0, holes=0.0, vocab=VOCAB, dtype="float32"):
  """A tree drawn from a law near the target's.

  Logits are rounded to `step`; each of the two laws lacks a part `holes` of
  the tokens.
  """
  rng = np.random.default_rng(seed)
  parents = tree_lib.static_parents(BRANCHING)
  shape = (ROWS, len(parents), vocab)
  logits = (3 * rng.normal(size=shape)).astype(np.float32)
  if step:
    logits = np.round(logits / np.float32(step)) * np.float32(step)
  q_logits = logits + rng.normal(size=shape).astype(np.float32)
  if holes:
    for array in (logits, q_logits):
      array[rng.random(shape) < holes] = -np.inf
  q = jax.nn.softmax(q_logits, -1).astype(dtype)
  tokens = np.zeros(shape[:2], np.int32)
  for row, node in np.ndindex(shape[:2]):
    children = np.flatnonzero(parents == node)
    law = np.asarray(q[row, node].astype(jnp.float32), np.float64)
    if children.size:
      tokens[row, children] = rng.choice(
          vocab, children.size, p=law / law.sum(), replace=draw == "iid")
  valid = rng.random(shape[:2]) < 0.9
  valid[:, 0] = True
  for node in range(1, len(parents)):
    valid[:, node] &= valid[:, parents[node]]
  tree = types.DraftTree(
      jnp.asarray(tokens), jnp.broadcast_to(jnp.asarray(parents), shape[:2]),
      jnp.asarray(valid), q, draw, len(BRANCHING), max(BRANCHING))
  keys = keys_lib.row_keys(seed, ROWS)
  ctx = types.Context(jnp.zeros((ROWS, 20), jnp.int32),
                      jnp.asarray([5, 9, 13], jnp.int32), keys, None, None)
  return tree, jnp.asarray(logits, dtype), ctx


def first_row(inputs):
  """One row of what `make` made."""
  return jax.tree.map(lambda leaf: leaf[:1], inputs)


@functools.cache
def walker(rule, sampling, backend):
  return jax.jit(functools.partial(
      walk.walk, RULES[rule][0], sampling, backend=backend))


@pytest.mark.parametrize("rule, sampling", CASES, ids=str)
@hypothesis.settings(max_examples=8, deadline=None, derandomize=True,
                     database=None)
@hypothesis.given(seed=st.integers(0, 10 ** 6),
                  step=st.sampled_from([0.0, 0.125, 1.0]),
                  holes=st.sampled_from([0.0, 0.3]))
def test_the_same_path_and_the_same_token(rule, sampling, seed, step, holes):
  inputs = make(RULES[rule][1], seed, step, holes)
  jax.tree.map(np.testing.assert_array_equal,
               walker(rule, sampling, "pallas")(*inputs),
               walker(rule, sampling, "xla")(*inputs))


# Of the TPU's lanes some hold no token, and most of a chunk is beyond them.
@pytest.mark.parametrize("case, vocab", zip(CASES, (300, 65, 300, 300)),
                         ids=str)
def test_vocabularies_of_any_size_draw_the_same(case, vocab):
  rule, sampling = case
  for seed in range(3):
    inputs = make(RULES[rule][1], seed, step=1.0, holes=0.3, vocab=vocab)
    assert verify_tpu.supports(rule, sampling, *inputs[:2], inputs[2].keys)
    jax.tree.map(np.testing.assert_array_equal,
                 walker(rule, sampling, "pallas")(*inputs),
                 walker(rule, sampling, "xla")(*inputs))


def test_what_pads_a_vocabulary_is_never_drawn():
  tree, logits, ctx = make("iid", 0, vocab=300)
  # Zeros pad it, far above all tokens; next to the last the rest is nothing.
  logits = jnp.full_like(logits, -200).at[..., -1].set(-50)
  verdict = walker("match", CASES[2][1], "pallas")(tree, logits, ctx)
  np.testing.assert_array_equal(verdict.next_token, 299)


# Rows of tiles of 512 tokens, of 256 (even size) and of 128 (odd size), none a
# multiple of them; the largest takes several steps.
GPU_CASES = [
    (*CASES[0], VOCAB, "float32"),
    (*CASES[1], 1001, "float32"),
    (*CASES[2], 4100, "bfloat16"),
    (*CASES[3], 1002, "bfloat16"),
    ("match", sampling_lib.GREEDY, 4099, "float32"),
]


@functools.cache
def gpu_walker(rule, sampling, **options):
  kernel = functools.partial(verify_gpu.walk, **options)
  fn = jax.jit(functools.partial(walk.walk_on_chip, kernel, rule, sampling))
  return lambda tree, logits, ctx: fn(tree, logits, ctx.keys, ctx.length)


# On a Hopper GPU (JAX_PLATFORMS=cuda,cpu) the kernel itself runs; the
# interpreter takes long to bring several groups together.
on_gpu = {} if backend_lib.has_hopper() else {
    "interpret": interpreters.InterpretGPUParams(), "num_groups": 1}


@pytest.mark.parametrize("rule, sampling, vocab, dtype", GPU_CASES, ids=str)
@hypothesis.settings(max_examples=4, deadline=None, derandomize=True,
                     database=None)
@hypothesis.given(seed=st.integers(0, 10 ** 6),
                  step=st.sampled_from([0.0, 1.0]),
                  holes=st.sampled_from([0.0, 0.3]))
def test_gpu_kernel_draws_the_same(rule, sampling, vocab, dtype, seed, step,
                                   holes):
  inputs = make(RULES[rule][1], seed, step, holes, vocab, dtype)
  assert verify_gpu.supports(rule, sampling, *inputs[:2])
  jax.tree.map(np.testing.assert_array_equal,
               gpu_walker(rule, sampling, **on_gpu)(*inputs),
               walker(rule, sampling, "xla")(*inputs))


# A vocabulary of today: no multiple of the GPU's tiles, and with sums over
# many steps. Both rows emit a token that needs more than 16 bits; the first
# has many equal tokens at the thresholds.
@pytest.mark.parametrize("platform, case, seed, step", [
    ("tpu", CASES[3], 0, 1.0), ("gpu", CASES[0], 1, 0.0)], ids=str)
def test_large_vocabularies_draw_the_same(platform, case, seed, step):
  rule, sampling = case
  inputs = first_row(make(RULES[rule][1], seed, step, vocab=128_256))
  verdict = (walker(rule, sampling, "pallas") if platform == "tpu"
             else gpu_walker(rule, sampling, **on_gpu))(*inputs)
  assert verdict.count[0] > 1 and verdict.next_token[0] > 2 ** 16
  jax.tree.map(np.testing.assert_array_equal, verdict,
               walker(rule, sampling, "xla")(*inputs))


def test_groups_of_the_gpu_kernel_share_the_work_without_races():
  inputs = first_row(make("iid", 3))
  interpreters.reset()
  verdict = gpu_walker(
      "iid", CASES[0][1], interpret=interpreters.InterpretGPUParams(
          detect_races=True))(*inputs)
  jax.tree.map(np.testing.assert_array_equal, verdict,
               walker("iid", CASES[0][1], "xla")(*inputs))
  assert not interpreters.get_races().races_found


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


@pytest.mark.parametrize("num_bits", [1, 2, 4])
@pytest.mark.parametrize("k", [1, 5, 900])
def test_ordered_bits_are_searched_to_the_kth_largest(k, num_bits):
  x = np.random.default_rng(k).normal(size=1000).astype(np.float32)
  x[::7] = -np.inf
  x[1::9] = 0.25
  bits = verify_law.ordered(jnp.asarray(x))
  above = lambda thresholds: [(bits >= t).sum() >= k for t in thresholds]
  found = verify_law.largest(above, -2 ** 31, 32, num_bits)
  assert found == verify_law.ordered(jnp.sort(jnp.asarray(x))[-k])


@pytest.mark.parametrize("platform", ["tpu", "gpu"])
def test_rows_with_nan_end(platform):
  tree, logits, ctx = make("iid", 0)
  walk_fn = (walker(*CASES[0], "pallas") if platform == "tpu"
             else gpu_walker(*CASES[0], **on_gpu))
  verdict = walk_fn(tree, logits.at[1].set(jnp.nan), ctx)
  assert 1 <= verdict.count[1] <= tree.depth + 1
  assert 0 <= verdict.next_token[1] < VOCAB
  clean = walk_fn(tree, logits, ctx)
  assert verdict.next_token[0] == clean.next_token[0]


def _shapes(vocab, num_nodes=16, batch=4, dtype=jnp.float32):
  """Shapes of a walk's arguments, without arrays."""
  shape = lambda dtype, *axes: jax.ShapeDtypeStruct(axes, dtype)
  grid = shape(jnp.int32, batch, num_nodes)
  laws = shape(dtype, batch, num_nodes, vocab)
  tree = types.DraftTree(grid, grid, shape(bool, batch, num_nodes), laws,
                         "iid", 4, 3)
  keys = jax.eval_shape(lambda: keys_lib.row_keys(0, batch))
  return tree, laws, types.Context(
      grid, shape(jnp.int32, batch), keys, None, None)


@pytest.mark.parametrize("vocab, dtype, has_tpu", [
    (32_000, jnp.float32, True), (151_936, jnp.float32, True),
    (2 ** 18, jnp.float32, True), (50_257, jnp.float32, True),
    (128_256, jnp.bfloat16, False)], ids=str)
def test_lowers_to_a_kernel(vocab, dtype, has_tpu):
  fn = functools.partial(walk.walk, recursive.Recursive(), CASES[-1][1],
                         backend="pallas")
  shapes = _shapes(vocab, dtype=dtype)
  for platform, is_kernel in (("tpu", has_tpu), ("cuda", True)):
    text = lowering.lower(platform, fn, *shapes)
    assert (lowering.KERNEL[platform] in text) == is_kernel


@pytest.mark.parametrize("rule", ["match", "without_replacement"])
@pytest.mark.parametrize("vocab", [32_000, 256_000])
def test_every_rule_lowers_to_a_kernel(rule, vocab):
  # Shaping is the same for all rules.
  fn = functools.partial(walk.walk, RULES[rule][0], CASES[0][1],
                         backend="pallas")
  for platform in ("tpu", "cuda"):
    text = lowering.lower(platform, fn, *_shapes(vocab))
    assert lowering.KERNEL[platform] in text


def test_greedy_lowers_to_a_kernel_on_a_gpu_only():
  fn = functools.partial(walk.walk, recursive.Recursive(), sampling_lib.GREEDY,
                         backend="pallas")
  for platform, is_kernel in (("tpu", False), ("cuda", True)):
    text = lowering.lower(platform, fn, *_shapes(32_000))
    assert (lowering.KERNEL[platform] in text) == is_kernel


@pytest.mark.parametrize("backend, is_kernel", [
    ("auto", False), ("pallas", True)])
def test_on_a_gpu_the_kernel_must_be_asked_for(monkeypatch, backend,
                                               is_kernel):
  monkeypatch.setattr(backend_lib.jax, "default_backend", lambda: "gpu")
  monkeypatch.setattr(backend_lib, "has_hopper", lambda: True)
  fn = functools.partial(walk.walk, recursive.Recursive(), CASES[0][1],
                         backend=backend)
  text = lowering.lower("cuda", fn, *_shapes(32_000))
  assert (lowering.KERNEL["cuda"] in text) == is_kernel


PENALTY = sampling_lib.Sampling(1.0, repetition_penalty=1.2)


@pytest.mark.parametrize("vocab, sampling", [
    (2 ** 18 + 1, CASES[0][1]), (1280, sampling_lib.GREEDY),
    (1280, PENALTY)], ids=str)
def test_falls_back(vocab, sampling):
  tree, laws, ctx = _shapes(vocab)
  assert not verify_tpu.supports("iid", sampling, tree, laws, ctx.keys)


@pytest.mark.parametrize("vocab, sampling, dtype", [
    (500, CASES[0][1], jnp.float32), (2 ** 18 + 4, CASES[0][1], jnp.float32),
    (1280, PENALTY, jnp.float32), (1280, CASES[0][1], jnp.float16)], ids=str)
def test_gpu_falls_back(vocab, sampling, dtype):
  tree, laws, _ = _shapes(vocab, dtype=dtype)
  assert not verify_gpu.supports("iid", sampling, tree, laws)
  assert not verify_gpu.supports(None, sampling, tree, laws)


def test_a_backend_is_chosen_for_the_plain_walk_only():
  for backend in ("pallas", "xla"):
    assert walk.on(backend, walk.walk) == walk.Walk(backend)
    assert walk.on(backend, walk.Walk("xla")) == walk.Walk(backend)
    assert walk.on(backend, joint.walk) is joint.walk
  assert walk.on("auto", walk.Walk("xla")) is walk.walk
  assert walk.is_plain(walk.walk) and walk.is_plain(walk.Walk("pallas"))
  assert not walk.is_plain(joint.walk)
  with pytest.raises(ValueError, match="'triton'.*auto"):
    walk.on("triton", joint.walk)


def test_a_walk_of_choice_is_hashed_by_value():
  assert walk.Walk("xla") == walk.Walk("xla") != walk.Walk("pallas")
  assert hash(walk.Walk("xla")) == hash(walk.Walk("xla"))
  with pytest.raises(ValueError, match="'triton'.*auto"):
    walk.Walk("triton")(matching.SampleAndMatch(), CASES[0][1],
                        *make("iid", 0))
