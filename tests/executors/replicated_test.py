"""Rows over devices: the same text on one, two and four of them."""

import jax
import pytest

from spec_jax.executors import replicated
from tests.executors import cases


@pytest.mark.parametrize("how,num_devices,name", [
    ("shard_map", 2, "specinfer"),
    ("shard_map", 4, "speculative_sampling"),
    ("shard_map", 4, "prompt_lookup"),
    ("pmap", 2, "speculative_sampling"),
    ("pmap", 4, "specinfer"),
    ("pmap", 2, "prompt_lookup"),
    ("shard_map", 2, "greedy_block_verification"),
    ("pmap", 2, "greedy_block_verification"),
])
def test_equals_fused(how, num_devices, name):
  # Three rows: of four devices one has nothing but padding.
  executor = replicated.Replicated(jax.devices()[:num_devices], how)
  cases.assert_equal(cases.run(executor, name), cases.expected(name))


def test_all_devices_by_default():
  executor = replicated.Replicated()
  assert hash(executor) == hash(replicated.Replicated())
  cases.assert_equal(cases.run(executor, "prompt_lookup"),
                     cases.expected("prompt_lookup"))


@pytest.mark.parametrize("arguments,message", [
    (dict(devices=()), r"devices=\(\) is empty"),
    (dict(how="xmap"), r"how='xmap', expected one of \('shard_map', 'pmap'\)"),
])
def test_bad_arguments_are_named(arguments, message):
  with pytest.raises(ValueError, match=message):
    replicated.Replicated(**arguments)
