"""Toy targets with something to skip."""

import jax

from spec_jax.models import contract
from tests import toy


def deep(num_layers=6, seed=3):
  """A model and random parameters."""
  model = contract.decoder_model(toy.config(num_layers))
  return model, toy.sharpen(jax.jit(model.init)(jax.random.key(seed)))


def without(params, layers):
  """`params` with some layers turned into identities."""
  params = jax.tree.map(lambda x: x, params)
  for layer in layers:
    for part, linear in (("attn", "out"), ("mlp", "down")):
      kernel = params[f"layers_{layer}"][part][linear]
      kernel["kernel"] = 0 * kernel["kernel"]
  return params


def bundle(model, params):
  return toy.ToyBundle(model, {}, {"target": params})
