"""Drafts with heads on the target's features, see `models.token_heads`.

The heads know one feature and the tokens on a node's path, so a level of the
tree costs one step of a small network and no attention. An encoder may stand
between (Hydra++): then features of all the text go through its layers, which
keep a cache like the target's.
"""

import dataclasses
from typing import Any

from flax import struct
import jax
import jax.numpy as jnp

from spec_jax.caches import dense
from spec_jax.core import protocols
from spec_jax.core import rows as rows_lib
from spec_jax.models import contract
from spec_jax.models import prefill as prefill_lib
from spec_jax.models import token_heads

ENCODED = "final"  # The tap of an encoder that the heads read.


@struct.dataclass
class HeadState:
  """What the heads are grounded on.

  Attributes:
    feature: `f32[B, E]`, of the token before the pending one.
    exists: `bool[B]`; False where the prompt has only one token, before the
      first round.
    cache: of the encoder, which trails the text by the pending token; () if
      there is none.
  """

  feature: jax.Array
  exists: jax.Array
  cache: Any = ()


@dataclasses.dataclass(frozen=True)
class TokenHeadDrafter:
  """Grows a tree of the heads' most likely tokens.

  Its parameters are a dictionary of "heads" and, with an encoder, "encoder".

  Attributes:
    target: a `models.contract.LinenModel`; heads may share its embedding and
      its output head.
    network: reads what it needs.
    plan: a `trees.expansion.Plan`.
    encoder: a causal model that reads the target's features in place of
      embeddings; its own last features ground the heads. None: the target's do.
  """

  target: contract.LinenModel
  network: token_heads.TokenHeads
  plan: Any
  encoder: contract.LinenModel | None = None

  def __post_init__(self):
    most = self.network.num_levels
    if most is not None and self.depth > most:
      raise ValueError(
          f"the tree has {self.depth} levels, {type(self.network).__name__}"
          f" has heads for {most}.")
    if self.max_children > self.target.vocab_size:
      raise ValueError(
          f"plan={self.plan} asks for up to {self.max_children} children per"
          " node, more than the vocabulary has tokens"
          f" ({self.target.vocab_size}).")

  @property
  def needs(self) -> protocols.Needs:
    return protocols.Needs(taps=(self.network.tap,), draws=("top_k",))

  @property
  def depth(self) -> int:
    return self.plan.depth

  @property
  def max_children(self) -> int:
    return self.plan.max_children

  def init(self, params, batch, capacity):
    width = self.target.config.d_model
    cache = () if self.encoder is None else dense.empty(
        self.encoder, batch, capacity)
    return HeadState(jnp.zeros((batch, width), jnp.float32),
                     jnp.zeros((batch,), bool), cache)

  def prefill(self, params, state, tokens, count, taps):
    return self.absorb(params, state, taps[self.network.tap], count)

  def update(self, params, state, outcome):
    verdict = outcome.verdict
    features = jnp.take_along_axis(
        outcome.out.taps[self.network.tap], verdict.path[:, :, None], axis=1)
    return self.absorb(params, state, features, verdict.count)

  def absorb(self, params: Any, state: HeadState, features: jax.Array,
             count: jax.Array) -> HeadState:
    """Takes in the features `[B, T, E]` of committed text, `count` a row."""
    features, cache = features.astype(jnp.float32), state.cache
    if self.encoder is not None:
      cache, taps = prefill_lib.read(
          self.encoder, params["encoder"], cache,
          jnp.zeros(features.shape[:2], jnp.int32), count, (ENCODED,), features)
      features = taps[ENCODED]
    last = jnp.maximum(count - 1, 0)[:, None, None]
    feature = jnp.take_along_axis(features, last, axis=1)[:, 0]
    is_new = count > 0
    return HeadState(rows_lib.where(is_new, feature, state.feature),
                     state.exists | is_new, cache)

  def propose(self, params, state, ctx, sampling):
    del sampling
    expander = token_heads.Expander(
        self.network, params["heads"], state.feature,
        contract.Ends(self.target, ctx.target_params))
    tree = self.plan.grow(ctx.root, expander)
    is_root = jnp.arange(tree.num_nodes)[None] == 0
    return tree.replace(
        valid=tree.valid & (state.exists[:, None] | is_root)), state
