"""A block net with what it borrows of its target, see `models.block_net`."""

import dataclasses
from typing import Any

from spec_jax.core import types
from spec_jax.models import contract
from spec_jax.models import feature_model


@dataclasses.dataclass(frozen=True)
class BlockModel(feature_model.FeatureModel):
  """A block net with what it borrows of its target."""

  @property
  def block(self) -> int:
    """Pairs in a block, and tokens guessed by a forward: k."""
    return self.net.block

  def read(self, params, tokens, features, positions, mask, cache=None, *,
           memory=None, past=None, with_logits=True) -> types.ModelOut:
    """Runs sequences of pairs; see `BlockNet`.

    Args:
      params: by part, the target's under "target".
      tokens: `i32[B, W, K]`.
      features: `f[B, W, K, E]`, of the token before each.
      positions: `i32[B, W K]`, of the features.
      mask: `bool[B, W K, F]`.
      cache: of committed pairs, or None.
      memory: `f[B, W, R, 2, E]`, or None at the beginning of a text.
      past: in-flight keys and values, or None.
      with_logits: False leaves out the output head.

    Returns:
      `logits` `f32[B, W, K, V]`, of the token k + 1 behind each feature;
      `taps`, what the net says.
    """
    flat = tokens.reshape(tokens.shape[0], -1)
    embeds = self.target.embed(params["target"], flat).reshape(
        tokens.shape + (-1,))
    said, fresh = self.net.apply(
        {"params": params[self.part]}, embeds, features, positions, mask,
        cache, past, memory)
    logits = self.speak(params, said) if with_logits else None
    return types.ModelOut(logits, fresh, said)


def from_hyper(target: contract.LinenModel, part: str, hyper: dict[str, Any]
               ) -> BlockModel:
  """The model of a trained part; see `feature_model.from_hyper`."""
  base = feature_model.from_hyper(target, part, {"block": 2, **hyper})
  return BlockModel(base.net, target, part)
