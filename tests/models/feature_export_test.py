"""An EAGLE-3 net written for servers and read back is the same net."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy

from spec_jax.models import feature_export
from tests.models import feature_checkpoint_test as published


def tensors_of(folder):
  return safetensors.numpy.load_file(folder / "model.safetensors")


@pytest.mark.parametrize("kind", ["eagle_3", "speculators"])
def test_export_and_load_give_the_same_net(kind, tmp_path):
  folder = published.DATA / kind
  model, params = published.load(folder)
  feature_export.save_speculators(tmp_path, model, params, "target")
  shutil.copy(folder / "expected.npz", tmp_path)
  assert published.same(published.load(tmp_path), (model, params))
  config = json.loads((tmp_path / "config.json").read_text())
  assert config["speculators_config"]["verifier"]["name_or_path"] == "target"
  theirs = {name.replace("midlayer.", "layers.0."): tensor
            for name, tensor in tensors_of(folder).items()}
  jax.tree.map(np.testing.assert_array_equal, tensors_of(tmp_path), theirs)


def test_a_scale_of_the_taps_goes_into_the_weights(tmp_path):
  model, params = published.load(published.DATA / "eagle_3")
  scaled = dataclasses.replace(
      model, net=model.net.clone(tap_scale=8.0))
  feature_export.save_speculators(tmp_path, scaled, params)
  shutil.copy(published.DATA / "eagle_3" / "expected.npz", tmp_path)
  again, copied = published.load(tmp_path)
  assert again == model  # Whose scale is 1.
  ours, theirs = (copied["part"]["entry"]["entry"]["kernel"],
                  params["part"]["entry"]["entry"]["kernel"])
  np.testing.assert_array_equal(8 * ours, theirs)
  expected = np.load(tmp_path / "expected.npz")
  np.testing.assert_allclose(
      published.run(again, copied, expected).logits,
      published.run(scaled, params, expected).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("taps", [
    (2, 4, 7), (0, 2, 4), (4, 2, 3), (2, 2, 3), (1, 2, "final"), (1, 2, 2.5)])
def test_taps_that_no_server_takes_are_refused(taps, tmp_path):
  model, params = published.load(published.DATA / "eagle_3")
  model = dataclasses.replace(model, net=model.net.clone(taps=taps))
  with pytest.raises(ValueError, match=r"target of 7 layers, .* from 1 to 6:"):
    feature_export.save_speculators(tmp_path / "new", model, params)
  assert not (tmp_path / "new").exists()


def test_what_the_layout_cannot_say_is_refused(tmp_path):
  model, params = published.load(published.DATA / "eagle_1")
  with pytest.raises(ValueError, match="fusion='project'.*an EAGLE-3 net"):
    feature_export.save_speculators(tmp_path, model, params)
