"""Products of wide numbers with narrow weights, and decoding with such."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import spec_jax
from spec_jax import systems
from spec_jax.core import keys as keys_lib
from spec_jax.core import sampling as sampling_lib
from spec_jax.evaluation import equality
from spec_jax.executors import hosted
from spec_jax.models import contract
from spec_jax.models import products
from tests import toy
from tests.executors import cases

SHORT = jnp.bfloat16
X, KERNEL = (np.asarray(jax.random.normal(jax.random.key(seed), shape))
             for seed, shape in ((0, (2, 3, 4, 5)), (1, (4, 5, 2, 3))))


def rounded(a):
  return np.asarray(jnp.asarray(a, SHORT), np.float64)


def test_factors_are_of_the_narrower_type_and_sums_of_float32():
  expected = np.einsum("btij,ijkl->btkl", rounded(X), rounded(KERNEL))
  for x, kernel, tolerance in (
      (jnp.asarray(X), jnp.asarray(KERNEL, SHORT), 1e-6),
      (jnp.asarray(X, SHORT), jnp.asarray(KERNEL), 1e-2)):
    found = products.matmul(x, kernel, 2)
    assert found.dtype == x.dtype  # The second is rounded once more.
    np.testing.assert_allclose(
        np.asarray(found, np.float64), expected, tolerance, tolerance)


def test_gradients_take_narrow_factors_too():
  loss = lambda x, kernel: (products.matmul(x, kernel, 2) ** 2).sum()
  of_x, of_kernel = jax.grad(loss, (0, 1))(
      jnp.asarray(X), jnp.asarray(KERNEL, SHORT))
  assert of_x.dtype == jnp.float32 and of_kernel.dtype == SHORT
  grad = rounded(2 * np.einsum(
      "btij,ijkl->btkl", rounded(X), rounded(KERNEL)))
  np.testing.assert_allclose(
      of_x, np.einsum("btkl,ijkl->btij", grad, rounded(KERNEL)), .02, .02)
  np.testing.assert_allclose(
      np.asarray(of_kernel, np.float64),
      np.einsum("btkl,btij->ijkl", grad, rounded(X)), .02, .05)


def test_a_single_row_is_that_row_among_others():
  x, kernel = jnp.asarray(X, SHORT)[:1], jnp.asarray(KERNEL, SHORT)
  table = kernel.reshape(4, -1)
  flat = jnp.tile(x[..., 0, :], 6)
  for product, rows in ((lambda x: products.matmul(x, kernel, 2), x),
                        (lambda x: products.logits(x, table), flat)):
    np.testing.assert_allclose(
        np.asarray(product(rows[:, :1]), np.float32),
        np.asarray(product(rows), np.float32)[:, :1], 1e-6)


def test_matrices_are_narrowed_and_vectors_are_not():
  model = contract.decoder_model(toy.config(num_layers=1, qkv_bias=True))
  params = jax.jit(model.init)(jax.random.key(0))
  narrow = products.narrowed(params, SHORT)
  types = {path[-1].key: leaf.dtype
           for path, leaf in jax.tree.leaves_with_path(narrow)}
  assert types == {"embedding": SHORT, "head": SHORT, "kernel": SHORT,
                   "scale": jnp.float32, "bias": jnp.float32}
  assert products.precision(jnp.float32, params) == 2.0 ** -23
  assert products.precision(jnp.float32, narrow) == 2.0 ** -7
  with pytest.raises(ValueError, match="float16.*range.*bfloat16"):
    products.narrowed(params, jnp.float16)


@pytest.mark.parametrize("name", [
    "speculative_sampling", "prompt_lookup", "eagle_3", "medusa_1", "fr_spec",
    "glide", "draft_and_verify"])
def test_drafts_change_no_text_of_a_target_with_narrow_weights(name):
  wide = toy.bundle()
  bundle = dataclasses.replace(wide, params={
      **wide.params,
      "target": products.narrowed(wide.params["target"], SHORT)})
  texts = [_greedy(bundle, each) for each in ("autoregressive", name)]
  found = equality.first_difference(
      *texts, model=bundle.target, params=bundle.params["target"])
  assert found is None or found.is_near_tie, found.explain()
  assert any(len(set(text[-8:])) > 3 for text in texts[0])  # Emitted ones.


def _greedy(bundle, name):
  """Prompts with their greedy texts."""
  system, params = systems.build(name, bundle)
  return cases.texts(hosted.executor_for(system).run(
      system.with_sampling(sampling_lib.GREEDY), params, toy.prompts((4, 7)),
      keys_lib.row_keys(0, 2), 8))


def test_a_bundle_narrows_its_target_only():
  bundle = spec_jax.load_bundle("tiny-python").with_target_weights(SHORT)
  assert bundle.params["target"]["embedding"].dtype == SHORT
  assert bundle.params["draft"]["embedding"].dtype == jnp.float32
  assert bundle.target.dtype == jnp.float32
