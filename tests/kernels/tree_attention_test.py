"""Tree attention: reference and kernels against an oracle in float64."""

import functools

import hypothesis
from hypothesis import strategies as st
import jax
from jax.experimental.pallas import tpu as pltpu
import jax.numpy as jnp
import numpy as np
import pytest

from spec_jax.kernels import backend as backend_lib
from spec_jax.kernels import tree_attention as lib
from spec_jax.kernels import tree_attention_gpu as gpu
from spec_jax.kernels import tree_attention_tpu as tpu
from tests.kernels import cases
from tests.kernels import interpreters
from tests.kernels import lowering

TOLERANCE = {"float32": 2e-5, "bfloat16": 3e-2, "float16": 4e-3}


# Float32 in two bfloat16 each, the product of the small ones left out.
SPLIT_TOLERANCE = 1e-4


def check(case, attend_fn, lengths=None, tolerance=None):
  arrays = case.arrays(lengths)
  out, log_sums = jax.jit(functools.partial(
      attend_fn, options=case.options))(*arrays)
  assert out.dtype == arrays[0].dtype and log_sums.dtype == jnp.float32
  expected, expected_sums = cases.oracle(case, *arrays)
  seen = np.isfinite(expected_sums)
  assert np.isfinite(np.asarray(out, np.float32)).all()
  assert (np.asarray(log_sums)[~seen] <= lib.MASKED / 2).all()
  tolerance = tolerance or TOLERANCE[case.dtype]
  np.testing.assert_allclose(np.asarray(out, np.float64)[seen], expected[seen],
                             rtol=tolerance, atol=tolerance)
  np.testing.assert_allclose(
      np.asarray(log_sums)[seen], expected_sums[seen], rtol=1e-5,
      atol=max(2e-5, tolerance) if case.dtype == "float32" else 2e-5)


on_tpu = functools.partial(tpu.attend, interpret=True)
# On a Hopper GPU (JAX_PLATFORMS=cuda,cpu) the kernel itself runs.
interpreted_on_gpu = functools.partial(
    gpu.attend, interpret=interpreters.InterpretGPUParams())
on_gpu = (functools.partial(gpu.attend, interpret=None)
          if backend_lib.has_hopper() else interpreted_on_gpu)

ragged = st.builds(
    cases.Case,
    batch=st.just(3),
    groups=st.sampled_from([1, 3]),
    size=st.sampled_from([8, 80]),
    num_nodes=st.sampled_from([1, 7]),
    num_past=st.sampled_from([0, 31]),
    capacity=st.just(96),
    page=st.sampled_from([None, 16, 32]),
    window=st.sampled_from([0, 7, 40]),
    softcap=st.sampled_from([0.0, 2.0]),
    num_splits=st.sampled_from([None, 2, 3]),
    dtype=st.sampled_from(["float32", "bfloat16"]),
    seed=st.integers(0, 99))
few = hypothesis.settings(max_examples=5, deadline=None, derandomize=True,
                          database=None)


@few
@hypothesis.given(ragged)
def test_reference_equals_oracle(case):
  check(case, lib.reference)


@few
@hypothesis.given(ragged)
def test_tpu_kernel_equals_oracle(case):
  check(case, on_tpu)


# The GPU's tiles are larger: 64 keys a step, 64 queries, 16 bits.
ragged_on_gpu = st.builds(
    cases.Case,
    heads=st.just(1),
    groups=st.sampled_from([1, 3]),
    size=st.sampled_from([16, 48, 64]),
    num_nodes=st.sampled_from([1, 7, 30]),
    num_past=st.sampled_from([0, 40]),
    capacity=st.sampled_from([64, 192]),
    page=st.sampled_from([None, 16, 64]),
    window=st.sampled_from([0, 7, 90]),
    softcap=st.sampled_from([0.0, 2.0]),
    num_splits=st.sampled_from([None, 2]),
    dtype=st.sampled_from(["float32", "bfloat16", "float16"]),
    seed=st.integers(0, 99))


def check_on_gpu(case):
  queries, keys, *_, prefix, _ = lowering.shapes(case)
  assert gpu.supports(queries, keys, prefix)
  check(case, on_gpu, tolerance=SPLIT_TOLERANCE if case.dtype == "float32"
        else None)


@few
@hypothesis.given(ragged_on_gpu)
def test_gpu_kernel_equals_oracle_on_ragged_cases(case):
  check_on_gpu(case)


GPU_CASES = [
    cases.Case(size=80, capacity=96, page=32, dtype="bfloat16", window=40,
               softcap=2.0, num_nodes=40, num_past=31, heads=1, seed=1),
    cases.Case(size=144, capacity=128, page=64, dtype="float16", num_splits=3,
               batch=1, heads=1, seed=2),
    cases.Case(size=32, capacity=152, dtype="float32", num_nodes=7, heads=1,
               window=90, seed=3),
]


def test_gpu_kernel_leaves_caches_of_odd_size_to_xla():
  case = cases.Case(size=64, capacity=150, dtype="bfloat16")
  queries, keys, *_, prefix, _ = lowering.shapes(case)
  assert not gpu.supports(queries, keys, prefix)
  text = lowering.lower("cuda", functools.partial(
      lib.tree_attention, backend="pallas"), *lowering.shapes(case))
  assert lowering.KERNEL["cuda"] not in text


@pytest.mark.parametrize("case", GPU_CASES, ids=str)
def test_gpu_kernel_equals_oracle(case):
  check_on_gpu(case)


# Sizes of large models. Above 128 the GPU kernel takes 16 bits only.
@pytest.mark.parametrize("platform, size, dtype", [
    ("tpu", 96, "bfloat16"), ("tpu", 128, "float32"), ("tpu", 256, "float32"),
    ("tpu", 256, "bfloat16"),
    ("gpu", 96, "float32"), ("gpu", 128, "float32"), ("gpu", 128, "bfloat16"),
    ("gpu", 256, "bfloat16")])
def test_large_heads_equal_oracle(platform, size, dtype):
  case = cases.Case(batch=1, heads=1, size=size, capacity=72, dtype=dtype)
  check_on_gpu(case) if platform == "gpu" else check(case, on_tpu)


def test_float32_above_128_has_no_kernel_for_gpus():
  case = cases.Case(size=144)
  queries, keys, *_, prefix, _ = lowering.shapes(case)
  assert not gpu.supports(queries, keys, prefix)
  assert tpu.supports(queries, keys, prefix)


@pytest.mark.parametrize("attend_fn", [lib.reference, on_tpu, on_gpu],
                         ids=["reference", "tpu", "gpu"])
def test_empty_full_and_block_sized_prefixes(attend_fn):
  case = cases.Case(batch=4, heads=1, capacity=120, num_splits=2,
                    dtype="bfloat16")
  check(case, attend_fn, lengths=[0, 120, 64, 65])


def spoil(prefix, is_bad):
  """NaN in the slots `is_bad[B, S]` of a contiguous prefix."""
  put = lambda a: jnp.where(is_bad[:, None, :, None], jnp.nan, a)
  return prefix.replace(keys=put(prefix.keys), values=put(prefix.values))


@pytest.mark.parametrize("attend_fn", [on_tpu, on_gpu], ids=["tpu", "gpu"])
def test_nothing_beyond_the_length_counts(attend_fn):
  lengths = np.array([20, 100])
  case = cases.Case(heads=1, capacity=128, dtype="bfloat16")
  *arrays, prefix, positions = case.arrays(lengths)
  attend = jax.jit(functools.partial(attend_fn, options=lib.Options()))
  clean = attend(*arrays, prefix, positions)
  dirty = attend(*arrays, spoil(prefix, np.arange(128) >= lengths[:, None]),
                 positions)
  jax.tree.map(np.testing.assert_array_equal, clean, dirty)


STRICT = {"tpu": functools.partial(tpu.attend,
                                    interpret=pltpu.InterpretParams()),
          "gpu": interpreted_on_gpu}


@pytest.mark.parametrize("platform", sorted(STRICT))
def test_blocks_beyond_the_length_are_not_read(platform):
  case = cases.Case(heads=1, capacity=192, page=64, dtype="bfloat16",
                    num_splits=2)
  lengths = np.array([64, 70])
  *arrays, prefix, positions = case.arrays(lengths)
  attend = jax.jit(functools.partial(STRICT[platform], options=case.options))
  clean = attend(*arrays, prefix, positions)
  # Reading a page that does not exist is an error, or gives NaN.
  unused = np.arange(3) * 64 >= lengths[:, None]
  nowhere = prefix.replace(table=jnp.where(unused, 10 ** 6, prefix.table))
  jax.tree.map(np.testing.assert_array_equal, clean,
               attend(*arrays, nowhere, positions))
  used = prefix.replace(table=jnp.where(unused, prefix.table, 10 ** 6))
  try:
    is_clean = np.array_equal(clean[0], attend(*arrays, used, positions)[0])
  except Exception as error:  # Of which kind differs between the versions.
    is_clean = "out of bounds" not in str(error).lower().replace("-", " ")
  assert not is_clean
  pltpu.reset_tpu_interpret_mode_state()
  interpreters.reset()


def test_parts_join_to_the_whole():
  case = cases.Case(size=8, capacity=64, batch=3)
  whole = lib.reference(*case.arrays(), options=case.options)
  parts = on_tpu(*case.arrays(), options=lib.Options(num_splits=4, block=16))
  for a, b in zip(whole, parts):
    np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)


LOWERED = [
    cases.Case(size=64, capacity=4096, dtype="bfloat16"),
    cases.Case(size=80, capacity=1000, dtype="bfloat16", num_splits=3),
    cases.Case(size=96, capacity=2048, page=16, dtype="bfloat16", window=100),
    cases.Case(size=128, capacity=65536, num_nodes=64, groups=8,
               dtype="bfloat16"),
    cases.Case(size=256, capacity=2048, page=128, softcap=30.0,
               dtype="bfloat16", num_past=64),
    cases.Case(size=192, capacity=1024, num_nodes=128, groups=8,
               dtype="bfloat16"),
    cases.Case(size=128, capacity=2048, page=16, window=100, softcap=30.0),
]


@pytest.mark.parametrize("case", LOWERED, ids=str)
@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_lowers_to_a_kernel(platform, case):
  text = lowering.lower(platform, functools.partial(
      lib.tree_attention, options=case.options, backend="pallas"),
      *lowering.shapes(case))
  assert lowering.KERNEL[platform] in text


@pytest.mark.parametrize("size, on_cuda", [
    (128, True), (192, False), (256, False)])
def test_float32_lowers_where_it_fits(size, on_cuda):
  case = cases.Case(size=size, capacity=1024)
  attend = functools.partial(lib.tree_attention, backend="pallas")
  for platform, is_kernel in (("tpu", True), ("cuda", on_cuda)):
    text = lowering.lower(platform, attend, *lowering.shapes(case))
    assert (lowering.KERNEL[platform] in text) == is_kernel


@pytest.mark.parametrize("dtype, capacity, is_kernel", [
    ("float32", 1, True), ("bfloat16", 1, False), ("bfloat16", 2, True),
    ("bfloat16", 3, True)])
def test_the_smallest_caches_lower_on_a_tpu(dtype, capacity, is_kernel):
  case = cases.Case(capacity=capacity, dtype=dtype)
  attend = functools.partial(lib.tree_attention, backend="pallas")
  text = lowering.lower("tpu", attend, *lowering.shapes(case))
  assert (lowering.KERNEL["tpu"] in text) == is_kernel


@pytest.mark.parametrize("page, size, num_nodes, is_taken", [
    (512, 256, 128, True), (1024, 64, 128, False), (1024, 128, 16, True),
    (1024, 256, 16, False), (12, 64, 16, False)])
def test_pages_beyond_what_a_step_holds_are_left_to_xla(page, size, num_nodes,
                                                        is_taken):
  case = cases.Case(capacity=12288, page=page, size=size, num_nodes=num_nodes,
                    groups=8)
  queries, keys, _, _, prefix, _ = lowering.shapes(case)
  assert tpu.supports(queries, keys, prefix) == is_taken


def test_xla_never_lowers_to_a_kernel():
  case = cases.Case(size=128, capacity=1024, dtype="bfloat16")
  attend = functools.partial(lib.tree_attention, backend="xla")
  for platform in ("tpu", "cuda"):
    text = lowering.lower(platform, attend, *lowering.shapes(case))
    assert lowering.KERNEL[platform] not in text


@pytest.mark.parametrize("is_hopper", [True, False])
def test_gpus_of_other_kinds_are_left_to_xla(monkeypatch, is_hopper):
  monkeypatch.setattr(backend_lib.jax, "default_backend", lambda: "gpu")
  monkeypatch.setattr(backend_lib, "has_hopper", lambda: is_hopper)
  shapes = lowering.shapes(cases.Case(size=64, dtype="bfloat16"))
  for backend in ("auto", "pallas"):
    text = lowering.lower("cuda", functools.partial(
        lib.tree_attention, backend=backend), *shapes)
    assert (lowering.KERNEL["cuda"] in text) == is_hopper


@pytest.mark.parametrize("backend, is_kernel", [
    ("auto", False), ("pallas", True)])
def test_float32_on_a_gpu_must_be_asked_for(monkeypatch, backend, is_kernel):
  monkeypatch.setattr(backend_lib.jax, "default_backend", lambda: "gpu")
  monkeypatch.setattr(backend_lib, "has_hopper", lambda: True)
  shapes = lowering.shapes(cases.Case(size=64, dtype="float32"))
  text = lowering.lower("cuda", functools.partial(
      lib.tree_attention, backend=backend), *shapes)
  assert (lowering.KERNEL["cuda"] in text) == is_kernel


def test_auto_is_xla_on_a_cpu_and_pallas_is_interpreted():
  case = cases.Case(size=8, capacity=32, batch=1)
  arrays = case.arrays()
  asked = lib.tree_attention(*arrays, backend="pallas")
  for a, b in zip(asked, lib.reference(*arrays)):
    np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)
  jaxpr = jax.make_jaxpr(functools.partial(
      lib.tree_attention, backend="auto"))(*arrays)
  assert "pallas_call" not in str(jaxpr)


def test_odd_shapes_fall_back():
  case = cases.Case(size=12, capacity=30, page=10, batch=1)
  arrays = case.arrays()
  assert not tpu.supports(*arrays[:2], arrays[4])
  assert not gpu.supports(*arrays[:2], arrays[4])
  check(case, functools.partial(lib.tree_attention, backend="pallas"))


def test_unknown_backend():
  arrays = cases.Case(size=8, capacity=32, batch=1).arrays()
  with pytest.raises(ValueError, match="triton.*auto.*pallas.*xla"):
    lib.tree_attention(*arrays, backend="triton")
