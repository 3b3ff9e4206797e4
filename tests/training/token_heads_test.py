"""Draft heads: what is trained, and that the judge is decoding itself."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spec_jax.core import types
from spec_jax.models import clover_heads
from spec_jax.models import contract
from spec_jax.models import recurrent_heads
from spec_jax.models import token_heads as networks
from spec_jax.training import data
from spec_jax.training import loop
from spec_jax.training import token_heads
from spec_jax.trees import expansion
from spec_jax.trees import shapes
from tests import toy
from tests.drafters import token_head_drafter_test as drafters

OPTIONS = token_heads.TokenHeadRecipe(
    networks.MedusaHeads, {"num_heads": 3}, levels=3, num_steps=60, batch=8,
    length=24, learning_rate=1e-2)
RECIPES = {
    "medusa": OPTIONS,
    "hydra": dataclasses.replace(OPTIONS, network=networks.HydraHeads),
    "hydra_pp": dataclasses.replace(
        OPTIONS, network=networks.HydraHeads, encoder_layers=1, is_taught=True,
        hyper={"num_heads": 3, "num_layers": 2, "dropout": .1}),
    "clover_2": dataclasses.replace(
        OPTIONS, network=clover_heads.CloverHeads, encoder_layers=2,
        is_taught=True, feature_weight=10.0, learning_rate=3e-3),
    "bpd": dataclasses.replace(
        OPTIONS, network=networks.BlockwiseHeads,
        hyper={"num_heads": 3, "hidden": 16}),
    "koala": dataclasses.replace(
        OPTIONS, hyper={"num_heads": 3, "num_layers": 2},
        adversarial_weight=.1),
    "recurrent_drafter": dataclasses.replace(
        OPTIONS, network=recurrent_heads.RecurrentHead,
        hyper={"num_layers": 1}),
    "token_embedding_speculator": dataclasses.replace(
        OPTIONS, network=recurrent_heads.MlpSpeculator,
        hyper={"num_stages": 3, "is_tied": True, "scales_input": True}),
}


def frozen():
  return toy.bundle().params["target"]


def by_part():
  return {"target": frozen()}


@functools.cache
def own_texts(rows=24, start=4):
  """Windows `u16[n, 24]`, from `start` on the target's own greedy text."""
  rng = np.random.default_rng(0)
  tokens = rng.integers(1, toy.VOCAB, (rows, start))
  score = jax.jit(lambda tokens: toy.bundle().target.score(
      frozen(), tokens).logits)
  for length in range(start, OPTIONS.length):
    padded = np.zeros((rows, OPTIONS.length), np.int32)
    padded[:, :length] = tokens
    best = np.argmax(np.asarray(score(padded))[:, length - 1], -1)
    tokens = np.concatenate([tokens, best[:, None]], axis=1)
  return tokens.astype(np.uint16)


@pytest.mark.parametrize("name", sorted(toy.TOKEN_HEADS))
@pytest.mark.parametrize("plan", [
    expansion.Shape((6, 3, 2)), expansion.Beams((6, 9, 9), (6, 4, 4))],
                         ids=["shape", "beams"])
def test_simulated_acceptance_is_what_decoding_measures(name, plan):
  """Round by round, on the texts that decoding itself writes."""
  kind, layers = toy.TOKEN_HEADS[name]
  options = dataclasses.replace(
      OPTIONS, network=kind, hyper=toy.HEADS[name], encoder_layers=layers)
  played = drafters.play(name, (2, 6, 7), 40, plan)
  last, heads = played[-1].after, token_heads.assemble(
      options, toy.bundle().target)
  simulate = jax.jit(lambda window: token_heads.simulated(
      heads, toy.bundle().params[name], frozen(), plan, window))
  num_accepted = 0
  for row, length in enumerate(last.length.tolist()):
    found = np.asarray(simulate(jnp.asarray(last.tokens[row])))
    measured = {step.before.length[row]: len(step.emitted(row)) - 1
                for step in played if step.emitted(row)}
    for pending, accepted in measured.items():
      if pending + plan.depth < length:
        assert found[pending - 2] == accepted
        num_accepted += accepted
    start = int(played[0].before.length[row])
    wanted = [n + 1 for pending, n in measured.items()
              if pending + plan.depth < length]
    places = found[None, start - 2:length - plan.depth - 2]
    # One round may begin before the end of what is known, and pass it.
    assert token_heads.block_efficiency(places) == pytest.approx(
        np.mean(wanted), abs=1e-6)
  assert num_accepted > 3


def start(options):
  return jax.jit(token_heads.recipe(
      options, toy.bundle().target, frozen()).init)(jax.random.key(3))


def loss_fn(options):
  heads = token_heads.assemble(options, toy.bundle().target)
  return jax.jit(lambda params, tokens, key: token_heads.loss_of(
      options, heads, params, by_part(), tokens, key))


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_training_raises_acceptance_on_heldout_text(name, tmp_path):
  options, target = RECIPES[name], toy.bundle().target
  texts = own_texts()
  make = token_heads.recipe(options, target, frozen())
  evaluate = token_heads.evaluator(
      options, target, frozen(), expansion.Shape((1, 1, 1)), texts[16:], 4)
  before = evaluate(jax.jit(make.init)(jax.random.key(0)))
  params = loop.fit(
      make, data.Rows(texts[:16], options.batch), num_steps=options.num_steps,
      folder=tmp_path, frozen=by_part())
  after = evaluate(params)
  assert set(after) == {"accept_1", "accept_2", "accept_3", "block_efficiency"}
  assert after["accept_1"] > before["accept_1"] + .1
  assert after["block_efficiency"] > before["block_efficiency"]
  assert after["accept_1"] >= after["accept_2"] >= after["accept_3"]


def test_loss_is_the_weighted_cross_entropy_of_each_level():
  """By hand, place by place, from the definition of the shifts."""
  target = toy.bundle().target
  tokens = jnp.asarray(own_texts()[:2, :9], jnp.int32)
  for is_taught in (False, True):
    options = dataclasses.replace(
        RECIPES["hydra"], decay=.5, is_taught=is_taught, encoder_layers=1)
    heads = token_heads.assemble(options, target)
    params = start(options)
    found, metrics = loss_fn(options)(params, tokens, jax.random.key(0))
    out = heads.read(frozen(), tokens, True)
    features, logits = heads.ground(params, out, tokens), out.logits
    ends, terms = contract.Ends(target, frozen()), []
    own = {"params": params["heads"]}
    ask = jax.jit(functools.partial(heads.network.apply, ends=ends))
    for row in range(2):
      for place in range(9 - 4):
        state = ask(own, features[row, place],
                    tokens[row, place + 1:place + 4])
        for level in range(3):
          log_q = jax.nn.log_softmax(state[level])
          law = jax.nn.one_hot(tokens[row, place + 2 + level], toy.VOCAB)
          if options.is_taught:
            law = jax.nn.softmax(logits[row, place + 1 + level])
          terms.append(-(law * log_q).sum() * .5 ** level / 10)
    assert float(found) == pytest.approx(float(sum(terms)), rel=1e-4)
    assert 0 <= metrics["right_3"] <= 1


def test_guesses_are_drawn_to_the_targets_features():
  """The smooth L1 distance, by hand; at zero weight it is not there."""
  target = toy.bundle().target
  options = dataclasses.replace(
      OPTIONS, network=clover_heads.CloverHeads, hyper={"num_heads": 3},
      encoder_layers=2, is_taught=True, decay=.7, feature_weight=10.0)
  params, tokens = start(options), jnp.asarray(own_texts()[:2, :9], jnp.int32)
  found, without = (float(loss_fn(dataclasses.replace(
      options, feature_weight=weight))(params, tokens, jax.random.key(0))[0])
                    for weight in (10.0, 0.0))
  heads = token_heads.assemble(options, target)
  out = heads.read(frozen(), tokens)
  path = token_heads.following(tokens, 4)
  guesses = np.asarray(heads.network.apply(
      {"params": params["heads"]}, heads.ground(params, out, tokens)[:, :5],
      path[..., :-1], method="guesses"))
  distance, features = 0, np.asarray(out.taps["final"])
  for place in range(5):
    for level in range(3):
      gap = np.abs(guesses[:, place, level] - features[:, place + 1 + level])
      huber = np.where(gap < 1, gap ** 2 / 2, gap - .5).mean()
      distance += 10 * .7 ** level * huber / 5
  assert found - without == pytest.approx(distance, rel=1e-3)


def test_dropout_is_for_training_alone():
  options = dataclasses.replace(RECIPES["hydra_pp"], hyper={
      "num_heads": 3, "dropout": .5})
  target = toy.bundle().target
  params, find_loss = start(options), loss_fn(options)
  tokens = jnp.asarray(own_texts()[:2], jnp.int32)
  losses = [float(find_loss(params, tokens, jax.random.key(seed))[0])
            for seed in (0, 0, 1)]
  assert losses[0] == losses[1] != losses[2]
  calm = dataclasses.replace(options, hyper={"num_heads": 3})
  found = [token_heads.evaluator(
      kind, target, frozen(), expansion.Shape((1,)), own_texts()[:2], 4)(params)
           for kind in (options, calm)]
  assert found[0] == found[1]


def test_rank_accuracy_plans_trees():
  """The share of places where each rank is the text's token, by hand."""
  options, target = RECIPES["hydra"], toy.bundle().target
  params, texts = start(options), own_texts()[:4]
  found = token_heads.rank_accuracy(
      options, target, frozen(), params, texts, 4, 5)
  heads = token_heads.assemble(options, target)
  tokens = jnp.asarray(texts, jnp.int32)
  path = np.asarray(token_heads.following(tokens, 4))[:, 2:]
  grounds = heads.ground(params, heads.read(frozen(), tokens), tokens)
  logits = np.asarray(jax.jit(functools.partial(
      heads.network.apply, ends=contract.Ends(target, frozen())))(
          {"params": params["heads"]}, grounds[:, 2:2 + path.shape[1]],
          path[..., :-1]))
  order = np.argsort(-logits, axis=-1)[..., :5]
  share = (order == path[..., 1:, None]).mean((0, 1))
  np.testing.assert_allclose(found, np.minimum.accumulate(share, 1), atol=1e-6)
  tree = shapes.calibrated(found, 6)
  assert len(shapes.paths_of(tree)) == 5


def test_accepted_follows_paths_only():
  tree = types.DraftTree(
      tokens=jnp.asarray([[9, 3, 4, 5, 6, 7]] * 4, jnp.int32),
      parents=jnp.asarray([[-1, 0, 0, 1, 2, 3]] * 4, jnp.int32),
      valid=jnp.asarray([[True] * 6] * 3 + [[True] * 5 + [False]]), q=None,
      draw="top_k", depth=3, max_children=2)
  text = jnp.asarray([[3, 5, 7], [8, 5, 7], [4, 6, 7], [3, 5, 7]], jnp.int32)
  assert token_heads.accepted(tree, text).tolist() == [3, 0, 2, 2]


def test_rounds_follow_each_other():
  found = np.asarray([[2, 0, 0, 0, 1, 3], [0, 0, 0, 0, 0, 0]])
  # The first row: 3 tokens, then one, then 2; the second six times one.
  assert token_heads.block_efficiency(found) == pytest.approx(12 / 9)


def test_windows_too_short_for_the_levels_are_named():
  with pytest.raises(ValueError, match="length=4, expected at least levels=3"):
    dataclasses.replace(OPTIONS, length=4)


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_padding_of_the_vocabulary_costs_nothing(name):
  """Where the target has no logits, laws and heads that share its table."""
  options = RECIPES[name]
  target = contract.decoder_model(toy.config(real_vocab_size=toy.VOCAB - 2))
  frozen = target.init(jax.random.key(0))
  recipe = token_heads.recipe(options, target, frozen)
  tokens = own_texts()[:2].astype(np.int32) % (toy.VOCAB - 2)
  loss, grads = jax.jit(jax.value_and_grad(
      lambda params: recipe.loss(
          params, {"target": frozen}, tokens, jax.random.key(2))[0]
  ))(recipe.init(jax.random.key(1)))
  assert np.isfinite(loss)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
