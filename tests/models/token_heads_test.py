"""Draft heads as networks: against their published formulas."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spec_jax.models import clover_heads
from spec_jax.models import contract
from spec_jax.models import decoder
from spec_jax.models import recurrent_heads
from spec_jax.models import token_heads
from tests import toy

PATH = jnp.asarray([[3, 1, 4, 1], [2, 7, 1, 8]], jnp.int32)


def ends():
  return contract.Ends(toy.bundle().target, toy.bundle().params["target"])


def random_of(network, key=0):
  """Parameters none of which is zero."""
  params = network.init(
      jax.random.key(key), jnp.zeros((1, network.width)), PATH[:1, :3],
      ends())["params"]
  leaves, structure = jax.tree.flatten(params)
  keys = jax.random.split(jax.random.key(key + 1), len(leaves))
  return jax.tree.unflatten(structure, [
      leaf + 0.3 * jax.random.normal(key, leaf.shape)
      for leaf, key in zip(leaves, keys)])


def ask(network, params, feature, tokens=PATH[:, :3]):
  return np.asarray(network.apply({"params": params}, feature, tokens, ends()))


FEATURE = jax.random.normal(jax.random.key(9), (2, 16))
silu = lambda x: x / (1 + np.exp(-x))
linear = lambda p, x: x @ np.asarray(p["kernel"]) + np.asarray(
    p.get("bias", 0.0))


def embedded(tokens):
  return np.asarray(ends().embed(tokens))


def test_hydra_is_its_formula():
  network = token_heads.HydraHeads(12, 16, num_heads=3, num_layers=2)
  params = random_of(network)
  found = ask(network, params, FEATURE)
  for head in range(3):
    read = [np.asarray(FEATURE)] + [
        embedded(PATH[:, i]) for i in range(head + 1)]
    c = np.concatenate(read, axis=-1)
    z = linear(params[f"map_{head}"], c) + silu(
        linear(params[f"block_{head}_0"], c))
    z = z + silu(linear(params[f"block_{head}_1"], z))
    np.testing.assert_allclose(
        found[:, head], linear(params[f"out_{head}"], z), atol=1e-3)


def test_blockwise_heads_share_a_layer_and_the_output_head():
  network = token_heads.BlockwiseHeads(12, 16, num_heads=3, hidden=8)
  params = random_of(network)
  found = ask(network, params, FEATURE)
  layer = linear(params["outer"], np.maximum(
      linear(params["inner"], np.asarray(FEATURE)), 0)).reshape(2, 3, 16)
  wanted = ends().unembed(jnp.asarray(layer) + FEATURE[:, None])
  np.testing.assert_allclose(found, wanted, atol=1e-3)
  # Untrained, every head says what the target says of the current token.
  start = network.init(jax.random.key(0), FEATURE, PATH[:, :3], ends())
  for level in range(3):
    np.testing.assert_allclose(
        ask(network, start["params"], FEATURE)[:, level],
        ends().unembed(FEATURE), atol=1e-4)


@pytest.mark.parametrize("is_rnn", [True, False])
def test_recurrent_head_is_its_formula(is_rnn):
  network = recurrent_heads.RecurrentHead(12, 16, is_rnn=is_rnn)
  params = random_of(network)
  found = ask(network, params, FEATURE)
  memory = np.zeros((2, 16), np.float32)
  for level in range(3):
    e = embedded(PATH[:, level])
    memory = (silu(linear(params["read"], e) + linear(params["keep"], memory))
              if is_rnn else memory + e)
    z = np.concatenate([FEATURE, memory], axis=-1)
    for layer in range(2):
      z = z + silu(linear(params[f"block_{layer}"], z))
    np.testing.assert_allclose(
        found[:, level], linear(params["out_0"], z), atol=1e-3)


SPECULATOR = recurrent_heads.MlpSpeculator(
    12, 16, num_stages=3, inner=8, scales_input=True)


def test_speculator_may_divide_by_the_weight_of_its_state():
  """As another engine writes it: the norm takes the common factor out."""
  params = random_of(SPECULATOR)
  found = ask(SPECULATOR, params, FEATURE)
  rms = lambda x: x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6)
  keep = 0.5 ** (0.5 / 3)
  ratio = math.sqrt((1 - keep ** 2) * 8 / 2) / keep
  state = rms(np.asarray(FEATURE)) / math.sqrt(2)
  gelu = lambda x: np.asarray(jax.nn.gelu(jnp.asarray(x), approximate=False))
  for stage in range(3):
    emb = np.asarray(params[f"emb_{stage}"]["embedding"])[PATH[:, stage]]
    mixed = linear(params[f"proj_{stage}"], state) + ratio * emb
    norm = params[f"ln_{stage}"]
    state = gelu(rms(mixed) * np.asarray(norm["scale"])
                 + np.asarray(norm["bias"]))
    np.testing.assert_allclose(
        found[:, stage], linear(params[f"head_{stage}"], state), atol=1e-3)


def test_tied_stages_are_one_but_for_the_first_projection():
  tied = dataclasses.replace(SPECULATOR, is_tied=True)
  params = random_of(tied)
  assert sorted(params) == ["emb_0", "head_0", "ln_0", "proj_0", "proj_1"]
  spread = {f"{kind}_{i}": params[f"{kind}_{int(kind == 'proj' and i > 0)}"]
            for kind in ("emb", "head", "ln", "proj") for i in range(3)}
  np.testing.assert_array_equal(
      ask(tied, params, FEATURE), ask(SPECULATOR, spread, FEATURE))


def test_weights_depend_on_the_stages_trained_for_not_on_the_draft():
  params = random_of(SPECULATOR)
  whole = ask(SPECULATOR, params, FEATURE)
  np.testing.assert_allclose(
      ask(SPECULATOR, params, FEATURE, PATH[:, :2]), whole[:, :2], atol=1e-5)
  other = dataclasses.replace(SPECULATOR, num_stages=2)
  assert np.abs(ask(other, params, FEATURE, PATH[:, :2])
                - whole[:, :2]).max() > 1e-2


@pytest.mark.parametrize("network", [
    token_heads.MedusaHeads(12, 16, num_heads=3),
    token_heads.HydraHeads(12, 16, num_heads=3),
    recurrent_heads.RecurrentHead(12, 16),
    recurrent_heads.RecurrentHead(12, 16, exit_size=20)])
def test_output_heads_start_as_the_targets(network):
  table = toy.bundle().target.output_table(ends().params)
  params = network.start_as(
      {"heads": random_of(network)}, ends().model, ends().params)["heads"]
  outs = [part["kernel"] for name, part in params.items()
          if name.startswith("out_")]
  assert outs
  for out in outs:
    np.testing.assert_array_equal(out[:16], table.T)
    assert not out[16:].any()


def test_behind_a_projection_to_less_there_is_no_table_to_start_as():
  network = recurrent_heads.RecurrentHead(12, 16, exit_size=10)
  params = {"heads": random_of(network)}
  jax.tree.map(np.testing.assert_array_equal, params, network.start_as(
      params, ends().model, ends().params))


def test_clover_gates_its_values_by_likeness():
  network = clover_heads.CloverHeads(12, 16, num_cosines=2)
  params = random_of(network)
  found = np.asarray(network.apply(
      {"params": params}, FEATURE, PATH[:, 0], method="fuse"))
  part, x = params["enter"], np.asarray(FEATURE)
  y = np.asarray(params["embed"]["embedding"])[PATH[:, 0]]
  normed = x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5)
  q = linear(part["query"], normed * np.asarray(part["norm"]["scale"]))
  k, v = linear(part["key"], y), linear(part["value"], y)
  for row in range(2):
    for head in (slice(0, 8), slice(8, 16)):
      a, b = q[row, head], k[row, head]
      cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
      size = np.sqrt((x[row] ** 2).mean())
      np.testing.assert_allclose(
          found[row, head], x[row, head] + size * cosine * v[row, head],
          atol=1e-4)


def test_clover_starts_as_a_copy_of_the_targets_parts():
  target, frozen = ends().model, ends().params
  network = clover_heads.CloverHeads.for_target(target)
  encoder = token_heads.encoder_of(target, 2)
  params = network.start_as(
      {"heads": random_of(network), "encoder": encoder.init(jax.random.key(2))},
      target, frozen)
  for layer in ("layers_0", "layers_1"):
    jax.tree.map(np.testing.assert_array_equal, params["encoder"][layer],
                 frozen["layers_1"])
  np.testing.assert_array_equal(
      params["heads"]["embed"]["embedding"], frozen["head"])
  fresh = network.init(
      jax.random.key(0), FEATURE, PATH[:, :3], ends())["params"]
  for name in ("first_map", "later_map"):  # They pass on what is read first.
    both = jnp.concatenate([FEATURE, 2 * FEATURE], -1)
    read = both[:, :fresh[name]["kernel"].shape[0]]
    np.testing.assert_allclose(read @ fresh[name]["kernel"], FEATURE, atol=1e-6)


@pytest.mark.parametrize("norm", ["rms", "rms_plus_one"])
def test_clover_normalises_guesses_as_the_target_does_features(norm):
  target = contract.decoder_model(toy.config(norm=norm, norm_eps=.5))
  frozen = jax.jit(target.init)(jax.random.key(0))
  frozen["final_norm"] = {"scale": jnp.linspace(.5, 2, 16)}
  network = clover_heads.CloverHeads.for_target(target)
  fresh = network.init(jax.random.key(1), FEATURE, PATH[:, :3],
                       contract.Ends(target, frozen))["params"]
  params = network.start_as({"heads": fresh, "encoder": {}}, target, frozen)
  _, guess = network.apply(
      {"params": params["heads"]}, FEATURE, PATH[:, 0], 0, method="guess")
  wanted = decoder.Norm(norm, .5).apply(
      {"params": frozen["final_norm"]}, FEATURE)
  np.testing.assert_allclose(guess, wanted, atol=1e-6)


def test_clover_refuses_targets_with_another_norm():
  target = contract.decoder_model(toy.config(norm="layer"))
  with pytest.raises(ValueError, match="norm='layer' of the target"):
    clover_heads.CloverHeads.for_target(target)


def test_an_encoder_reads_features_in_place_of_embeddings():
  encoder = token_heads.encoder_of(toy.bundle().target, 1)
  assert encoder.config.num_layers == 1
  assert encoder.config.d_model == toy.config().d_model
  params = encoder.init(jax.random.key(0))
  features = jax.random.normal(jax.random.key(1), (1, 5, 16))
  tokens = jnp.zeros((1, 5), jnp.int32)
  out = encoder.score(params, tokens, embeds=features, taps=("final",))
  grown = features.at[0, 4].add(1.0)
  other = encoder.score(params, tokens, embeds=grown, taps=("final",))
  np.testing.assert_array_equal(
      out.taps["final"][:, :4], other.taps["final"][:, :4])
  assert np.abs(out.taps["final"][:, 4] - other.taps["final"][:, 4]).max() > .01
