"""What is kept of a target is what it says; what was written stays written."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from experiments.parts import run as run_lib
from spec_jax.models import contract
from spec_jax.models import early_exit
from spec_jax.training import acceptance
from spec_jax.training import adapters
from spec_jax.training import blocks
from spec_jax.training import chimera
from spec_jax.training import features
from spec_jax.training import glide
from spec_jax.training import joint_heads
from spec_jax.training import recorded
from spec_jax.training import token_heads
from tests import toy
from tests.training import acceptance_test
from tests.training import adapters_test
from tests.training import blocks_test
from tests.training import chimera_test
from tests.training import features_test
from tests.training import glide_test
from tests.training import joint_heads_test
from tests.training import token_heads_test

TARGET = toy.bundle().target
FROZEN = {name: toy.bundle().params[name] for name in ("target", "draft")}
KEY = jax.random.key(0)
BATCH, LENGTH, STEPS = 2, 16, 5


def batch(step):
  return np.random.default_rng(step).integers(
      1, toy.VOCAB, (BATCH, LENGTH)).astype(np.int32)


def store(folder, reads=None, **changes):
  reads = reads or recorded.Reads(TARGET, (1,), with_memory=True)
  fields = dict(batch_fn=batch, reads=reads, folder=folder, made_for="abc",
                num_steps=STEPS, shard_steps=2)
  return recorded.Recorded(**(fields | changes))


def write(kept):
  kept.write(FROZEN["target"], kept.missing())


def written(*where, **changes):
  kept = store(*where, **changes)
  write(kept)
  return kept


def adapter(name):
  options = adapters_test.RECIPES[name]
  return adapters.recipe(options, early_exit.from_hyper(
      TARGET, name, options.hyper), FROZEN)


# Every loss that reads a target, with the recipe that asks most of it.
RECIPES = {
    "features": lambda: features.recipe(
        features_test.OPTIONS, features_test.model_of({})),
    "three taps": lambda: features.recipe(
        features_test.LAW_ALONE, features_test.model_of(
            {"taps": (0, 1, 2), "fusion": "attend"})),
    "blocks": lambda: blocks.recipe(blocks_test.OPTIONS, blocks_test.MODEL),
    "chimera": lambda: chimera.recipe(
        chimera_test.OPTIONS, chimera_test.model_of(), FROZEN),
    "adapters": lambda: adapter("kangaroo"),
    "glide": lambda: glide.recipe(glide_test.OPTIONS, TARGET),
    "acceptance": lambda: acceptance.recipe(
        acceptance_test.OPTIONS, TARGET, toy.bundle().models["draft"]),
} | {name: functools.partial(
    token_heads.recipe, token_heads_test.RECIPES[name], TARGET,
    FROZEN["target"]) for name in ("koala", "clover_2")}


@pytest.mark.parametrize("name", RECIPES)
def test_a_loss_does_not_tell_a_record_from_the_target(name, tmp_path):
  """Value and gradient, with a target that would say something else now."""
  recipe = RECIPES[name]()
  assert recipe.reads is not None
  kept = written(tmp_path, recipe.reads)
  params = jax.jit(recipe.init)(KEY)
  when = (1,) * recipe.wants_step
  run = lambda recipe, frozen, batch: jax.jit(jax.value_and_grad(
      lambda *given: recipe.loss(*given, KEY, *when)[0]))(params, frozen, batch)
  wanted = run(recipe, FROZEN, batch(3))
  layers = {name: jax.tree.map(jnp.zeros_like, part) if "layers" in name
            else part for name, part in FROZEN["target"].items()}
  deaf = {**FROZEN, "target": layers}
  jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5),
               run(recorded.reading(recipe), deaf, kept(3)), wanted)
  if name == "features":
    assert abs(run(recipe, deaf, batch(3))[0] - wanted[0]) > 1e-3


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_batches_come_back_in_other_orders(dtype, tmp_path):
  reads = recorded.Reads(
      contract.decoder_model(TARGET.config, dtype), (1, 2), with_memory=True)
  kept = written(tmp_path, reads)
  for step in range(STEPS):
    tokens, record = kept(step)
    np.testing.assert_array_equal(tokens, batch(step))
    wanted = jax.jit(reads.record)(FROZEN["target"], tokens)
    assert record.keys() == wanted.keys()
    for key, found in record.items():
      assert found.dtype == jnp.dtype(dtype)
      np.testing.assert_array_equal(found, wanted[key])
  turns = [[kept(turn * STEPS + place)[0].tobytes() for place in range(STEPS)]
           for turn in range(4)]
  assert all(sorted(turn) == sorted(turns[0]) for turn in turns)
  assert len({tuple(turn) for turn in turns}) > 1


def test_bytes_are_counted_before_a_file_is_there(tmp_path):
  kept = store(tmp_path / "features")
  assert kept.missing() == [0, 1, 2] and not list(tmp_path.iterdir())
  wanted = kept.num_bytes
  write(kept)
  files = sorted((tmp_path / "features").iterdir())
  header, size = 1024, sum(path.stat().st_size for path in files)
  assert len(files) == kept.num_shards == 3 and not kept.missing()
  assert wanted < size < wanted + 3 * header


def test_an_interrupted_store_goes_on(tmp_path, monkeypatch):
  whole = written(tmp_path / "whole")
  torn, save, count = store(tmp_path / "torn"), safetensors.numpy.save_file, []

  def save_one(tensors, path, metadata):
    if count:
      path.write_bytes(b"torn")
      raise OSError("No space left on device")
    count.append(path)
    save(tensors, path, metadata)

  with monkeypatch.context() as patch:
    patch.setattr(safetensors.numpy, "save_file", save_one)
    with pytest.raises(OSError, match="No space"):
      write(torn)
  first = (torn.folder / "features-00000.safetensors").stat().st_mtime_ns
  assert torn.missing() == [1, 2]
  write(torn)
  assert first == (
      torn.folder / "features-00000.safetensors").stat().st_mtime_ns
  for step in range(2 * STEPS):
    jax.tree.map(np.testing.assert_array_equal, torn(step), whole(step))


@pytest.mark.parametrize("changes, message", [
    ({"made_for": "xyz"}, "of the target abc, expected xyz"),
    ({"batch_fn": lambda step: batch(step + 1)}, "other texts, expected those"),
    ({"reads": recorded.Reads(TARGET, (2,))}, "tap_1.*expected .*tap_2"),
    ({"num_steps": 1}, r"\[2, 2, 16\].*expected .*\[1, 2, 16\]"),
])
def test_a_store_of_something_else_is_refused(changes, message, tmp_path):
  written(tmp_path)
  with pytest.raises(ValueError, match=message) as error:
    store(tmp_path, **changes).missing()
  assert "features-00000.safetensors" in str(error.value)
  assert "another --out" in str(error.value)


def test_a_broken_file_is_named(tmp_path):
  path = tmp_path / "features-00001.safetensors"
  kept = written(tmp_path)
  path.write_bytes(path.read_bytes()[:99])
  with pytest.raises(ValueError, match="00001.*not a whole file of features"):
    kept.missing()


def test_a_training_that_changes_its_target_keeps_nothing(tmp_path):
  run = run_lib.Run(
      toy.bundle(), None, None, None, tmp_path, seed=0, checkpoint_every=1,
      changes={}, progress=None, stored_steps=3)
  recipe = joint_heads.recipe(
      joint_heads_test.OPTIONS, TARGET, FROZEN["target"])
  with pytest.raises(ValueError, match="stored_steps=3, expected 0: what this"):
    run.fit(recipe, batch, 4, FROZEN)
  assert not list(tmp_path.iterdir())
