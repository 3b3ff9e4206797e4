"""A feature net that asks few groups of its output head's rows.

CORAL (Weng et al. 2025, arXiv 2502.16880): the rows are split into groups, and
a router on the feature says which groups may hold the next token. All other
tokens get no probability, which a draft may do without harm.
"""

from collections.abc import Mapping
import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from spec_jax.models import contract
from spec_jax.models import feature_model

GROUPS = "groups"
_ROUTER = "router"


@dataclasses.dataclass(frozen=True)
class GroupedModel(feature_model.FeatureModel):
  """Speaks through the groups of tokens that its router picks.

  Among its parameters are `groups` `i32[G, R]`, the tokens of each group (V
  where a group has fewer), which are not trained, and `router` `f32[E, G]`.

  Attributes:
    num_groups: G.
    active: groups asked for each token; 0 for all.
  """

  num_groups: int = 1
  active: int = 0

  def __post_init__(self):
    if self.net.head_size or self.vocabulary:
      raise ValueError(
          f"trained part {self.part!r} has an output head or a vocabulary of"
          " its own, expected to share the target's.")
    if not 0 <= self.active <= self.num_groups:
      raise ValueError(
          f"active={self.active}, expected at most the {self.num_groups}"
          " groups.")

  def init(self, key):
    width = self.target.config.d_model
    return {**super().init(key),
            _ROUTER: jnp.zeros((width, self.num_groups), jnp.float32)}

  def route(self, params: Any, hidden: jax.Array) -> jax.Array:
    """Features `f[..., E]` -> scores of the groups, `f32[..., G]`."""
    router = params[self.part][_ROUTER]
    return hidden.astype(jnp.float32) @ router

  def logits(self, params, hidden):
    if self.active in (0, self.num_groups):
      return super().logits(params, hidden)
    groups = params[self.part][GROUPS]
    chosen = jax.lax.top_k(self.route(params, hidden), self.active)[1]
    ids = groups[chosen].reshape(hidden.shape[:-1] + (-1,))
    # Rows of its own for each token are worth reading for a few tokens only.
    if math.prod(ids.shape[1:]) < self.vocab_size:
      found = self._rows(params, hidden, ids)
    else:
      found = jnp.take_along_axis(
          super().logits(params, hidden),
          jnp.minimum(ids, self.vocab_size - 1), axis=-1)
    return _spread(found, ids, self.vocab_size)

  def group_law(self, params: Any, law: jax.Array) -> jax.Array:
    """A law over tokens `f[..., V]` as one over groups, `f[..., G]`."""
    padded = jnp.pad(law, ((0, 0),) * (law.ndim - 1) + ((0, 1),))
    return padded[..., params[self.part][GROUPS]].sum(-1)

  def _rows(self, params, hidden, ids):
    """Logits `f32[..., Z]` of tokens of its own for each feature."""
    unembed = lambda x, own: self.target.unembed(params["target"], x, own)
    flat = jax.vmap(unembed)(
        hidden.reshape(-1, hidden.shape[-1]),
        jnp.minimum(ids, self.vocab_size - 1).reshape(-1, ids.shape[-1]))
    return flat.reshape(ids.shape)


def _spread(logits, ids, vocab_size):
  """`f32[..., Z]` at `ids` among V tokens, -inf at all others."""
  nothing = jnp.full((math.prod(ids.shape[:-1]), vocab_size), -jnp.inf)
  rows = jnp.arange(nothing.shape[0])[:, None]
  size = ids.shape[-1]
  return nothing.at[rows, ids.reshape(-1, size)].set(
      logits.reshape(-1, size), mode="drop").reshape(
          ids.shape[:-1] + (vocab_size,))


def from_hyper(target: contract.LinenModel, part: str,
               hyper: Mapping[str, Any], active: int) -> GroupedModel:
  """The model of a trained part; see `feature_model.from_hyper`.

  `num_groups` is G. More groups may be asked for than there are.
  """
  hyper = dict(hyper)
  num_groups = hyper.pop("num_groups")
  base = feature_model.from_hyper(target, part, hyper)
  return GroupedModel(base.net, target, part, num_groups=num_groups,
                      active=min(active, num_groups))
