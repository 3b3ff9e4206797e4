"""The target's own text: at which temperatures, and under which name."""

import types

from absl import flags
import numpy as np
import pytest

from experiments import part_training
from spec_jax import api
from tests import toy

TEXT = np.random.default_rng(0).integers(1, toy.VOCAB, 400).astype(np.uint16)


def recipe(own_windows=6, length=12):
  return types.SimpleNamespace(own_windows=own_windows, length=length)


def bench(folder, **more):
  found = part_training.Bench(
      folder, toy.bundle(), TEXT[:200], TEXT[200:], folder, seed=0,
      checkpoint_every=1, **more)
  found.__dict__["made_for"] = "0123456789"
  return found


def write(path, *args, own_windows=6, **more):
  return part_training.own_text(
      path, recipe(own_windows), toy.bundle().target,
      toy.bundle().params["target"], TEXT, 0, *args, **more)


def test_text_to_learn_from_is_of_the_flags_temperatures(tmp_path):
  """And text to judge by of always the same ones."""
  hot = bench(tmp_path, own_temperatures=(0.5, 1.0))
  for stream in (hot.train, hot.heldout):
    hot.own_text(recipe(), stream)
  hot.own_text(recipe(), hot.train, (1.0,), 10)
  assert sorted(path.name for path in tmp_path.iterdir()) == [
      "own_heldout_01234567_0_6x12_at_0_0.8.npy",
      "own_train_01234567_0_6x12_at_0.5_1.npy",
      "own_train_01234567_0_6x12_at_1_top_10.npy"]
  usual = bench(tmp_path / "usual")
  usual.folder.mkdir()
  usual.own_text(recipe(), usual.train)
  assert [path.name for path in usual.folder.iterdir()] == [
      "own_train_01234567_0_6x12_at_0_0.8.npy"]


def test_temperatures_take_turns(tmp_path, monkeypatch):
  """Each of them has one, however few windows there are."""
  generate, asked = api.generate, []
  def asking(*args, sampling, **more):
    asked.append((sampling.temperature, sampling.top_k, len(args[2])))
    return generate(*args, sampling=sampling, **more)
  monkeypatch.setattr(api, "generate", asking)
  assert write(tmp_path / "three.npy", (0.0, 0.5, 1.0)).shape == (6, 12)
  assert asked == [(0.0, 0, 2), (0.5, 0, 2), (1.0, 0, 2)]
  asked.clear()
  write(tmp_path / "one.npy", (1.0,), 7)
  assert asked == [(1.0, 7, 3), (1.0, 7, 3)]
  with pytest.raises(ValueError, match="own_windows=2, expected one at least"
                     " for each of the temperatures 0, 0.5, 1"):
    write(tmp_path / "few.npy", (0.0, 0.5, 1.0), own_windows=2)


def test_the_likeliest_token_alone_is_greedy_text(tmp_path):
  greedy, hot, one = (
      write(tmp_path / f"{i}.npy", (temperature,), top_k)
      for i, (temperature, top_k) in enumerate([(0.0, 0), (2.0, 0), (2.0, 1)]))
  np.testing.assert_array_equal(greedy, one)
  assert (greedy != hot).any()


def test_the_flag_reaches_the_bench(tmp_path, monkeypatch):
  values = flags.FlagValues()
  part_training.define(values)
  values(["program", "--own_temperatures=1,0.25"])
  assert part_training.own_temperatures(values) == (1.0, 0.25)
  monkeypatch.setattr(part_training, "open_bench", lambda *_, **more: more)
  fields = types.SimpleNamespace(
      models="", corpus=None, out=tmp_path, seed=0, checkpoint_every=1,
      own_temperatures=["0"])
  assert part_training.of_flags(fields) == {"own_temperatures": (0.0,)}
