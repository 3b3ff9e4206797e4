"""Weights of 8 bits: how far off, how small, and what is left alone."""

import numpy as np

from spec_jax.models import part_file


def _flat():
  generator = np.random.default_rng(0)
  columns = 10.0 ** generator.uniform(-3, 1, 64)
  return part_file.flat_16_bits({
      "out": {"kernel": generator.normal(size=(32, 2, 64)) * columns,
              "bias": generator.normal(size=5000)},
      "small": generator.normal(size=(4, 4)),
      "zeros": np.zeros((64, 64), np.float32),
      "table": np.arange(10000, dtype=np.int32).reshape(100, 100)})


def test_each_column_is_off_by_half_a_level_at_most():
  flat = _flat()
  kernel = flat["out/kernel"].astype(np.float32)
  found = part_file.unpacked(part_file.packed(flat))["out/kernel"]
  most = np.abs(kernel).max((0, 1))
  # The scale itself is rounded to 16 bits, which the last level feels in full.
  assert (np.abs(found - kernel).max((0, 1)) <= most * (0.5 / 127 + 1e-3)).all()
  # One scale for all columns would lose the small ones altogether.
  assert np.abs(found).max((0, 1)).min() > 0


def test_vectors_small_matrices_and_integers_stay_exact():
  flat = _flat()
  found = part_file.unpacked(part_file.packed(flat))
  assert found.keys() == flat.keys()
  for name in ("out/bias", "small", "zeros", "table"):
    np.testing.assert_array_equal(found[name], flat[name])
  assert found["table"].dtype == np.int32
  assert found["out/kernel"].dtype == np.float32


def test_levels_may_have_16_bits():
  """As sums of rows have that were packed before."""
  packed = part_file.packed(_flat())
  levels = packed["out/kernel"].astype(np.int16)
  twice = part_file.unpacked({**packed, "out/kernel": 2 * levels})
  np.testing.assert_array_equal(
      twice["out/kernel"], 2 * part_file.unpacked(packed)["out/kernel"])


def test_file_is_half_the_size(tmp_path):
  tree = {"kernel": np.ones((256, 256), np.float32)}
  sizes = [part_file.write(tmp_path, f"bits_{bits}", {}, tree, "a", bits)
           .stat().st_size for bits in (16, 8)]
  assert sizes[1] < 0.52 * sizes[0]
  np.testing.assert_allclose(
      part_file.read(tmp_path / "heads/bits_8.safetensors", "a")[1]["kernel"],
      1.0, rtol=1e-3)
