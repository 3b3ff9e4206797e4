"""Kangaroo and EESD: split forward, adapter, length."""

import collections
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spec_jax import controllers
from spec_jax import systems
from spec_jax.caches import dense
from spec_jax.core import sampling as sampling_lib
from spec_jax.core import types
from spec_jax.models import early_exit
from tests import rounds
from tests import toy
from tests.systems.self_speculative import models

LAYERS, EXIT = 4, 2
TEXT = jnp.asarray([[3, 1, 4, 1, 5, 9, 2, 6], [2, 7, 1, 8, 2, 8, 1, 8]])
HYPER = {"kangaroo": {"exit_layer": EXIT, "has_feed_forward": False},
         "eesd": {"exit_layer": EXIT}}


@functools.cache
def bundle():
  """A deep target, with an adapter of random parameters for each system."""
  model, params = models.deep(LAYERS)
  heads = {name: early_exit.from_hyper(model, name, hyper)
           for name, hyper in HYPER.items()}
  own = {name: jax.jit(head.adapter.init)(jax.random.key(5))
         for name, head in heads.items()}
  # Like a trained one: the stream goes through to the target's output head.
  for tree in own.values():
    tree["final_norm"] = params["final_norm"]
  return toy.ToyBundle(model, {}, {"target": params, **own}, heads=HYPER)


def play(name, lengths=(1, 5, 3), sampling=sampling_lib.GREEDY, **hyper):
  system, params = systems.build(name, bundle(), **hyper)
  return list(rounds.play(system.with_sampling(sampling), params,
                          toy.prompts(lengths), 16))


@pytest.mark.parametrize("split", [1, 2, 3])
def test_split_forward_is_the_full_forward(split):
  model, params = models.deep(LAYERS)
  prefix = model.score(params, TEXT[:, :5])
  cache = dense.empty(model, 2, 16).commit(
      prefix.fresh, prefix.fresh.positions, jnp.full((2,), 5, jnp.int32))
  tokens, mask = TEXT[:, 5:], jnp.tril(jnp.ones((2, 3, 3), bool))
  positions = jnp.broadcast_to(jnp.arange(5, 8)[None], (2, 3))
  run = functools.partial(
      model.forward, params, tokens, positions, mask, cache)
  whole = run(taps=(split,))
  first = run(layers=(0, split), taps=(split,), with_logits=False)
  rest = run(layers=(split, LAYERS), embeds=first.taps[split], taps=(split,))
  np.testing.assert_allclose(rest.logits, whole.logits, atol=1e-5)
  joined = first.fresh.below(rest.fresh)
  assert len(joined.k) == LAYERS
  jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5),
               joined, whole.fresh)
  for out in (first, rest):
    np.testing.assert_allclose(out.taps[split], whole.taps[split], atol=1e-5)


def test_an_adapter_of_attention_alone_has_no_feed_forward():
  adapter = early_exit.from_hyper(
      bundle().target, "kangaroo", HYPER["kangaroo"]).adapter
  params = bundle().params["kangaroo"]
  assert set(params["layers_0"]) == {"attn", "attn_norm"}
  size = sum(leaf.size for leaf in jax.tree.leaves(params))
  assert size == adapter.config.num_params
  stream = jax.random.normal(jax.random.key(0), (1, 4, 16))
  silent = jax.tree.map(lambda x: x, params)
  silent["layers_0"]["attn"]["out"]["kernel"] *= 0
  out = adapter.score(silent, jnp.zeros((1, 4), jnp.int32), embeds=stream,
                      taps=("final",), with_logits=False)
  square = np.square(stream).mean(-1, keepdims=True)
  np.testing.assert_allclose(
      out.taps["final"], stream / np.sqrt(square + 1e-5), atol=1e-5)


def test_length_follows_the_threshold():
  """Without a bound the published six drafts, above 1 one in each round."""
  always, never = (play("kangaroo", threshold=bound) for bound in (0.0, 1.1))
  for played, wanted in ((always, 6), (never, 1)):
    for step in played:
      running = step.before.status == types.Status.RUNNING
      assert (step.proposed.num_drafted[running] == wanted).all()
      assert (step.tree.valid[running].sum(-1) == 1 + wanted).all()


@pytest.mark.parametrize("name", sorted(HYPER))
def test_text_is_the_reference_and_drafts_are_the_early_exit(name):
  """Each draft is what the whole text, run again, says of the exit."""
  system, params = systems.build(name, bundle(), depth=4)
  model = system.drafter.model
  played = play(name, depth=4)
  for row, prompt in enumerate(toy.prompts((1, 5, 3)).tokens):
    length = (1, 5, 3)[row]
    text = toy.greedy_reference(
        model.target, params.target, prompt[:length], 16)
    last = played[-1].after
    assert last.tokens[row, :last.length[row]].tolist() == text
  read = jax.jit(lambda tokens: said(model, params.drafter, tokens))
  for step in played:
    for row in range(3):
      if step.before.status[row] != types.Status.RUNNING:
        continue
      size, count = step.before.length[row], step.proposed.num_drafted[row]
      text = step.before.tokens[row].copy()
      text[size:size + count] = step.tree.tokens[row, 1:1 + count]
      out, best = read(text[None])
      np.testing.assert_array_equal(
          best[0, size - 1:size - 1 + count],
          step.tree.tokens[row, 1:1 + count])
      streams = out.taps[early_exit.STREAM][0, size - 1:size + count]
      np.testing.assert_allclose(
          step.proposed.streams[row, :1 + count], streams, atol=1e-4)
      known = step.before.drafter.adapted
      assert known.length[row] == size - 1
      for ours, theirs in zip(known.k + known.v, (
          *out.fresh.k[EXIT:], *out.fresh.v[EXIT:])):
        np.testing.assert_allclose(
            ours[row, :, :size - 1], theirs[0, :, :size - 1], atol=1e-4)


def said(model, params, tokens):
  positions = jnp.arange(tokens.shape[1])[None]
  mask = jnp.tril(jnp.ones((tokens.shape[1],) * 2, bool))[None]
  out = model.forward(params, tokens, positions, mask)
  logits = model.logits(params, out.taps[early_exit.HIDDEN])
  return out, jnp.argmax(logits, -1)


def with_controller(name, controller):
  system, params = systems.build(name, bundle(), depth=4)
  drafter = dataclasses.replace(system.drafter, controller=controller)
  return dataclasses.replace(system, drafter=drafter).with_sampling(
      sampling_lib.GREEDY), params


@pytest.mark.parametrize("name", ["fixed", "cost_model"])
def test_every_controller_leaves_the_text_alone(name):
  system, params = with_controller("eesd", controllers.get(name))
  *_, last = rounds.play(system, params, toy.prompts((3, 4)), 12)
  for row, length in enumerate((3, 4)):
    prompt = toy.prompts((3, 4)).tokens[row, :length]
    assert last.after.tokens[row, :length + 12].tolist() == (
        toy.greedy_reference(system.target, params.target, prompt, 12))


@pytest.mark.parametrize("is_right", [True, False])
def test_drafts_grow_or_shrink_as_they_are_accepted(is_right):
  """An exit that always knows what the target says, one that never does."""
  model, params = models.deep(LAYERS)
  params = models.without(params, range(EXIT, LAYERS))
  own = jax.tree.map(lambda x: x, bundle().params["eesd"])
  for part, linear in (("attn", "out"), ("mlp", "down")):
    own["layers_0"][part][linear]["kernel"] *= 0
  norm = params["final_norm"]["scale"]
  own["final_norm"] = {"scale": norm if is_right else -norm}
  held = toy.ToyBundle(model, {}, {"target": params, "eesd": own}, heads=HYPER)
  system, params = systems.build("eesd", held, depth=4)
  played = list(rounds.play(
      system.with_sampling(sampling_lib.GREEDY), params,
      toy.prompts((2,) * 8), 40))
  lengths = np.stack([step.proposed.num_drafted for step in played[:-1]])
  late = lengths[len(lengths) // 2:].mean()
  control = played[-1].after.drafter.control
  mean = control.accepted / (control.accepted + control.rejected)
  assert (late > 3.5 and (mean > .9).all()) if is_right else (
      late < 1.3 and (mean < .1).all())


@dataclasses.dataclass(frozen=True)
class CountingModel:
  """Counts the tokens that each layer of a target runs, at run time."""

  inner: object

  def __getattr__(self, name):
    return getattr(self.inner, name)

  def forward(self, params, tokens, *args, layers=None, **kwargs):
    first, stop = layers or (0, LAYERS)
    jax.debug.callback(
        lambda: calls.append((first, stop, tokens.shape[1])))
    return self.inner.forward(
        params, tokens, *args, layers=layers, **kwargs)


calls = []


def test_no_layer_runs_a_token_twice():
  calls.clear()
  system, params = systems.build("kangaroo", bundle(), depth=4, threshold=0.0)
  target = CountingModel(system.target)
  model = dataclasses.replace(system.drafter.model, target=target)
  system = dataclasses.replace(
      system, target=target,
      drafter=dataclasses.replace(system.drafter, model=model)
      ).with_sampling(sampling_lib.GREEDY)
  list(rounds.play(system, params, toy.prompts((4,)), 16, num_rounds=1))
  jax.effects_barrier()
  # The prompt, then the root and four drafts one by one, then all five.
  assert collections.Counter(calls) == {
      (0, LAYERS, 4): 1, (0, EXIT, 1): 5, (EXIT, LAYERS, 5): 1}


def test_mistakes_are_named():
  target = bundle().target
  for exit_layer in (0, LAYERS):
    with pytest.raises(ValueError, match=f"exit_layer={exit_layer}, expected"):
      early_exit.from_hyper(target, "x", {"exit_layer": exit_layer})
