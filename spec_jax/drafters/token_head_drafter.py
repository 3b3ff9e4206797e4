"""Drafts with heads on the target's features, see `models.token_heads`.

The heads know one feature and the tokens on a node's path, so a level of the
tree costs one step of a small network and no attention. An encoder may stand
between (Hydra++, Clover-2): then features of all the text go through its
layers, which keep a cache like the target's.
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
    feature: `f32[B, E]`, of the token before the pending one; the encoder's
      where it reads features alone.
    exists: `bool[B]`; False where the prompt has only one token, before the
      first round.
    cache: of the encoder, which trails the text by the pending token, where it
      reads pairs by two; () if there is none.
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
      embeddings, or what the heads make of pairs of a feature and the token
      after it; its own last features ground the heads. None: the target's do.
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
    if self.max_children > self.network.num_rows:
      raise ValueError(
          f"plan={self.plan} asks for up to {self.max_children} children per"
          " node, more than the heads know tokens"
          f" ({self.network.num_rows}).")

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
    return self.absorb(
        params, state, tokens, taps[self.network.tap], count)

  def update(self, params, state, outcome):
    path, count = outcome.verdict.path, outcome.verdict.count
    features = jnp.take_along_axis(
        outcome.out.taps[self.network.tap], path[:, :, None], axis=1)
    tokens = jnp.take_along_axis(outcome.tree.tokens, path, axis=1)
    return self.absorb(params, state, tokens, features, count)

  def absorb(self, params: Any, state: HeadState, tokens: jax.Array,
             features: jax.Array, count: jax.Array) -> HeadState:
    """Takes in committed tokens `i32[B, T]`, `count` a row, and their features.

    Args:
      params: "heads" and "encoder".
      state: of the text before.
      tokens: the pending one and those accepted after it, or a piece of prompt.
      features: `f[B, T, E]`, the target's.
      count: `i32[B]`.
    """
    features, cache = features.astype(jnp.float32), state.cache
    if self.network.is_paired:
      cache = self._absorb_pairs(params, state, tokens, features, count)
    elif self.encoder is not None:
      cache, taps = prefill_lib.read(
          self.encoder, params["encoder"], cache, tokens, count, (ENCODED,),
          features)
      features = taps[ENCODED]
    last = jnp.maximum(count - 1, 0)[:, None, None]
    feature = jnp.take_along_axis(features, last, axis=1)[:, 0]
    is_new = count > 0
    return HeadState(rows_lib.where(is_new, feature, state.feature),
                     state.exists | is_new, cache)

  def propose(self, params, state, ctx, sampling):
    del sampling
    feature = state.feature
    if self.network.is_paired:
      feature = self._encode_root(params, state, ctx.root)
    expander = token_heads.Expander(
        self.network, params["heads"], feature,
        contract.Ends(self.target, ctx.target_params))
    tree = self.plan.grow(ctx.root, expander)
    is_root = jnp.arange(tree.num_nodes)[None] == 0
    return tree.replace(
        valid=tree.valid & (state.exists[:, None] | is_root)), state

  def _absorb_pairs(self, params, state, tokens, features, count):
    """The encoder's cache with the pairs that these tokens complete."""
    before = jnp.concatenate(
        [state.feature[:, None], features[:, :-1]], axis=1)
    pairs = self._fuse(params, before, tokens)
    # The first token of a text has no feature before it.
    skipped = 1 - state.exists.astype(jnp.int32)
    slots = jnp.arange(tokens.shape[1])[None] + skipped[:, None]
    pairs = jnp.take_along_axis(
        pairs, jnp.minimum(slots, tokens.shape[1] - 1)[:, :, None], axis=1)
    return prefill_lib.read(
        self.encoder, params["encoder"], state.cache, tokens,
        jnp.maximum(count - skipped, 0), embeds=pairs)[0]

  def _encode_root(self, params, state, root):
    """`f32[B, E]`, of the pair that the pending token completes.

    It is committed in the round after, with the tokens accepted behind it.
    """
    pair = self._fuse(params, state.feature, root)[:, None]
    mask = jnp.ones((len(root), 1, 1), bool)
    out = self.encoder.forward(
        params["encoder"], root[:, None], state.cache.length[:, None], mask,
        state.cache, embeds=pair, taps=(ENCODED,), with_logits=False)
    return out.taps[ENCODED][:, 0].astype(jnp.float32)

  def _fuse(self, params, features, tokens):
    return self.network.apply(
        {"params": params["heads"]}, features, tokens, method="fuse")
