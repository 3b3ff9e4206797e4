"""An EAGLE-3 net written for servers and read back is the same net."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from spec_jax.models import bundle as bundle_lib
from spec_jax.models import checkpoint
from spec_jax.models import contract
from spec_jax.models import export
from spec_jax.models import feature_checkpoint
from spec_jax.models import feature_export
from spec_jax.models import feature_model
from spec_jax.models import specialist_net
from tests import toy
from tests.models import feature_checkpoint_test as published

LAYOUTS = tuple(feature_export.LAYOUTS)
AUX = published.AUX


def tensors_of(folder):
  return safetensors.numpy.load_file(folder / "model.safetensors")


def config_of(folder):
  return json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize("kind, layout", [
    ("eagle_3", "speculators"), ("eagle_3", "eagle"),
    ("speculators", "speculators")])
def test_export_and_load_give_the_same_net(kind, layout, tmp_path):
  folder = published.DATA / kind
  model, params = published.load(folder)
  feature_export.save(tmp_path, model, params, layout, "target")
  shutil.copy(folder / "expected.npz", tmp_path)
  assert published.same(published.load(tmp_path), (model, params))
  prefix = feature_export.LAYOUTS[layout].layer
  theirs = {name.replace("midlayer.", prefix): tensor
            for name, tensor in tensors_of(folder).items()}
  jax.tree.map(np.testing.assert_array_equal, tensors_of(tmp_path), theirs)


def test_a_layouts_config_is_that_of_its_fixture(tmp_path):
  """Whatever it says is said again, and the taps to all who look for them."""
  theirs = {}
  for kind, layout in zip(("eagle_3", "speculators"), ("eagle", "speculators")):
    model, params = published.load(published.DATA / kind)
    feature_export.save(tmp_path / layout, model, params, layout, "the target")
    theirs[layout] = config_of(published.DATA / kind)
  ours = {layout: config_of(tmp_path / layout) for layout in theirs}
  assert ours["eagle"].items() >= theirs["eagle"].items()
  assert ours["eagle"][AUX] == [2, 3, 4]
  assert ours["eagle"]["eagle_config"] == {
      "use_aux_hidden_state": True, AUX: [1, 2, 3]}
  assert ours["eagle"]["dtype"] == "float32"
  said = ours["speculators"].pop("speculators_config")
  assert said["verifier"]["name_or_path"] == "the target"
  assert said.items() >= theirs["speculators"].pop("speculators_config").items()
  layer = ours["speculators"].pop("transformer_layer_config")
  expected = theirs["speculators"].pop("transformer_layer_config")
  assert layer.items() >= expected.items()
  assert ours["speculators"].items() >= theirs["speculators"].items()


def test_no_head_is_said_to_be_the_embedding(tmp_path):
  """Beside a target whose own head is."""
  model, params = published.load(published.DATA / "eagle_3")
  tied = dataclasses.replace(model.net.config, tie_embeddings=True)
  model = dataclasses.replace(model, net=model.net.clone(config=tied))
  feature_export.save(tmp_path, model, params, "eagle")
  assert config_of(tmp_path)["tie_word_embeddings"] is False


def test_a_scale_of_the_taps_goes_into_the_weights(tmp_path):
  model, params = published.load(published.DATA / "eagle_3")
  scaled = dataclasses.replace(
      model, net=model.net.clone(tap_scale=8.0))
  feature_export.save(tmp_path, scaled, params)
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


def test_weights_of_16_bits_stay_so(tmp_path):
  model, params = published.load(published.DATA / "eagle_3")
  scaled = dataclasses.replace(
      model, net=model.net.clone(tap_scale=8.0))
  short = jax.tree.map(
      lambda a: a if a.dtype == jnp.int32 else a.astype(jnp.float16), params)
  feature_export.save(tmp_path, scaled, short, "eagle")
  assert tensors_of(tmp_path)["fc.weight"].dtype == np.float16
  assert config_of(tmp_path)["dtype"] == "float16"


@pytest.fixture(scope="module")
def shipped():
  """The shipped target and draft, by `from_hyper`, and their parameters."""
  bundle = bundle_lib.load_bundle("tiny-python")
  return feature_model.from_hyper(
      bundle.target, "eagle_3", bundle.heads["eagle_3"], "eagle_3"
      ), bundle.params


def drafted(model, params, tokens):
  """What the net says of texts, `f32[B, T - 1, Z]`."""
  text = model.target.score(
      params["target"], tokens, taps=model.taps, with_logits=False)
  size = tokens.shape[1] - 1
  return model.forward(
      params, tokens[:, 1:], model.enter(params, text.taps)[:, :-1],
      jnp.arange(size, dtype=jnp.int32)[None],
      jnp.tril(jnp.ones((1, size, size), bool))).logits


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_shipped_draft_says_the_same_beside_its_exported_target(
    layout, shipped, tmp_path):
  model, params = shipped
  export.save_hf(tmp_path / "target", model.target, params["target"])
  feature_export.save(tmp_path / "draft", model, params, layout)
  target, target_params, _ = checkpoint.load_hf(tmp_path / "target")
  hyper, own = feature_checkpoint.load_eagle(
      tmp_path / "draft", target, target_params)
  again = feature_model.from_hyper(target, "eagle_3", hyper, "eagle_3")
  assert again.taps == model.taps
  tokens = jax.random.randint(jax.random.key(0), (2, 24), 0, model.vocab_size)
  np.testing.assert_allclose(
      drafted(again, {"target": target_params, "eagle_3": own}, tokens),
      drafted(model, params, tokens), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("taps", [
    (2, 4, 7), (0, 2, 4), (4, 2, 3), (2, 2, 3), (1, 2, "final"), (1, 2, 2.5)])
def test_taps_that_no_server_takes_are_refused(taps, layout, tmp_path):
  model, params = published.load(published.DATA / "eagle_3")
  model = dataclasses.replace(model, net=model.net.clone(taps=taps))
  with pytest.raises(ValueError, match=r"target of 7 layers, .* from 1 to 6:"):
    feature_export.save(tmp_path / "new", model, params, layout)
  assert not (tmp_path / "new").exists()


def with_net(**changes):
  model, params = published.load(published.DATA / "eagle_3")
  layers = changes.pop("layers", {})
  net = model.net.clone(
      config=dataclasses.replace(model.net.config, **layers), **changes)
  return dataclasses.replace(model, net=net), params


def specialists():
  model, params = published.load(published.DATA / "eagle_3")
  net = specialist_net.SpecialistNet(
      model.net.config, model.taps, fusion="attend", head_size=12, span=1)
  return dataclasses.replace(model, net=net), params


def of_two_layers():
  model, params = with_net(taps=(1, 2, 2))
  return dataclasses.replace(
      model, target=contract.decoder_model(toy.config(vocab_size=40))), params


def with_rows(ids):
  model, params = published.load(published.DATA / "eagle_3")
  return model, {**params, "part": {
      **params["part"], "token_ids": jnp.asarray(ids)}}


@pytest.mark.parametrize("layout, make, message", [
    ("eagle", lambda: published.load(published.DATA / "speculators"),
     "'part' is no .*'eagle' has words for:\n  fusion='attend_normed', expected"
     " 'attend'$"),
    ("eagle", lambda: published.load(published.DATA / "eagle_1"),
     "fusion='project', .*\n  head_size=0, .*\n  taps=.'final',., expected 3"),
    ("speculators", lambda: published.load(published.DATA / "eagle_1"),
     "fusion='project', expected 'attend' or 'attend_normed'"),
    ("eagle", lambda: with_net(layers={"num_layers": 2}),
     "num_layers=2, expected 1"),
    ("speculators", lambda: with_net(layers={"d_model": 8}),
     "d_model=8, expected 16, the target's"),
    ("eagle", lambda: (dataclasses.replace(
        with_net()[0], embeds="own"), with_net()[1]),
     "embeds='own', expected 'scaled': servers read the target's table"),
    ("speculators", specialists, "a SpecialistNet, expected a FeatureNet"),
    ("eagle", of_two_layers,
     r"taps=\(1, 2, 2\) of a target of 2 layers, .* at least 4 layers"),
    ("eagle", lambda: with_rows(range(12, 0, -1)),
     r"token_ids \[12, 11, 10, 9\] ..., 12 of them, expected 12 rising ids"),
    ("eagle", lambda: with_rows(range(30, 42)), "expected 12 rising ids below"),
    ("eagle", lambda: with_rows(range(4)), "4 of them, expected 12 rising ids"),
    ("speculators", lambda: (dataclasses.replace(
        with_net()[0], vocabulary=None), with_net()[1]),
     "40 of them, expected 12 rising ids"),
    ("eagle", lambda: with_net(layers={"qk_norm": True}),
     "no Llama: qk_norm=True"),
    ("specforge", with_net,
     r"layout='specforge', expected one of \('speculators', 'eagle'\)"),
])
def test_what_the_layout_cannot_say_is_refused(
    layout, make, message, tmp_path):
  model, params = make()
  with pytest.raises(ValueError, match=f"(?s){message}"):
    feature_export.save(tmp_path / "new", model, params, layout)
  assert not (tmp_path / "new").exists()
