"""Falcon: what a faithful implementation must show."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spec_jax import systems
from spec_jax.core import keys as keys_lib
from spec_jax.core import sampling as sampling_lib
from spec_jax.executors import fused
from spec_jax.models import block_model
from spec_jax.models import block_net
from spec_jax.systems.features import falcon
from spec_jax.training import blocks
from tests import toy

BRANCHING = (2, (2, 1), (1, 0, 1))


def decode(name, bundle, temperature=0.7):
  system, params = systems.build(name, bundle, branching=BRANCHING)
  return jax.device_get(fused.Fused().run(
      system.with_sampling(sampling_lib.Sampling(temperature)), params,
      toy.prompts(), keys_lib.row_keys(0, 4), 12))


def test_blocks_of_one_without_a_recurrence_are_eagle_1():
  bundle = toy.bundle()
  ours = toy.ToyBundle(
      bundle.target, bundle.models,
      {**bundle.params, "falcon": bundle.params["eagle_2"]},
      heads={**bundle.heads, "falcon": {"block": 1, "num_recurrent": 0}})
  jax.tree.map(np.testing.assert_array_equal,
               decode("falcon", ours), decode("eagle_1", bundle))


def read(offset, block=3, changed=None):
  """What is said of ten pairs, one of which may be another."""
  bundle = toy.bundle()
  model = block_model.from_hyper(bundle.target, "net", {"block": block})
  params = {"target": bundle.params["target"],
            "net": model.init(jax.random.key(0))}
  tokens = np.arange(10, dtype=np.int32)[None]
  given = np.asarray(jax.random.normal(jax.random.key(1), (1, 10, 16)))
  if changed is not None:
    given = given.copy()
    given[0, changed] += 1
  return np.asarray(
      blocks.read_text(model, params, tokens, given, offset).logits[0])


@pytest.mark.parametrize("offset", [0, 1, 2])
def test_a_block_sees_itself_and_what_is_before_it(offset):
  whole, pairs = read(offset), np.arange(10)
  ends = np.asarray(block_net.end_of_block(pairs, 3, offset))
  assert (ends >= pairs).all() and (ends - pairs < 3).all()
  assert ((ends - offset + 1) % 3 == 0).all()
  for changed in (0, 4, 5, 9):
    moved = np.abs(read(offset, changed=changed) - whole).max(-1) > 1e-6
    np.testing.assert_array_equal(moved, ends >= changed)


def test_so_many_answers_are_shown_as_the_share_of_the_wrong():
  """In runs of k, whole ones, drawn anew with each key."""
  is_wrong = np.zeros((3, 21), bool)
  is_wrong[0, :4], is_wrong[1, :15] = True, True
  found = set()
  for seed in range(6):
    shown = np.asarray(blocks.shown(
        jax.random.key(seed), jnp.asarray(is_wrong), 2, jnp.asarray(0.4)))
    assert shown.sum(1).tolist() == [2, 6, 0]
    for row in shown:
      runs = np.flatnonzero(np.diff(np.pad(row.astype(int), 1)))
      assert ((runs[1::2] - runs[::2]) % 2 == 0).all()
    found.add(tuple(np.flatnonzero(shown[1]).tolist()))
  assert len(found) > 3
  assert not blocks.shown(jax.random.key(0), jnp.ones((1, 8), bool), 2,
                          jnp.asarray(0.0)).any()


def test_published_tree_has_four_blocks_of_two():
  assert len(falcon.TREE) == 8 and sum(map(sum, falcon.TREE)) == 116
