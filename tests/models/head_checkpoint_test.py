"""Published draft heads: whole and as published, or refused by name."""

import dataclasses
import json
import pathlib
import shutil
import types as types_lib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import numpy as st

from spec_jax import api
from spec_jax import systems
from spec_jax.core import types
from spec_jax.drafters import token_head_drafter
from spec_jax.models import bundle as bundle_lib
from spec_jax.models import checkpoint
from spec_jax.models import contract
from spec_jax.models import head_checkpoint
from spec_jax.models import part_file
from spec_jax.models import recurrent_heads
from spec_jax.models import token_heads
from spec_jax.models import torch_files
from spec_jax.trees import expansion
from tests import rounds
from tests import toy

_DATA = pathlib.Path(__file__).parent.parent / "data" / "heads"
KINDS = {"medusa_1": token_heads.MedusaHeads,
         "medusa_2": token_heads.MedusaHeads, "hydra": token_heads.HydraHeads,
         "hydra_pp": token_heads.HydraHeads,
         "recurrent_drafter": recurrent_heads.RecurrentHead,
         "token_embedding_speculator": recurrent_heads.MlpSpeculator}
NAMES = sorted(path.name for path in _DATA.iterdir())
# Of the fixtures' sizes.
TARGET = contract.decoder_model(toy.config(embed_scale=1.0))
BUNDLE = bundle_lib.Bundle("toy", TARGET, {}, {"target": {}}, None)


@pytest.fixture
def folder(tmp_path):
  """Copies a folder so that a test may break it."""
  def copy(name):
    target = tmp_path / name
    shutil.copytree(_DATA / name, target)
    return target
  return copy


def change(path, **values):
  """Changes config.json; None takes a key out."""
  file = path / "config.json"
  config = json.loads(file.read_text()) | values
  file.write_text(json.dumps(
      {key: value for key, value in config.items() if value is not None}))


def test_every_format_has_a_fixture():
  assert len(NAMES) == 19
  found = {head_checkpoint.load(_DATA / name, TARGET).system for name in NAMES}
  assert found == set(KINDS)


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_those_of_the_published_modules(name):
  heads = head_checkpoint.load(_DATA / name, TARGET)
  expected = dict(np.load(_DATA / name / "expected.npz"))
  world = types_lib.SimpleNamespace(
      embed=lambda tokens: jnp.asarray(expected["embedding"])[tokens],
      unembed=lambda x: x @ jnp.asarray(expected["head"]).T)
  features = jnp.asarray(expected["features"])[None]
  if "encoder" in heads.params:
    features = token_heads.encoder_of(TARGET, 1).score(
        heads.params["encoder"], jnp.zeros(features.shape[:2], jnp.int32),
        embeds=features, taps=("final",)).taps["final"]
  network = KINDS[heads.system].for_target(TARGET, **heads.hyper)
  found = network.apply(
      {"params": heads.params["heads"]}, features[0, -1],
      jnp.asarray(expected["path"]), world)
  np.testing.assert_allclose(
      found[:len(expected["logits"])], expected["logits"], atol=2e-4)


@pytest.mark.parametrize("name", NAMES)
def test_a_system_drafts_with_them(name):
  bundle = bundle_lib.Bundle(
      "toy", TARGET, {}, {"target": TARGET.init(jax.random.key(1))}, None)
  heads = head_checkpoint.load(_DATA / name, bundle.target)
  grown = head_checkpoint.add(bundle, _DATA / name)
  assert grown.heads == {heads.system: heads.hyper} and not bundle.heads
  depth = {"recurrent_drafter": {"depth": 2, "width": 2}}
  system, params = systems.build(
      heads.system, grown, **depth.get(heads.system, {"branching": (2, 2)}))
  assert system.drafter.depth == 2
  assert set(params.drafter) <= {"heads", "encoder"}


def test_configs_may_state_too_few_heads():
  heads = head_checkpoint.load(_DATA / "medusa_a", TARGET)
  config = json.loads((_DATA / "medusa_a" / "config.json").read_text())
  assert config["medusa_num_heads"] == 2 and heads.hyper["num_heads"] == 3


def tied_tensors(path):
  """All tensors of the tied speculator, and those that are not repeated."""
  files = torch_files.TorchFile(path / "pytorch_model.bin")
  return ({name: files.read(name) for name in files.shapes},
          {name: files.read(name) for name in files.shapes
           if name.split(".")[1] == "0" or name.startswith("proj.1")})


def test_tied_tensors_may_stand_there_once(folder):
  path = folder("speculator_tied")
  every, once = tied_tensors(path)
  assert len(every) > len(once) == 6
  whole = head_checkpoint.load(path, TARGET)
  st.save_file(once, path / "model.safetensors")  # Comes before the other.
  again = head_checkpoint.load(path, TARGET)
  assert again.hyper == whole.hyper
  np.testing.assert_array_equal(again.params["heads"]["emb_0"]["embedding"],
                                whole.params["heads"]["emb_0"]["embedding"])


@pytest.mark.parametrize("name, source", [
    ("emb.2.weight", "emb.0.weight"), ("ln.1.bias", "ln.0.bias"),
    ("proj.2.weight", "proj.1.weight")])
def test_tied_tensors_are_one_or_refused(folder, name, source):
  path = folder("speculator_tied")
  tensors, _ = tied_tensors(path)
  tensors[name] = tensors[name] + np.float32(1e-3)
  st.save_file(tensors, path / "model.safetensors")
  with pytest.raises(ValueError, match=f"extra {name}: differs from {source}"):
    head_checkpoint.load(path, TARGET)


@pytest.mark.parametrize("num", [2, 4])
def test_speculators_of_other_lengths_bring_their_tree(folder, num):
  path = folder("speculator_tied")
  st.save_file(tied_tensors(path)[1], path / "model.safetensors")
  change(path, n_predict=num)
  name, plain = "token_embedding_speculator", head_checkpoint.add(BUNDLE, path)
  assert name not in plain.tuned
  system, _ = systems.build(name, plain)  # The paper's tree has 3 levels.
  assert system.drafter.plan.children == (5, 4, 3)[:num]
  change(path, n_candidates=3, top_k_tokens_per_head=[4, 3, 2, 2][:num])
  grown = head_checkpoint.add(BUNDLE, path)
  system, _ = systems.build(name, grown, **grown.tuned[name])
  assert system.drafter.plan.children == (4, 3, 2, 2)[:num]
  assert system.drafter.plan.widths[-1] == 3


@pytest.mark.parametrize("name, changes, message", [
    ("medusa_a", {"medusa_num_layers": 2}, "missing 0.1.linear.weight"),
    ("medusa_a", {"medusa_num_heads": 4},
     "medusa_num_heads=4, the file holds 3 heads"),
    ("medusa_c", {"medusa_num_heads": 3}, "has no medusa_head.2.0.linear"),
    ("medusa_b", {"medusa_num_heads": "2"}, "'2', expected a whole number"),
    ("speculator", {"top_k_tokens_per_head": [5, 4]}, "expected n_predict=3"),
    ("speculator_tied", {"n_predict": 2}, "extra emb.2.weight"),
    ("medusa_c", {"model_type": None}, "model_type=None of the base"),
    ("medusa_c", {"rms_norm_eps": 1e-6, "head_dim": 4},
     r"head_dim=4 \(the target has 8\), norm_eps=1e-06"),
    ("medusa_c", {"medusa_num_layers": 1}, "extra medusa_head.0.2.weight"),
    ("medusa_d", {"num_heads": 3}, "missing medusa_heads.blocks.2.layers.0"),
    ("medusa_d", {"num_heads": 1}, "extra medusa_heads.blocks.1.layers.0"),
    ("medusa_d", {"truncated_vocab_size": 6},
     r"missing medusa_heads.token_map: expected shape \(6,\)"),
    ("medusa_d", {"truncated_vocab_size": 13},
     "truncated_vocab_size=13, expected at most the target's 12"),
    ("medusa_d", {"truncated_vocab_size": 0}, "=0, expected a whole number"),
    ("medusa_d", {"vocab_size": 13}, "vocab_size=13, the target has 12"),
    ("medusa_map", {"truncated_vocab_size": None},
     "extra medusa_heads.token_map"),
    ("medusa_map", {"truncated_vocab_size": 8},
     r"misshapen medusa_heads.lm_heads.1.weight: expected shape \(8, 16\)"),
    ("medusa_map", {"truncated_vocab_size": 8},
     r"misshapen medusa_heads.token_map: expected shape \(8,\), found \(7,\)"),
    ("medusa_bias", {"medusa_fc_bias": None}, "extra blocks.0.layers.0.bias"),
    ("medusa_one", {"medusa_fc_bias": True}, "missing blocks.0.layers.0.bias"),
    ("medusa_first", {"original_lm_head": None},
     "missing medusa_heads.lm_heads.1.weight"),
    ("medusa_target", {"original_lm_head": None},
     "missing medusa_heads.lm_heads.0.weight"),
    ("medusa_target", {"truncated_vocab_size": 7},
     r"missing medusa_heads.lm_head.weight: expected shape \(7, 16\)"),
    ("medusa_d", {"num_hidden_layers": None}, "lacks 'num_hidden_layers'"),
    ("hydra", {"hydra_head_arch": "eagle-attn"}, "arch='eagle-attn'"),
    ("hydra", {"hidden_state_offset": 1}, "hidden_state_offset=1"),
    ("hydra_pp", {"hydra_num_layers": 2}, "extra hydra_mlp.0.5.linear.bias"),
    ("redrafter", {"exit_dim": 16},
     r"missing input_proj.weight: expected shape \(16, 32\)"),
    ("redrafter", {"exit_dim": "32"}, "'32', expected a whole number"),
    ("redrafter", {"hidden_size": 8}, "hidden_size=8, the target has 16"),
    ("redrafter", {"rnn": False}, "extra rnn_u.bias"),
    ("redrafter_sum", {"rnn": True}, "missing rnn_w.weight"),
    ("redrafter_narrow", {"exit_dim": 32}, "extra input_proj.bias"),
    ("redrafter_narrow", {"exit_dim": 12},
     r"misshapen input_proj.weight: expected shape \(12, 32\)"),
    ("redrafter_wide", {"exit_dim": 32}, "extra input_projs.weight"),
    ("redrafter_list", {"num_draft_layers": 1}, "extra 0.2.weight"),
    ("speculator", {"emb_dim": 8}, "emb_dim=8"),
    ("speculator", {"inner_dim": 4}, "misshapen speculator.emb.0.weight"),
    ("speculator", {"model_type": "mlp"}, "of no draft heads known here"),
])
def test_what_does_not_fit_is_named(folder, name, changes, message):
  path = folder(name)
  change(path, **changes)
  with pytest.raises(ValueError, match=message):
    head_checkpoint.load(path, TARGET)


@pytest.mark.parametrize("name", ["medusa_map", "medusa_cut"])
def test_rows_stand_for_the_tokens_of_the_map(name):
  """The tree has the tokens of the best rows, not their numbers."""
  heads = head_checkpoint.load(_DATA / name, TARGET)
  expected = dict(np.load(_DATA / name / "expected.npz"))
  ids = np.asarray(heads.params["heads"][token_heads.TOKEN_IDS])
  assert ids.dtype == np.int32
  assert len(set(ids)) == heads.hyper["head_size"] == 7
  expand = token_heads.Expander(
      token_heads.MedusaHeads.for_target(TARGET, **heads.hyper),
      heads.params["heads"], jnp.asarray(expected["features"])[-1:],
      types_lib.SimpleNamespace())
  for level, logits in enumerate(expected["logits"]):
    log_probs, found = expand(
        level, jnp.zeros((1, 1), jnp.int32), np.zeros(1, np.int32), 7)
    np.testing.assert_array_equal(found[0, 0], ids[np.argsort(-logits)])
    assert np.exp(log_probs).sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("name", ["medusa_map", "medusa_cut"])
def test_heads_of_some_tokens_change_no_text(name):
  """Temperature 0 is greedy; above, the rule keeps plain decoding's draws."""
  bundle = head_checkpoint.add(dataclasses.replace(BUNDLE, params={
      "target": toy.bundle().params["target"]}), _DATA / name)
  system, params = systems.build("medusa_1", bundle, branching=(3, 2))
  plain, plain_params = systems.build("autoregressive", bundle)
  prompts = [[1, 2, 3], [5], [7, 8]]
  for temperature in (0.0, 0.8):
    ours, theirs = (api.generate(
        *pair, prompts, max_new_tokens=30, temperature=temperature, seed=4)
                    for pair in ((system, params), (plain, plain_params)))
    assert ours.tokens == theirs.tokens
    assert ours.stats.drafted > ours.stats.accepted > 0
    if not temperature:
      assert ours.tokens[0] == toy.greedy_reference(
          TARGET, bundle.params["target"], prompts[0], 30)[3:]


def test_only_tokens_of_the_map_are_drafted():
  heads = head_checkpoint.load(_DATA / "medusa_map", TARGET)
  known = set(np.asarray(heads.params["heads"][token_heads.TOKEN_IDS]).tolist())
  drafter = token_head_drafter.TokenHeadDrafter(
      TARGET, token_heads.MedusaHeads.for_target(TARGET, **heads.hyper),
      expansion.Shape((3, 2)))
  system = rounds.compose(drafter, TARGET)
  target_params = toy.bundle().params["target"]
  played = list(rounds.play(system, types.Params(target_params, heads.params),
                            toy.prompts((3, 7)), 12))
  drafted = {token for step in played
             for token in np.asarray(step.tree.tokens)[:, 1:].ravel().tolist()}
  assert len(drafted) > 1 and drafted <= known
  with pytest.raises(ValueError, match=r"up to 8 children .* tokens \(7\)"):
    dataclasses.replace(drafter, plan=expansion.Shape((8,)))


def test_a_map_outlasts_the_file_of_a_part(tmp_path):
  heads = head_checkpoint.load(_DATA / "medusa_map", TARGET)
  path = part_file.write(
      tmp_path, "medusa_1", heads.hyper, heads.params, "abc", bits=8)
  hyper, params = part_file.read(path, "abc")
  assert hyper == heads.hyper
  ids = params["heads"][token_heads.TOKEN_IDS]
  assert ids.dtype == jnp.int32
  np.testing.assert_array_equal(
      ids, heads.params["heads"][token_heads.TOKEN_IDS])


@pytest.mark.parametrize("ids, message", [
    (None, r"missing medusa_heads.token_map: expected shape \(7,\)"),
    ([0, 1, 2, 3, 4, 5], r"expected shape \(7,\), found \(6,\)"),
    ([0, 1, 2, 3, 4, 4, 5], r"holds \[4\], expected each token once"),
    ([0, 1, 2, 3, 4, 5, 12], r"holds \[12\], expected tokens from 0 to 11"),
    ([0, 1, 2, 3, 4, 5, -1], r"holds \[-1\], expected tokens from 0 to 11"),
    (np.arange(7, dtype=np.float32), "no integers .*map: found dtype F32"),
])
def test_a_wrong_map_is_named(folder, ids, message):
  path = folder("medusa_map")
  name = "medusa_heads.token_map"
  tensors = st.load_file(path / "model.safetensors")
  del tensors[name]
  if ids is not None:
    tensors[name] = np.asarray(ids)
  st.save_file(tensors, path / "model.safetensors")
  with pytest.raises(ValueError, match=message):
    head_checkpoint.load(path, TARGET)


def test_other_folders_are_named(folder, tmp_path):
  with pytest.raises(ValueError, match="a folder with config.json"):
    head_checkpoint.load(tmp_path / "nowhere", TARGET)
  path = folder("medusa_b")
  (path / "medusa_lm_head.safetensors").rename(path / "other.safetensors")
  with pytest.raises(ValueError, match="other.safetensors.*expected one of"):
    head_checkpoint.load(path, TARGET)


def test_heads_beside_a_base_bring_the_base():
  expected = dict(np.load(_DATA / "medusa_c" / "expected.npz"))
  bundle = bundle_lib.Bundle(
      "toy", TARGET, {}, {"target": TARGET.init(jax.random.key(1))}, None)
  grown = head_checkpoint.add(bundle, _DATA / "medusa_c")
  assert grown.heads == {"medusa_2": {
      "num_heads": 2, "num_layers": 2, "is_shared": False}}
  _, params = systems.build("medusa_2", grown, branching=(2, 2))
  logits = lambda own: TARGET.score(
      own, jnp.asarray(expected["tokens"], jnp.int32)[None]).logits[0]
  np.testing.assert_allclose(
      logits(params.target), expected["base_logits"], atol=2e-4)
  assert np.abs(logits(grown.params["target"])
                - expected["base_logits"]).max() > .1
  # Its own loader reads the same base, and leaves the heads alone.
  _, alone, _ = checkpoint.load_hf(_DATA / "medusa_c", others="medusa_head.*")
  jax.tree.map(np.testing.assert_array_equal, alone, params.target)
