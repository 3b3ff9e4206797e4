"""Makes further tiny draft heads of tests/data/heads, with NumPy alone.

  python tests/data/make_head_variant_fixtures.py

The layouts that `make_head_fixtures` has none of: Medusa as vLLM reads it, with
and without a prefix, biases, output heads of all tokens or of some, and
ReDrafter under the names that TensorRT-LLM also reads, projected, or without a
recurrent net. Each folder gets random weights and `expected.npz`, with what
`make_head_fixtures` says: here from the few lines below, in float64, which
follow the published modules and nothing of this project. Of heads that know
some tokens only, the logits are of these, in the order of the map.
"""

import json
import pathlib

import numpy as np
import safetensors.numpy

_OUT = pathlib.Path(__file__).parent / "heads"
_VOCAB, _WIDTH, _LENGTH, _ROWS = 12, 16, 5, 7


def silu(x):
  return x / (1 + np.exp(-x))


class Draws:
  """Random tensors by their published names."""

  def __init__(self, seed):
    self.rng = np.random.default_rng(seed)
    self.tensors = {}

  def make(self, name, *shape):
    self.tensors[name] = (.4 * self.rng.normal(size=shape)).astype(np.float32)
    return self.tensors[name].astype(np.float64)

  def linear(self, name, num_in, num_out, is_bias=True):
    weight = self.make(f"{name}.weight", num_out, num_in)
    bias = self.make(f"{name}.bias", num_out) if is_bias else 0
    return lambda x: x @ weight.T + bias


def medusa(draws, world, prefix="", has_bias=False, output="lm_heads.{}",
           num_rows=_VOCAB, num_heads=2, num_layers=2):
  """Logits of each head after the last feature.

  Args:
    draws: of the weights.
    world: the target's arrays.
    prefix: of all names.
    has_bias: of the blocks.
    output: name of a head's output head, None for the target's.
    num_rows: tokens that are known; below all of them there is a map.
    num_heads: of Medusa.
    num_layers: blocks of a head.
  """
  found, outputs = [], {}
  for head in range(num_heads):
    x = world["features"][-1].astype(np.float64)
    for layer in range(num_layers):
      block = draws.linear(f"{prefix}blocks.{head}.layers.{layer}", _WIDTH,
                           _WIDTH, has_bias)
      x = x + silu(block(x))
    name = output and prefix + output.format(head)
    if name and name not in outputs:  # One may serve all heads.
      outputs[name] = draws.make(f"{name}.weight", num_rows, _WIDTH)
    found.append((outputs[name] if name else world["head"]) @ x)
  return np.stack(found)


def some_tokens(draws, name):
  """A map of some tokens, not in order."""
  draws.tensors[name] = draws.rng.permutation(_VOCAB)[:_ROWS].astype(np.int64)
  return draws.tensors[name]


def redrafter(draws, world, is_rnn=True, exit_size=2 * _WIDTH, head="lm_head",
              entry="input_proj", num_layers=2):
  """Logits of each level of the path."""
  enter = (lambda x: x) if exit_size == 2 * _WIDTH else draws.linear(
      entry, 2 * _WIDTH, exit_size)
  if is_rnn:
    read = draws.linear("rnn_w", _WIDTH, _WIDTH, False)
    keep = draws.linear("rnn_u", _WIDTH, _WIDTH)
  blocks = [draws.linear(f"{head}.{layer}.linear", exit_size, exit_size)
            for layer in range(num_layers)]
  out = draws.linear(f"{head}.{num_layers}", exit_size, _VOCAB, False)
  memory, found = np.zeros(_WIDTH), []
  for token in world["path"]:
    embedded = world["embedding"][token].astype(np.float64)
    memory = silu(read(embedded) + keep(memory)) if is_rnn else (
        memory + embedded)
    x = enter(np.concatenate([world["features"][-1], memory]))
    for block in blocks:
      x = x + silu(block(x))
    found.append(out(x))
  return np.stack(found)


def medusa_bias(draws, world):
  """No prefix, biases, one output head for each."""
  return {"medusa_fc_bias": True}, medusa(draws, world, has_bias=True)


def medusa_one(draws, world):
  """No prefix, one output head for all."""
  return {"original_lm_head": True}, medusa(draws, world, output="lm_head")


def medusa_first(draws, world):
  """The same under the name of the first of several."""
  return {"original_lm_head": True}, medusa(
      draws, world, "medusa_heads.", output="lm_heads.0")


def medusa_target(draws, world):
  """The target's own output head."""
  return {"original_lm_head": True, "medusa_fc_bias": True}, medusa(
      draws, world, "medusa_heads.", has_bias=True, output=None)


def medusa_map(draws, world):
  """Output heads of some tokens."""
  logits = medusa(draws, world, "medusa_heads.", num_rows=_ROWS)
  some_tokens(draws, "medusa_heads.token_map")
  return {"truncated_vocab_size": _ROWS, "medusa_fc_bias": False}, logits


def medusa_cut(draws, world):
  """One output head, stored whole, of which a map keeps some rows."""
  logits = medusa(draws, world, has_bias=True, output="lm_head")
  return {"truncated_vocab_size": _ROWS, "original_lm_head": True,
          "medusa_fc_bias": True}, logits[:, some_tokens(draws, "token_map")]


def redrafter_sum(draws, world):
  """The state is the sum of embeddings."""
  return {"rnn": False}, redrafter(draws, world, is_rnn=False)


def redrafter_narrow(draws, world):
  """Projected to less, under Apple's names."""
  return {"exit_dim": 10}, redrafter(draws, world, exit_size=10)


def redrafter_wide(draws, world):
  """Projected to more, under names in the plural."""
  return {"exit_dim": 40, "rnn": False}, redrafter(
      draws, world, False, 40, "lm_heads", "input_projs")


def redrafter_list(draws, world):
  """The head is the first of a list."""
  return {}, redrafter(draws, world, head="0")


_MEDUSA = {"model_type": "medusa", "num_heads": 2, "num_hidden_layers": 2,
           "hidden_size": _WIDTH, "vocab_size": _VOCAB, "max_paths": 64,
           "topk": 10}
_REDRAFTER = {"model_type": "recurrent_drafting_drafter", "vocab_size": _VOCAB,
              "hidden_size": _WIDTH, "exit_dim": 2 * _WIDTH,
              "num_draft_layers": 2, "num_lookback_tokens": -1, "rnn": True}
_MADE = ((_MEDUSA, 2, (medusa_bias, medusa_one, medusa_first, medusa_target,
                       medusa_map, medusa_cut)),
         (_REDRAFTER, 3, (redrafter_sum, redrafter_narrow, redrafter_wide,
                          redrafter_list)))


def write(make, draws, common, num_path):
  """One folder."""
  draw = lambda *shape: draws.rng.normal(size=shape).astype(np.float32)
  world = {"embedding": draw(_VOCAB, _WIDTH), "head": draw(_VOCAB, _WIDTH),
           "features": draw(_LENGTH, _WIDTH),
           "path": draws.rng.integers(0, _VOCAB, num_path).astype(np.int32)}
  config, logits = make(draws, world)
  folder = _OUT / make.__name__
  folder.mkdir(parents=True, exist_ok=True)
  (folder / "config.json").write_text(
      json.dumps(common | config, indent=1) + "\n")
  safetensors.numpy.save_file(draws.tensors, folder / "model.safetensors")
  (folder / "model.safetensors").chmod(0o644)
  np.savez(folder / "expected.npz", logits=logits, **world)


def main():
  seed = 0
  for common, num_path, makers in _MADE:
    for make in makers:
      write(make, Draws(seed), common, num_path)
      seed += 1


if __name__ == "__main__":
  main()
