"""One entry for all published drafts: it finds the loader, or says why not."""

import dataclasses
import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import spec_jax
from spec_jax.models import bundle as bundle_lib
from spec_jax.models import contract
from spec_jax.models import feature_checkpoint
from spec_jax.models import head_checkpoint
from tests import toy
from tests.models import head_checkpoint_test

_DATA = pathlib.Path(__file__).parents[1] / "data"
_HEADS, _EAGLE, _HF = _DATA / "heads", _DATA / "eagle", _DATA / "hf" / "qwen3"
_EAGLE_PARTS = {"eagle_1": "eagle_2", "vllm": "eagle_2", "eagle_3": "eagle_3",
                "speculators": "eagle_3"}
_PROMPTS = ([3, 5, 7], [1])


def bundle_for(folder):
  """A random target of the sizes that a draft was made for."""
  if folder.parent == _HEADS:
    return dataclasses.replace(head_checkpoint_test.BUNDLE, params={
        "target": toy.bundle().params["target"]})
  target = contract.decoder_model(toy.config(
      7, vocab_size=40, embed_scale=1.0, d_ff=8))
  expected = np.load(folder / "expected.npz")
  params = {**jax.jit(target.init)(jax.random.key(0)),
            "embedding": jnp.asarray(expected["embedding"]),
            "head": jnp.asarray(expected["head"])}
  return bundle_lib.Bundle("tested", target, {}, {"target": params}, None)


@pytest.mark.parametrize("name", head_checkpoint_test.NAMES)
def test_heads_go_to_their_loader(name):
  bundle = bundle_for(_HEADS / name)
  ours, theirs = (add(bundle, _HEADS / name) for add in (
      spec_jax.add_draft, head_checkpoint.add))
  assert (ours.heads, ours.tuned) == (theirs.heads, theirs.tuned)
  jax.tree.map(np.testing.assert_array_equal, ours.params, theirs.params)


@pytest.mark.parametrize("name", sorted(_EAGLE_PARTS))
def test_feature_nets_go_to_theirs(name):
  bundle, part = bundle_for(_EAGLE / name), _EAGLE_PARTS[name]
  grown = spec_jax.add_draft(bundle, _EAGLE / name)
  hyper, params = feature_checkpoint.load_eagle(
      _EAGLE / name, bundle.target, bundle.params["target"])
  assert grown.heads == {part: hyper} and not bundle.heads
  jax.tree.map(np.testing.assert_array_equal, grown.params[part], params)


@pytest.mark.parametrize("folder, system, hyper", [
    (_HEADS / "medusa_map", "medusa_1", {"branching": (3, 2)}),
    (_HEADS / "redrafter_narrow", "recurrent_drafter",
     {"width": 2, "depth": 2}),
    (_HEADS / "speculator", "token_embedding_speculator", {}),
    (_EAGLE / "eagle_1", "eagle_1", {"branching": (2, 1)}),
    (_EAGLE / "eagle_1", "eagle_2", {"budget": 5, "depth": 2, "top_k": 2}),
    (_EAGLE / "eagle_3", "eagle_3", {"budget": 5, "depth": 2, "top_k": 2}),
])
def test_a_system_of_that_name_writes_what_its_target_writes(
    folder, system, hyper):
  bundle = spec_jax.add_draft(bundle_for(folder), folder)
  ours, plain = (spec_jax.generate(
      *spec_jax.build(name, bundle, **fields), _PROMPTS, max_new_tokens=8)
                 for name, fields in ((system, hyper), ("autoregressive", {})))
  assert ours.tokens == plain.tokens
  assert ours.stats.drafted


def test_what_is_no_draft_is_told_the_kinds_that_are():
  bundle = bundle_for(_HEADS / "medusa_a")
  with pytest.raises(ValueError) as caught:
    spec_jax.add_draft(bundle, _HF)  # A whole model.
  message = str(caught.value)
  for part in (str(_HF), "model_type='qwen3'", "none called fc.weight",
               "Medusa (model_type='medusa')", "Medusa (key medusa_num_heads)",
               "Hydra (key hydra_head_arch)", "MLP speculator (model_type=",
               "ReDrafter (model_type='recurrent_drafting_drafter')",
               "EAGLE-1 and 2 (tensor fc.weight, or model",
               "EAGLE-3 (key draft_vocab", "--hf_draft=FOLDER"):
    assert part in message


def test_what_is_missing_or_wrong_is_named(tmp_path):
  bundle = bundle_for(_HEADS / "medusa_a")
  with pytest.raises(ValueError, match="nowhere: expected a folder with conf"):
    spec_jax.add_draft(bundle, tmp_path / "nowhere")
  (tmp_path / "config.json").write_text(json.dumps({"num_heads": 2}))
  with pytest.raises(ValueError, match=r"no tensors .*holds \['config.json'\]"):
    spec_jax.add_draft(bundle, tmp_path)
  folder = shutil.copytree(_HEADS / "medusa_a", tmp_path / "medusa_a")
  head_checkpoint_test.change(folder, medusa_num_layers=2)
  with pytest.raises(ValueError, match="missing 0.1.linear.weight"):
    spec_jax.add_draft(bundle, folder)
  with pytest.raises(ValueError, match=r"vocab_size=40 \(the target has 12\)"):
    spec_jax.add_draft(bundle, _EAGLE / "eagle_3")
