"""Forks: several first tokens, a chain below each."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from spec_jax.core import sampling as sampling_lib
from spec_jax.trees import growth
from spec_jax.trees import likelihood


@dataclasses.dataclass(frozen=True)
class Fork:
  """`width` drafts below the root, each continued by one token per level.

  Attributes:
    width: branches; drawn without replacement, the most likely tokens at
      temperature 0.
    depth: levels.
    draw: how children are made.
  """

  width: int = 2
  depth: int = 5
  draw: str = "without_replacement"
  clocks: ClassVar[bool] = True

  def __post_init__(self):
    for name in ("width", "depth"):
      if getattr(self, name) < 1:
        raise ValueError(f"{name}={getattr(self, name)}, expected at least 1.")

  @property
  def budget(self) -> int:
    return 1 + self.width * self.depth

  @property
  def max_children(self) -> int:
    return self.width

  def at(self, sampling):
    return dataclasses.replace(self, draw="top_k" if sampling.is_greedy
                               else "without_replacement")

  def sampling(self, sampling):
    if sampling.is_greedy:  # A point mass has no second most likely token.
      return likelihood.at_temperature_one(sampling)
    return sampling

  def children(self, law, reach, keys):
    is_root = law.shape[1] == 1
    count = self.width if is_root else 1
    if self.draw == "top_k":
      probs, tokens = jax.lax.top_k(law, count)
      tokens, exists = tokens.astype(jnp.int32), probs > 0
    else:
      make = lambda key: sampling_lib.clocks(key, law.shape[-1], law.dtype)
      tokens, exists = sampling_lib.first_k_to_ring(
          law, jax.vmap(jax.vmap(make))(keys), count)
    # All are worth the same: none is ever left out for another.
    scores = jnp.where(exists, 0.0, -jnp.inf).astype(reach.dtype)
    return tokens, scores, jnp.zeros_like(scores)

  def goes_on(self, gain):
    return growth.goes_on_always(gain)
