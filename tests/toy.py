"""Toy models for tests: two thin layers, a dozen tokens, ragged prompts."""

import atexit
import dataclasses
import functools
import shutil
import tempfile

import jax
import jax.numpy as jnp
import numpy as np

from spec_jax import systems
from spec_jax.controllers import decision
from spec_jax.controllers import learned
from spec_jax.controllers import length_predictor
from spec_jax.executors import decoding
from spec_jax.models import chimera
from spec_jax.models import clover_heads
from spec_jax.models import config as config_lib
from spec_jax.models import contract
from spec_jax.models import early_exit
from spec_jax.models import feature_model
from spec_jax.models import glide
from spec_jax.models import grouped_model
from spec_jax.models import lora
from spec_jax.models import ngram
from spec_jax.models import recurrent_heads
from spec_jax.models import token_heads
from spec_jax.stores import datastore as datastore_lib
from spec_jax.stores import dense_index
from spec_jax.stores import dense_store as dense_store_lib
from spec_jax.training import hidden as hidden_lib
from spec_jax.training import ngrams

VOCAB = 12


@dataclasses.dataclass(frozen=True)
class ToyBundle:
  """Duck-types `models.bundle.Bundle` with random parameters."""

  target: object
  models: dict
  params: dict
  end_of_text: int | None = None
  tokenizer: object = None
  heads: dict = dataclasses.field(default_factory=dict)


def config(num_layers=2, **overrides):
  fields = dict(vocab_size=VOCAB, d_model=16, num_layers=num_layers,
                num_heads=2, num_kv_heads=1, head_dim=8, d_ff=24,
                max_positions=256, embed_scale=50.0, tie_embeddings=False)
  return config_lib.DecoderConfig(**{**fields, **overrides})


@functools.cache
def bundle(end_of_text=None, draft_noise=0.25) -> ToyBundle:
  """A pair of models and all trained parts."""
  models = pair.__wrapped__(end_of_text, draft_noise)  # As new as the bundle.
  return dataclasses.replace(
      models, params={**models.params, **head_params()}, heads=HEADS)


@functools.cache
def pair(end_of_text=None, draft_noise=0.25) -> ToyBundle:
  """A random target and a draft: the target's weights with noise."""
  model = contract.decoder_model(config())
  return ToyBundle(
      model, {"draft": model}, _pair_params(draft_noise), end_of_text)


@functools.cache
def bundle_of(name, end_of_text=None) -> ToyBundle:
  """The bundle with the target that a system decodes."""
  return systems.bundle_of(name, bundle(end_of_text))


@functools.cache
def _pair_params(draft_noise):
  model = contract.decoder_model(config())
  params = sharpen(jax.jit(model.init)(jax.random.key(1)))
  leaves, structure = jax.tree.flatten(params)
  keys = jax.random.split(jax.random.key(2), len(leaves))
  noisy = [leaf + draft_noise * leaf.std() * jax.random.normal(k, leaf.shape)
           for leaf, k in zip(leaves, keys)]
  return {"target": params, "draft": jax.tree.unflatten(structure, noisy)}


# Trained parts of systems, here with random parameters.
HEADS = {"specdec_pp": {"num_blocks": 1}, "mcsd_improved": {"widths": (8,)},
         "cs_drafting": {}, "medusa_1": {"num_heads": 4},
         "medusa_2": {"num_heads": 4},
         "koala": {"num_heads": 4, "num_layers": 3},
         "hydra": {"num_heads": 4},
         "hydra_pp": {"num_heads": 4, "num_layers": 2, "dropout": 0.2},
         "recurrent_drafter": {"num_layers": 1}, "bpd": {"hidden": 8},
         "bpd_rescored": {}, "superposed": {}, "clover_2": {"num_heads": 5},
         "token_embedding_speculator": {"inner": 8, "scales_input": True},
         "eagle_2": {}, "koala_eagle": {"layers": {"num_layers": 2}},
         "fr_spec": {}, "vocab_trim": {},
         "ada_eagle": {"num_blocks": 1},
         "kangaroo": {"exit_layer": 1, "has_feed_forward": False},
         "eesd": {"exit_layer": 1}, "chimera": {},
         "glide": {"d_model": 8, "num_heads": 2, "num_kv_heads": 1,
                   "head_dim": 4, "d_ff": 12, "embed_scale": 50.0},
         "poss": {"layers": {"num_layers": 2}, "span": 1},
         "jakiro": {"num_experts": 2},
         "falcon": {"block": 2}, "scylla": {"layers": {"num_layers": 3}},
         "fspad": {"fusion": "sample", "is_split": True},
         "coral": {"num_groups": 6},
         "gumiho": {"layers": {"num_layers": 2}, "num_heads": 5},
         "eagle_3": {"taps": (0, 1, 2), "fusion": "attend", "head_size": 8}}
# Which of them are heads on the target's features, and what encodes these.
TOKEN_HEADS = {"medusa_1": (token_heads.MedusaHeads, 0),
               "medusa_2": (token_heads.MedusaHeads, 0),
               "koala": (token_heads.MedusaHeads, 0),
               "hydra": (token_heads.HydraHeads, 0),
               "hydra_pp": (token_heads.HydraHeads, 1),
               "recurrent_drafter": (recurrent_heads.RecurrentHead, 0),
               "token_embedding_speculator": (
                   recurrent_heads.MlpSpeculator, 0),
               "bpd": (token_heads.BlockwiseHeads, 0),
               "clover_2": (clover_heads.CloverHeads, 2)}
# Which are nets that guess features.
FEATURE_NETS = ("eagle_2", "koala_eagle", "eagle_3", "poss", "jakiro", "gumiho",
                "fspad", "falcon", "scylla")
# What the drafts know of the toy vocabulary, where that is not all.
TOKEN_IDS = {"eagle_3": (0, 1, 2, 4, 5, 7, 10, 11),
             "fr_spec": (0, 1, 3, 4, 5, 8, 10), "vocab_trim": (1, 2, 6, 9, 10)}


@functools.cache
def head_params(vocab_size=VOCAB):
  features = jnp.zeros((1, config().d_model))
  networks = {
      "specdec_pp": learned.AcceptanceHead(**HEADS["specdec_pp"]),
      "mcsd_improved": decision.DecisionNetwork(**HEADS["mcsd_improved"])}
  params = {name: network.init(jax.random.key(3), features)["params"]
            for name, network in networks.items()}
  predictor = length_predictor.LengthPredictor(**HEADS["ada_eagle"])
  lengths = predictor.init(jax.random.key(3), features, features)["params"]
  # Between none and some drafts, so that both happen.
  lengths["out"]["bias"] = lengths["out"]["bias"] + 1.5
  params["ada_eagle"] = lengths
  target = contract.decoder_model(config())
  nets = {name: feature_model.from_hyper(target, name, HEADS[name])
          for name in FEATURE_NETS}
  nets |= {name: early_exit.from_hyper(target, name, HEADS[name]).adapter
           for name in ("kangaroo", "eesd")}
  reader = contract.decoder_model(config(vocab_size=vocab_size))
  nets["glide"] = glide.from_hyper(reader, HEADS["glide"])
  nets["chimera"] = chimera.from_hyper(reader, "chimera", HEADS["chimera"])
  params |= {name: jax.jit(net.init)(jax.random.key(4))
             for name, net in nets.items()}
  params["chimera"] = randomised(params["chimera"])
  grouped = grouped_model.from_hyper(target, "coral", HEADS["coral"], 2)
  order = np.pad(np.random.default_rng(5).permutation(vocab_size),
                 (0, -vocab_size % 6), constant_values=vocab_size)
  params["coral"] = {
      **jax.jit(grouped.init)(jax.random.key(4)),
      "router": jax.random.normal(jax.random.key(8), (config().d_model, 6)),
      "groups": jnp.asarray(order.reshape(6, -1), jnp.int32)}
  # Training starts these at zero.
  params["gumiho"]["heads"] = randomised(params["gumiho"]["heads"])
  for name, ids in TOKEN_IDS.items():
    params[name] = {**params.get(name, {}),
                    "token_ids": jnp.asarray(ids, jnp.int32)}
  successors = jnp.roll(jnp.arange(vocab_size, dtype=jnp.int32), 3)
  stream = np.random.default_rng(8).integers(0, vocab_size, 400)
  params["bpd_rescored"] = ngram.to_params(ngrams.count(stream, vocab_size, 3))
  params["superposed"] = ngram.to_params(
      ngrams.count(stream, vocab_size, 4, discount=1e-6))
  params |= {name: token_head_params(name, vocab_size) for name in TOKEN_HEADS}
  # Far from the target, so that its texts are others.
  change = randomised(lora.init(
      jax.random.key(9), jax.eval_shape(reader.init, jax.random.key(4)), 2))
  params["medusa_2"] = {**params["medusa_2"], lora.CHANGE: change}
  return {**params, "cs_drafting": {"successors": successors}}


@functools.cache
def token_head_params(name, vocab_size=VOCAB):
  """Random parameters, those that training starts at zero too."""
  kind, num_layers = TOKEN_HEADS[name]
  model = contract.decoder_model(config(vocab_size=vocab_size))
  network = kind.for_target(model, **HEADS[name])
  ends = contract.Ends(model, jax.jit(model.init)(jax.random.key(4)))
  shape = (1, network.num_levels or 3)
  params = {"heads": jax.jit(lambda key: network.init(
      key, jnp.zeros((1, model.config.d_model)),
      jnp.zeros(shape, jnp.int32), ends)["params"])(jax.random.key(5))}
  if num_layers:
    encoder = token_heads.encoder_of(model, num_layers)
    params["encoder"] = jax.jit(encoder.init)(jax.random.key(6))
  params = randomised(params)
  # The target's table is small; without this, drafted tokens hardly matter.
  for part, first in [(key, model.config.d_model) for key in params["heads"]
                      if "hydra" in name] + [("read", 0)]:
    if part in params["heads"] and not part.startswith("out_"):
      kernel = params["heads"][part]["kernel"]
      params["heads"][part]["kernel"] = kernel.at[first:].mul(50.0)
  return params


def randomised(params, scale=0.3):
  """The same with noise everywhere."""
  leaves, structure = jax.tree.flatten(params)
  keys = jax.random.split(jax.random.key(7), len(leaves))
  return jax.tree.unflatten(structure, [
      leaf + scale * jax.random.normal(key, leaf.shape)
      for leaf, key in zip(leaves, keys)])


def sharpen(params, factor=30.0):
  """Scales the output head so that the laws are far from uniform."""
  return {**params, "head": params["head"] * factor}


def prompts(lengths=(1, 4, 7, 2), seed=0) -> decoding.Prompts:
  rng = np.random.default_rng(seed)
  tokens = np.zeros((len(lengths), max(lengths)), np.int32)
  for row, length in enumerate(lengths):
    tokens[row, :length] = rng.integers(1, VOCAB, length)
  return decoding.Prompts(
      jnp.asarray(tokens), jnp.asarray(lengths, jnp.int32))


def greedy_reference(model, params, prompt, max_new, capacity=64):
  """Cache-free greedy loop of one row: the independent oracle."""
  text = [int(t) for t in prompt]
  score = _scorer(model)
  for _ in range(max_new):
    padded = np.zeros((1, capacity), np.int32)
    padded[0, :len(text)] = text
    text.append(int(jnp.argmax(score(params, padded)[0, len(text) - 1])))
  return text


@functools.cache
def _scorer(model):
  return jax.jit(lambda params, tokens: model.score(params, tokens).logits)


@functools.cache
def datastore() -> str:
  """The folder of a small corpus of toy tokens."""
  rng = np.random.default_rng(3)
  tokens = rng.integers(1, VOCAB, 3000).astype(np.uint16)
  tokens[::40] = 0
  folder = _folder()
  datastore_lib.write(folder, tokens, VOCAB, end_of_document=0)
  return folder


@functools.cache
def dense_store() -> str:
  """The folder of hidden states of the target's own greedy texts."""
  toys, texts = bundle(), []
  for row in range(4):
    texts.append(greedy_reference(
        toys.target, toys.params["target"], [row + 1, 5], 40))
  parts = list(hidden_lib.states(
      toys.target, toys.params["target"], texts, VOCAB, length=64,
      following=6))
  hidden = np.concatenate([states for states, _ in parts])
  folder = _folder()
  dense_store_lib.write(
      folder, dense_index.fit(hidden, 8), parts, VOCAB, end_of_document=VOCAB)
  return folder


def _folder() -> str:
  """A new folder that goes when the process ends."""
  folder = tempfile.mkdtemp(prefix="store")
  atexit.register(shutil.rmtree, folder, ignore_errors=True)
  return folder
