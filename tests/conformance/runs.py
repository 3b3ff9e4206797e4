"""The decodes that the conformance rows share: few compilations per system."""

import collections
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from spec_jax import systems
from spec_jax.core import compiling
from spec_jax.core import counts as counts_lib
from spec_jax.core import keys as keys_lib
from spec_jax.core import sampling as sampling_lib
from spec_jax.core import types
from spec_jax.executors import decoding
from spec_jax.executors import hosted
from tests import toy

# Ends some greedy rows early, at different steps; others run out of budget.
END_OF_TEXT = 10
BUDGETS = (13, 24, 24, 9)
CAPACITY = 64
# Small trees compile sooner. Any system with such a hyper-parameter gets it.
SMALL = {"depth": 3, "branching": (2, 1, 2), "budget": 7, "width": 3,
         "top_k": 3, "simulations": 6, "level": 4, "guesses": 3,
         "reviewed": 3, "unreviewed": 2, "proposed": 3}

# Any system that reads such a store gets a small one.
STORES = {"datastore": toy.datastore, "dense_store": toy.dense_store}

BASELINE = "autoregressive"
GREEDY = sampling_lib.GREEDY
PLAIN = sampling_lib.Sampling(temperature=0.8)
WARPED = sampling_lib.Sampling(
    temperature=0.8, top_k=8, top_p=0.95, repetition_penalty=1.2)

LAW_ROWS = 4096
# In several runs: XLA folds constants of the batch's size, slowly.
LAW_RUNS = 8
LAW_TOKENS = 3
LAW_PROMPT = (8, 6, 3, 4)

traces = collections.Counter()


class Final(NamedTuple):
  """A finished decode, on the host."""

  state: types.DecodeState
  counts: counts_lib.Counts
  prompt_length: np.ndarray

  def text(self, row: int) -> list[int]:
    return self.state.tokens[row, :self.state.length[row]].tolist()

  @property
  def texts(self) -> list[list[int]]:
    return [self.text(row) for row in range(len(self.state.length))]


# Compiling is most of the cost, so the compiler is told not to try hard.
@functools.partial(jax.jit, static_argnums=(0, 5),
                   compiler_options=compiling.ONCE)
def _play(system, params, prompts, keys, budgets, capacity):
  traces[system.name] += 1
  state = decoding.start(system, params, prompts, keys, budgets, capacity)
  counts = decoding.zero_counts(system, prompts.tokens.shape[0])
  return decoding.rounds(system, params, state, counts)


def _play_hosted(system, params, prompts, keys, budgets, capacity):
  executor = hosted.Hosted()
  state = executor.start(system, params, prompts, keys, budgets, capacity)
  counts = decoding.zero_counts(system, prompts.tokens.shape[0])
  state, counts = executor.rounds(system, params, state, counts)
  executor.finish(system, params, state, counts, prompts)
  traces[system.name] = hosted._round._cache_size()  # pylint: disable=protected-access
  return hosted.on_device(system, state)[0], counts


def play(system, params, prompts, keys, budgets, capacity=CAPACITY) -> Final:
  """`decoding.decode`, but keeps the whole state; on the host where it must."""
  budgets = jnp.asarray(budgets, jnp.int32)
  play_fn = _play_hosted if system.drafter.needs.host_store else _play
  state, counts = play_fn(system, params, prompts, keys, budgets, capacity)
  host = jax.device_get(
      (state.replace(keys=jax.random.key_data(state.keys)), counts))
  return Final(*host, np.asarray(prompts.length))


def owner(name) -> str:
  """Of the target that a system decodes: the system itself or BASELINE."""
  return name if systems.info(name).own_target else BASELINE


def build(name, sampling, end_of_text=END_OF_TEXT, fresh=False,
          target=BASELINE, **variant):
  """A system on toy models; `fresh` builds everything, models too, anew.

  `target` names the system whose target it gets, if it brings none itself;
  `variant` are hyper-parameters that are not to be its defaults.
  """
  make_bundle = toy.bundle.__wrapped__ if fresh else toy.bundle
  bundle = systems.bundle_of(target, make_bundle(end_of_text))
  known = systems.hyper_parameters(name)
  hyper = {key: value for key, value in SMALL.items() if key in known}
  hyper |= {key: make() for key, make in STORES.items() if key in known}
  system, params = systems.build(name, bundle, **hyper | variant)
  return system.with_sampling(sampling), params


@functools.cache
def ragged(name, sampling, target=BASELINE) -> Final:
  """Four rows of different prompts that stop at different steps."""
  system, params = build(name, sampling, target=target)
  return play(system, params, toy.prompts(), keys_lib.row_keys(0, 4), BUDGETS)


@functools.cache
def alone(name) -> tuple[Final, ...]:
  """The rows of `ragged`, greedy, each in a batch of its own."""
  system, params = build(name, GREEDY)
  batch = toy.prompts(), keys_lib.row_keys(0, 4), np.asarray(BUDGETS)
  rows = [jax.tree.map(lambda a, i=row: a[i:i + 1], batch) for row in range(4)]
  return tuple(play(system, params, *row) for row in rows)


def law_sample(system, params, seed=0) -> np.ndarray:
  """`i[R, 3]`: the first emitted tokens of many rows of one prompt."""
  start, batch = len(LAW_PROMPT), LAW_ROWS // LAW_RUNS
  prompts = decoding.Prompts(
      jnp.broadcast_to(jnp.asarray(LAW_PROMPT, jnp.int32), (batch, start)),
      jnp.full((batch,), start, jnp.int32))
  tokens = [
      play(system, params, prompts, keys_lib.row_keys(seed, batch, row),
           [LAW_TOKENS] * batch, capacity=16).state.tokens
      for row in range(0, LAW_ROWS, batch)]
  return np.concatenate(tokens)[:, start:start + LAW_TOKENS]


@functools.cache
def sampled_law(name, target=BASELINE) -> np.ndarray:
  return law_sample(*build(name, PLAIN, end_of_text=None, target=target))


@functools.cache
def exact_law(target=BASELINE) -> np.ndarray:
  """`f[V, V, V]`: the joint law of those tokens, by the chain rule."""
  bundle = toy.bundle_of(target)
  pairs = np.indices((toy.VOCAB,) * 2).reshape(2, -1).T
  texts = np.concatenate(
      [np.tile(LAW_PROMPT, (len(pairs), 1)), pairs], axis=1).astype(np.int32)
  logits = bundle.target.score(bundle.params["target"], texts).logits
  laws = np.asarray(PLAIN.probs(logits[:, -LAW_TOKENS:]), np.float64)
  first, second, third = laws.swapaxes(0, 1).reshape(
      LAW_TOKENS, toy.VOCAB, toy.VOCAB, toy.VOCAB)
  law = first[0, 0][:, None, None] * second[:, 0][:, :, None] * third
  return law / law.sum()  # They are float32 laws.


@functools.cache
def greedy_texts(target=BASELINE) -> list[list[int]]:
  """What every exact system must write: a loop without cache or draft."""
  bundle, prompts = toy.bundle_of(target, END_OF_TEXT), toy.prompts()
  texts = []
  for row, budget in enumerate(BUDGETS):
    length = int(prompts.length[row])
    text = toy.greedy_reference(
        bundle.target, bundle.params["target"],
        np.asarray(prompts.tokens)[row, :length], budget)
    ends = [i for i in range(length, len(text)) if text[i] == END_OF_TEXT]
    texts.append(text[:ends[0] + 1] if ends else text)
  return texts


@functools.cache
def _scorer(model):
  return jax.jit(lambda params, tokens: model.score(params, tokens).fresh)


def recomputed(model, params, tokens) -> types.FreshKV:
  """Keys and values of whole texts `i32[B, L]`, from scratch."""
  return jax.device_get(_scorer(model)(params, tokens))
