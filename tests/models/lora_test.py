"""Changes of a target: what they add, what they replace, where they fit."""

import functools

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spec_jax import systems
from spec_jax.models import contract
from spec_jax.models import lora
from tests import toy

MODEL = contract.decoder_model(toy.config())
TOKENS = jnp.asarray([[3, 1, 4, 1, 5, 9, 2, 6]])


def params():
  return toy.bundle().params["target"]


@functools.cache
def factors(rank=2):
  return lora.init(jax.random.key(0), params(), rank)


def random_factors():
  return toy.randomised(factors())


@jax.jit
def logits_of(own):
  return MODEL.score(own, TOKENS).logits


def test_new_factors_change_nothing():
  assert jnp.abs(factors()["layers_0"]["mlp"]["up"]["kernel"]["a"]).min() > 0
  jax.tree.map(np.testing.assert_array_equal, params(),
               lora.merged(params(), factors()))
  np.testing.assert_array_equal(
      logits_of(params()), logits_of(lora.merged(params(), factors())))


def test_all_linear_maps_of_the_layers_have_thin_factors():
  found = factors(3)
  assert set(found) == {"layers_0", "layers_1"}
  for layer, block in found.items():
    for sub, names in (("attn", {"qkv", "out"}), ("mlp", {"up", "down"})):
      assert set(block[sub]) == names
      for name in names:
        kernel = params()[layer][sub][name]["kernel"]
        a, b = (block[sub][name]["kernel"][side] for side in "ab")
        assert a.shape[-1] == b.shape[0] == 3
        assert a.shape[:-1] + b.shape[1:] == kernel.shape
  # `a x` is as large as `x`: one over the number of inputs, on average.
  wide = lora.init(jax.random.key(1), {"layers_0": {"mlp": {"up": {
      "kernel": jnp.zeros((400, 2, 300))}}}}, 64)
  assert float(wide["layers_0"]["mlp"]["up"]["kernel"]["a"].var()) == (
      pytest.approx(1 / 400, rel=.05))


def low_rank_forward(own, change):
  """The logits where each map runs twice: its kernel, and its two factors.

  A map is intercepted where it is applied, so that no kernel is ever changed.
  """
  def run(next_fn, args, kwargs, context):
    out = next_fn(*args, **kwargs)
    pair = change
    for name in context.module.path:
      pair = pair.get(name, {}) if isinstance(pair, dict) else {}
    if "kernel" not in pair:
      return out
    a, b = pair["kernel"]["a"], pair["kernel"]["b"]
    inner = jnp.tensordot(args[0], a, a.ndim - 1)
    return out + jnp.tensordot(inner, b, 1)

  with nn.intercept_methods(run):
    return MODEL.score(own, TOKENS).logits


def test_merged_weights_are_both_forwards_together():
  change = random_factors()
  found = logits_of(lora.merged(params(), change))
  np.testing.assert_allclose(
      found, low_rank_forward(params(), change), atol=2e-3, rtol=2e-4)
  assert jnp.abs(found - logits_of(params())).max() > 1


def test_arrays_take_a_parameters_place():
  other = MODEL.init(jax.random.key(5))
  jax.tree.map(np.testing.assert_array_equal, other,
               lora.merged(params(), other))
  head = lora.merged(params(), {"head": other["head"]})
  np.testing.assert_array_equal(head["head"], other["head"])
  np.testing.assert_array_equal(head["embedding"], params()["embedding"])


def test_a_merged_weight_keeps_its_dtype():
  narrow = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params())
  found = lora.merged(narrow, random_factors())
  assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {
      jnp.dtype(jnp.bfloat16)}


def pair(first, second):
  return {"a": jnp.zeros(first), "b": jnp.zeros(second)}


@pytest.mark.parametrize("change, message", [
    ({"layers_9": {"mlp": {"up": {"kernel": pair((16, 2), (2, 2, 24))}}}},
     "change of layers_9/mlp/up/kernel has no place in this target, which has"
     " embedding"),
    ({"layers_0": {"mlp": {"up": {"kernel": pair((16, 2), (2, 24))}}}},
     r"layers_0/mlp/up/kernel has shape \(16, 24\), the target's has"
     r" \(16, 2, 24\)"),
    ({"layers_0": {"mlp": {"up": {"kernel": pair((16, 2), (3, 2, 24))}}}},
     r"factors of layers_0/mlp/up/kernel have shapes \(16, 2\) and \(3, 2, 24"),
    ({"head": jnp.zeros((3, 16))}, r"head has shape \(3, 16\)"),
])
def test_changes_that_do_not_fit_are_named(change, message):
  with pytest.raises(ValueError, match=message):
    lora.merged(params(), change)


@pytest.mark.parametrize("rank", [0, 16])
def test_ranks_that_are_not_low_are_named(rank):
  with pytest.raises(ValueError, match=rf"rank={rank}: .* expected 1 to 15"):
    factors(rank)


def test_the_part_that_brings_a_target_must_be_there():
  base = toy.bundle()
  with pytest.raises(ValueError, match="'medusa_1'; .* bring a target are"
                                       r" \['medusa_2'\]"):
    lora.adapted(base.params, "medusa_1")
  own = systems.bundle_of("medusa_2", base)
  with pytest.raises(ValueError, match="expected in the part 'medusa_2'"):
    systems.bundle_of("medusa_2", own)
  assert systems.bundle_of("medusa_1", base) is base
