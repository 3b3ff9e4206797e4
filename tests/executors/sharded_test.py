"""Tensor parallelism: same text, parameters really split."""

import functools

import jax
import numpy as np
import pytest

from spec_jax.executors import fused
from spec_jax.executors import sharded
from spec_jax.models import contract
from tests import toy
from tests.executors import cases


@functools.cache
def bundle(num_kv_heads=2):
  """Heads that can be split among as many devices; all biases in use."""
  model = contract.decoder_model(toy.config(
      num_heads=4, num_kv_heads=num_kv_heads, qkv_bias=True, out_bias=True,
      mlp_bias=True))
  params = toy.sharpen(model.init(jax.random.key(3)))
  draft = toy.sharpen(model.init(jax.random.key(3)), 20.0)
  return toy.ToyBundle(model, {"draft": model},
                       {"target": params, "draft": draft}, cases.END_OF_TEXT)


@pytest.mark.parametrize("name,num_devices", [
    ("specinfer", 2), ("speculative_sampling", 2), ("speculative_sampling", 4)])
def test_equals_one_device(name, num_devices):
  system, params = cases.build(name, bundle(num_devices))
  whole = fused.Fused().run(system, params, *cases.inputs())
  mesh = jax.make_mesh((num_devices,), ("model",))
  split = params.replace(target=sharded.shard_params(params.target, mesh),
                         drafter=sharded.shard_params(params.drafter, mesh))
  cases.assert_equal(fused.Fused().run(system, split, *cases.inputs()), whole)


def test_four_devices_share_everything_that_can_be_split():
  params = bundle(4).params["target"]
  mesh = jax.make_mesh((4,), ("model",))
  split = sharded.shard_params(params, mesh)
  part = lambda leaf: leaf.addressable_shards[0].data.shape
  layer = split["layers_0"]
  assert part(layer["attn"]["qkv"]["kernel"]) == (16, 1, 3, 8)
  assert part(layer["attn"]["out"]["kernel"]) == (1, 1, 8, 16)
  assert part(layer["mlp"]["up"]["kernel"]) == (16, 2, 6)
  assert part(layer["mlp"]["down"]["kernel"]) == (6, 16)
  assert part(split["head"]) == part(split["embedding"]) == (3, 16)


def test_each_device_holds_its_part():
  params = bundle().params["target"]
  mesh = jax.make_mesh((2, 2), ("data", "model"))
  split = sharded.shard_params(params, mesh)
  part = lambda leaf: leaf.addressable_shards[0].data.shape
  layer = split["layers_0"]
  assert part(layer["attn"]["qkv"]["kernel"]) == (16, 1, 4, 8)
  assert part(layer["attn"]["qkv"]["bias"]) == (1, 4, 8)
  assert part(layer["attn"]["out"]["kernel"]) == (1, 2, 8, 16)
  assert part(layer["attn"]["out"]["bias"]) == (16,)
  assert part(layer["mlp"]["up"]["kernel"]) == (16, 2, 12)
  assert part(layer["mlp"]["up"]["bias"]) == (2, 12)
  assert part(layer["mlp"]["down"]["kernel"]) == (12, 16)
  assert part(split["head"]) == part(split["embedding"]) == (6, 16)
  jax.tree.map(np.testing.assert_array_equal, split, params)


def test_heads_that_do_not_divide_stay_whole():
  specs = sharded.param_specs(bundle().params["target"], 4, "model")
  assert specs["layers_0"]["attn"]["qkv"]["kernel"] == jax.P()
  assert specs["layers_0"]["mlp"]["down"]["kernel"] == jax.P("model")


def test_missing_mesh_axis_is_named():
  mesh = jax.make_mesh((2,), ("data",))
  with pytest.raises(ValueError, match=r"axis='model' .* \('data',\)"):
    sharded.shard_params(bundle().params["target"], mesh)
