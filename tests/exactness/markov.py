"""A table as a language model: real systems on laws known in closed form."""

import dataclasses
import functools
import types as python_types

import jax
import jax.numpy as jnp
import numpy as np

from spec_jax.caches import dense
from spec_jax.core import compiling
from spec_jax.core import keys as keys_lib
from spec_jax.core import sampling as sampling_lib
from spec_jax.core import system as system_lib
from spec_jax.core import types
from spec_jax.drafters import draft_model
from spec_jax.executors import decoding
from spec_jax.verifiers import walk

# Zeros in both; after token 2 the draft has a single possible token.
P_ROWS = ((.5, .3, .2), (0., .6, .4), (.2, .35, .45))
Q_ROWS = ((.2, .3, .5), (.7, .3, 0.), (1., 0., 0.))


@dataclasses.dataclass(frozen=True)
class TabularModel:
  """Logits `params[token]`; looks at nothing but the token itself.

  Its parameters are `f32[V, V]`. Implements `protocols.TargetModel`.
  """

  vocab_size: int
  dtype: type = jnp.float32

  @property
  def config(self):
    return python_types.SimpleNamespace(
        num_layers=1, num_kv_heads=1, head_dim=1)

  def forward(self, params, tokens, positions, mask, cache=None, *, past=None,
              embeds=None, taps=(), gates=None, with_logits=True):
    del mask, cache, past, embeds, taps, gates, with_logits
    fresh = self.empty_scratch(*tokens.shape).replace(positions=positions)
    return types.ModelOut(params[tokens], fresh, {})

  def empty_scratch(self, batch, num_tokens):
    zeros = (jnp.zeros((batch, 1, num_tokens, 1), self.dtype),)
    positions = jnp.zeros((batch, num_tokens), jnp.int32)
    return types.FreshKV(zeros, zeros, positions)


def log(rows) -> jax.Array:
  """Logits of rows of probabilities; -inf at zeros."""
  with np.errstate(divide="ignore"):
    return jnp.asarray(np.log(np.asarray(rows)), jnp.float32)


def system(rule, branching, draw, sampling=None) -> system_lib.System:
  """Target and draft are tables; everything else is the real thing."""
  model = TabularModel(len(P_ROWS))
  drafter = draft_model.DraftModel(model, branching, draw)
  return system_lib.System(
      name="tabular", target=model, drafter=drafter, verifier=rule,
      make_cache=dense.empty, walk=walk.walk,
      sampling=sampling or sampling_lib.Sampling())


def params(p_rows=P_ROWS, q_rows=Q_ROWS) -> types.Params:
  return types.Params(log(p_rows), log(q_rows))


def decode(sys, weights, num_rows, num_tokens, root=0, seed=0,
           first_row=0) -> decoding.Decoded:
  """Rows that share nothing but the prompt `root`."""
  prompts = decoding.Prompts(
      jnp.full((num_rows, 1), root, jnp.int32),
      jnp.ones((num_rows,), jnp.int32))
  keys = keys_lib.row_keys(seed, num_rows, first_row)
  return _decode(sys, weights, prompts, keys, num_tokens,
                 num_tokens + 1 + sys.drafter.depth)


# Compiling is most of the cost, so the compiler is told not to try hard.
_jit = functools.partial(jax.jit, compiler_options=compiling.ONCE)
_decode = _jit(decoding.decode, static_argnums=(0, 4, 5))


@functools.partial(_jit, static_argnums=(0, 3))
def one_round(sys, weights, keys, root):
  """One proposal and its verdict, outside any executor."""
  batch = keys.shape[0]
  ctx = types.Context(
      tokens=jnp.full((batch, 2), root, jnp.int32),
      length=jnp.ones((batch,), jnp.int32), keys=keys,
      target_params=weights.target, target_cache=None)
  state = sys.drafter.init(weights.drafter, batch, 4)
  tree, _ = sys.drafter.propose(weights.drafter, state, ctx, sys.sampling)
  logits = weights.target[tree.tokens]
  return tree, sys.walk(sys.verifier, sys.sampling, tree, logits, ctx)
