"""A drafter that reads target features is shown those of the whole prompt."""

import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spec_jax.core import keys as keys_lib
from spec_jax.core import protocols
from spec_jax.core import tree as tree_lib
from spec_jax.core import types
from spec_jax.executors import fused
from spec_jax.executors import hosted
from spec_jax.executors import replicated
from spec_jax.executors import sharded
from tests import rounds
from tests import toy

LENGTHS = (1, 9, 4, 7)
TAPS = (0, 1, "final")


@dataclasses.dataclass(frozen=True)
class PromptReader:
  """Drafts as many tokens as its summary of the prompt's features says.

  The summary pairs each feature with the token after it, so that it sees
  features that are missing, padded, repeated, or one place off.
  """

  width: int
  needs: ClassVar[protocols.Needs] = protocols.Needs(taps=TAPS)
  max_children: ClassVar[int] = 1

  @property
  def depth(self):
    return self.width

  def init(self, params, batch, capacity):
    return (jnp.zeros((batch, self.width)), jnp.zeros((batch, self.width)),
            jnp.zeros((batch,), jnp.int32))

  def prefill(self, params, state, tokens, count, taps):
    total, last, seen = state
    features = sum(taps[name] for name in TAPS)
    before = jnp.concatenate([last[:, None], features[:, :-1]], axis=1)
    slots = jnp.arange(tokens.shape[1])[None]
    place = jnp.where(slots < count[:, None], seen[:, None] + slots, 0)
    weight = (place * (tokens + 1)).astype(features.dtype)
    total += (before * weight[:, :, None]).sum(1)
    end = jnp.take_along_axis(
        features, jnp.maximum(count - 1, 0)[:, None, None], axis=1)[:, 0]
    return (total, jnp.where(count[:, None] > 0, end, last), seen + count)

  def propose(self, params, state, ctx, sampling):
    total, last, seen = state
    total += last * (seen * (ctx.root + 1)).astype(last.dtype)[:, None]
    drafts = jnp.repeat(ctx.root[:, None], self.depth, axis=1)
    return tree_lib.chain(
        ctx.root, drafts, jnp.argmax(total, -1).astype(jnp.int32),
        "deterministic"), state

  def update(self, params, state, outcome):
    return state


@functools.cache
def wanted():
  """How many tokens each row should draft, from one forward a prompt."""
  bundle, prompts = toy.bundle(), toy.prompts(LENGTHS)
  found = []
  for tokens, length in zip(np.asarray(prompts.tokens), LENGTHS):
    out = bundle.target.score(
        bundle.params["target"], tokens[None, :length], taps=TAPS)
    features = sum(np.asarray(out.taps[name][0]) for name in TAPS)
    places = np.arange(1, length)
    total = (features[:-1]
             * (places * (tokens[1:length] + 1))[:, None]).sum(0)
    found.append(int(np.argmax(total)))
  return found


@pytest.mark.parametrize("executor", [
    fused.Fused(), fused.Fused(chunk=1), fused.Fused(chunk=2),
    fused.Fused(chunk=3), hosted.Hosted(chunk=4),
    replicated.Replicated(jax.devices()[:2]),
    replicated.Replicated(jax.devices()[:3], "pmap"), "sharded"], ids=str)
def test_every_row_reads_its_whole_prompt(executor):
  bundle = toy.bundle()
  system = rounds.compose(PromptReader(toy.config().d_model), bundle.target)
  params = types.Params(bundle.params["target"])
  if executor == "sharded":
    executor, mesh = fused.Fused(chunk=2), jax.make_mesh((2,), ("model",))
    params = params.replace(target=sharded.shard_params(params.target, mesh))
  decoded = executor.run(
      system, params, toy.prompts(LENGTHS),
      keys_lib.row_keys(0, len(LENGTHS)), 1)
  assert np.asarray(decoded.counts.drafted).sum(1).tolist() == wanted()
  assert len(set(wanted())) > 2
