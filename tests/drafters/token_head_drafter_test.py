"""Heads on target features: what they see, and when."""

import dataclasses
import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spec_jax.core import types
from spec_jax.drafters import token_head_drafter
from spec_jax.models import contract
from spec_jax.models import token_heads
from spec_jax.trees import expansion
from tests import rounds
from tests import toy
from tests.trees import expansion_test

PLAN = expansion.Shape((2, 1, 2))
NAMES = sorted(toy.TOKEN_HEADS)


def drafter_of(name, plan=PLAN):
  kind, num_layers = toy.TOKEN_HEADS[name]
  model = toy.bundle().target
  network = kind.for_target(model, **toy.HEADS[name])
  return token_head_drafter.TokenHeadDrafter(
      model, network, plan,
      token_heads.encoder_of(model, num_layers) if num_layers else None)


def play(name, lengths=(1, 2, 7), budget=16, plan=PLAN):
  bundle = toy.bundle_of(name)
  system = rounds.compose(drafter_of(name, plan), bundle.target)
  params = types.Params(bundle.params["target"], bundle.params[name])
  return list(rounds.play(system, params, toy.prompts(lengths), budget))


@functools.partial(jax.jit, static_argnums=0)
def _read(name, tokens):
  """Features that are kept, what grounds the heads, the encoder's cache."""
  bundle, drafter = toy.bundle_of(name), drafter_of(name)
  own, tap = bundle.params[name], drafter.network.tap
  kept = bundle.target.score(
      bundle.params["target"], tokens, taps=(tap,)).taps[tap]
  if drafter.encoder is None:
    return kept, kept, ()
  entered, place = kept, tokens
  if drafter.network.is_paired:
    entered, place = drafter.network.apply(
        {"params": own["heads"]}, kept[:, :-1], tokens[:, 1:],
        method="fuse"), tokens[:, 1:]
  out = drafter.encoder.score(
      own["encoder"], place, embeds=entered, taps=("final",))
  grounds = out.taps["final"]
  return kept if drafter.network.is_paired else grounds, grounds, out.fresh


def read(name, text):
  tokens = np.zeros((1, rounds.CAPACITY), np.int32)
  tokens[0, :len(text)] = text
  return jax.device_get(_read(name, tokens))


def features(name, text):
  """`[T, E]`, what grounds the heads once the token after is pending."""
  return read(name, text)[1][0, :len(text)]


@pytest.mark.parametrize("name", NAMES)
def test_heads_are_grounded_on_the_token_before_the_pending_one(name):
  """Also after any rejection; the first round of a lone token drafts none."""
  played = play(name)
  assert any(len(step.emitted(row)) > 1 for step in played for row in range(3))
  for step in played:
    for row in range(3):
      text = step.text(row)
      assert step.before.drafter.exists[row] == (len(text) > 1)
      if len(text) == 1:
        assert step.tree.valid[row].tolist() == [True] + [False] * (
            step.tree.num_nodes - 1)
        continue
      np.testing.assert_allclose(
          step.before.drafter.feature[row],
          read(name, text)[0][0, len(text) - 2], atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_encoder_cache_equals_recompute(name):
  drafter = drafter_of(name)
  if drafter.encoder is None:
    assert play(name, budget=3)[-1].after.drafter.cache == ()
    return
  last = play(name)[-1].after
  cache = last.drafter.cache
  lag = 2 if drafter.network.is_paired else 1
  np.testing.assert_array_equal(cache.length, last.length - lag)
  for row in range(3):
    _, _, fresh = read(name, last.tokens[row, :last.length[row]])
    size = int(cache.length[row])
    for ours, theirs in zip(cache.k + cache.v, fresh.k + fresh.v):
      np.testing.assert_allclose(
          ours[row, :, :size], theirs[0, :, :size], atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_level_by_level_equals_every_path_alone(name):
  bundle, drafter = toy.bundle_of(name), drafter_of(name)
  step = play(name, budget=4)[-1]
  feature = features(name, step.text(2))[-2]
  ends = contract.Ends(bundle.target, bundle.params["target"])
  root, wanted = step.text(2)[-1], []
  level = [()]
  for depth, counts in enumerate(PLAN.counts):
    longer = []
    for path, count in zip(level, counts):
      tokens = jnp.asarray((root,) + path, jnp.int32)
      logits = drafter.network.apply(
          {"params": bundle.params[name]["heads"]}, feature, tokens, ends)
      longer += [path + (int(t),)
                 for t in np.argsort(-np.asarray(logits[depth]))[:count]]
    level = longer
    wanted += level
  assert expansion_test.paths(step.tree, 2) == wanted


def test_more_levels_than_heads_are_refused():
  with pytest.raises(ValueError, match="5 levels, MedusaHeads has heads for 4"):
    drafter_of("medusa_1", expansion.Shape((1,) * 5))
  with pytest.raises(ValueError, match="up to 13 children"):
    drafter_of("hydra", expansion.Shape((13,)))


def start_of(name, **changes):
  """A network as training starts it, its parameters, the target's ends."""
  kind, _ = toy.TOKEN_HEADS[name]
  bundle = toy.bundle()
  width = bundle.target.config.d_model
  network = kind(toy.VOCAB, width, **toy.HEADS[name] | changes)
  ends = contract.Ends(bundle.target, bundle.params["target"])
  params = network.init(
      jax.random.key(0), jnp.zeros((1, width)),
      jnp.zeros((1, 4), jnp.int32), ends)["params"]
  return network, network.start_as(
      {"heads": params}, bundle.target, ends.params)["heads"], ends


@pytest.mark.parametrize("name, changes", [
    ("medusa_1", {}), ("medusa_1", {"num_layers": 3}),
    ("medusa_1", {"is_shared": True}), ("hydra", {}),
    ("hydra", {"num_layers": 3}), ("bpd", {}), ("recurrent_drafter", {})])
def test_untrained_heads_say_what_the_target_says(name, changes):
  network, params, ends = start_of(name, **changes)
  feature = jax.random.normal(jax.random.key(1), (3, network.width))
  logits = network.apply(
      {"params": params}, feature, jnp.zeros((3, 4), jnp.int32), ends)
  for level in range(4):
    np.testing.assert_allclose(
        logits[:, level], ends.unembed(feature), atol=1e-5)


def test_medusa_tree_is_cartesian():
  tree = play("medusa_1", plan=expansion.Shape((3, 3)))[1].tree
  for row in range(3):
    found = expansion_test.paths(tree, row)
    below = [[p[1] for p in found if len(p) == 2 and p[0] == first[0]]
             for first in found[:3]]
    assert below[0] == below[1] == below[2] and len(set(below[0])) == 3


def test_clover_without_its_values_ignores_the_drafted_tokens():
  """Then every later level guesses alike, below every node."""
  bundle, drafter = toy.bundle(), drafter_of(
      "clover_2", expansion.Shape((3, 3, 3)))
  width, own = drafter.network.width, bundle.params["clover_2"]["heads"]
  later = {"kernel": own["later_map"]["kernel"].at[width:].set(0)}
  value = jax.tree.map(jnp.zeros_like, own["attend"]["value"])
  deaf = own | {"later_map": later, "attend": own["attend"] | {"value": value}}
  ends = contract.Ends(bundle.target, bundle.params["target"])
  below = {}
  for kind, params in (("deaf", deaf), ("whole", own)):
    tree = drafter.plan.grow(
        jnp.asarray([3], jnp.int32), token_heads.Expander(
            drafter.network, params, jnp.ones((1, width)), ends))
    tokens = np.asarray(tree.tokens)[0]
    below[kind] = {tuple(tokens[start:start + 3]) for start in range(4, 40, 3)}
  assert len(below["deaf"]) == 1 and len(below["whole"]) > 3


@pytest.mark.parametrize("name", ["hydra", "hydra_pp"])
def test_hydra_without_its_embeddings_is_a_medusa(name):
  """Zeroed columns of R and A make all siblings' subtrees the same."""
  bundle, drafter = toy.bundle(), drafter_of(name, expansion.Shape((3, 3)))
  width = drafter.network.width
  own = bundle.params[name]
  deaf = {key: {**part, "kernel": part["kernel"].at[width:].set(0)}
          if part["kernel"].shape[0] > width else part
          for key, part in own["heads"].items()}
  ends = contract.Ends(bundle.target, bundle.params["target"])
  below = {}
  for kind, params in (("deaf", deaf), ("whole", own["heads"])):
    tree = drafter.plan.grow(
        jnp.asarray([3], jnp.int32), token_heads.Expander(
            drafter.network, params, jnp.ones((1, width)), ends))
    below[kind] = np.asarray(tree.tokens)[0, 4:].reshape(3, 3).tolist()
  assert below["deaf"][0] == below["deaf"][1] == below["deaf"][2]
  assert below["whole"][0] != below["whole"][1]


@pytest.mark.parametrize("name", ["hydra", "hydra_pp", "medusa_1"])
def test_wider_trees_accept_at_least_as_much(name):
  """Tree of a chain's nodes and more: never shorter, sometimes longer."""
  chain, wide = (
      play(name, (5,), 12, expansion.Shape(shape))
      for shape in ((1, 1), (4, (2, 1, 1, 1))))
  ends = {step.before.length[0]: step.after.length[0] for step in wide}
  shared = [step for step in chain if step.before.length[0] in ends]
  assert len(wide) < len(chain)
  for step in shared:
    assert ends[step.before.length[0]] >= step.after.length[0]


class BigramTarget(rounds.TableModel):
  """A bigram model; its features are its tokens, so heads can be told."""

  config = SimpleNamespace(
      **vars(rounds.TableModel.config), d_model=toy.VOCAB)
  empty_scratch = contract.empty_scratch

  def unembed(self, params, x, ids=None):
    del ids
    return x @ params


BIGRAMS = BigramTarget(toy.VOCAB)
CYCLE = rounds.cycle(toy.VOCAB)  # Token t is followed by t + 1.
# By head and token, the logits of the tokens that follow.
RIGHT = np.stack([np.roll(np.eye(toy.VOCAB, dtype=np.float32), 2 + head, axis=1)
                  for head in range(3)])


def told(kind, says):
  """Heads for `BIGRAMS` that say `says` `f32[H, V, V]`, in units of 20 or so.

  Returns:
    A drafter of a chain and its parameters.
  """
  num = len(says)
  unit = np.eye(toy.VOCAB, dtype=np.float32)
  if kind is token_heads.MedusaHeads:
    still = {"kernel": np.zeros_like(unit), "bias": np.zeros_like(unit[0])}
    network = kind.for_target(BIGRAMS, num_heads=num)
    params = {f"block_{head}_0": still for head in range(num)} | {
        f"out_{head}": {"kernel": 20 * table}
        for head, table in enumerate(says)}
  else:
    network = kind.for_target(BIGRAMS, num_heads=num, hidden=toy.VOCAB)
    # The target's head makes of each token the one after it.
    outer = np.zeros((num, toy.VOCAB, num, toy.VOCAB), np.float32)
    for head, table in enumerate(says):
      outer[head, :, head] = np.roll(table, -1, axis=1) - unit
    zeros = np.zeros(num * toy.VOCAB, np.float32)
    params = {"inner": {"kernel": np.tile(unit, num), "bias": zeros},
              "outer": {"kernel": outer.reshape(2 * (zeros.size,)),
                        "bias": zeros}}
  drafter = token_head_drafter.TokenHeadDrafter(
      BIGRAMS, network, expansion.Shape((1,) * num))
  return drafter, {"heads": jax.tree.map(jnp.asarray, params)}


def play_told(drafter, params, budget=16):
  system = rounds.compose(drafter, BIGRAMS)
  return list(rounds.play(
      system, types.Params(jnp.asarray(CYCLE), params),
      rounds.prompts_of([[3, 4], [7, 8, 9]]), budget))


@pytest.mark.parametrize("budget", [8, 9, 11, 12])
def test_oracle_heads_need_the_fewest_forwards(budget):
  """Each round of k right drafts gives k + 1 tokens (Stern et al., Sec. 4)."""
  played = play_told(*told(token_heads.BlockwiseHeads, RIGHT), budget)
  assert len(played) == -(-budget // 4)
  for row, start in enumerate((3, 7)):
    text = played[-1].after.tokens[row, :budget + 2 + row]
    np.testing.assert_array_equal(
        text, (start + np.arange(budget + 2 + row)) % toy.VOCAB)


def test_medusa_with_one_node_a_level_is_blockwise_decoding():
  """Heads that say the same draft the same and accept the same.

  That is the longest beginning on which head after head is right.
  """
  says = RIGHT.copy()
  wrong = np.random.default_rng(5).random(says.shape[:2]) < .3
  says[wrong] = np.roll(says[wrong], 1, axis=-1)
  blockwise, medusa = (play_told(*told(kind, says), 24) for kind in (
      token_heads.BlockwiseHeads, token_heads.MedusaHeads))
  counts = set()
  for ours, theirs in zip(blockwise, medusa, strict=True):
    np.testing.assert_array_equal(ours.tree.tokens, theirs.tree.tokens)
    for row in range(2):
      emitted = ours.emitted(row)
      assert emitted == theirs.emitted(row)
      if ours.after.status[row] == types.Status.RUNNING:
        misses = wrong[:, ours.text(row)[-2]]
        counts.add(len(emitted))
        assert len(emitted) == 1 + np.argmax(np.append(misses, True))
  assert counts == {1, 2, 3, 4}


def test_a_rebuilt_drafter_is_equal():
  drafter = drafter_of("hydra_pp")
  assert drafter == drafter_of("hydra_pp") and hash(drafter) == hash(
      drafter_of("hydra_pp"))
  assert drafter != dataclasses.replace(drafter, plan=expansion.Shape((1,)))
