"""Trees of the most likely continuations: EAGLE-2's, OPT-Tree's, CaPE's.

A node is worth the product of draft probabilities on its path. Under a
calibrated draft that is the probability that the target's text passes through
it, so the sum over the tree is the expected number of accepted drafts. Children
are the top tokens: nothing is drawn, and the rule must be one of matching.
"""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp

from spec_jax.core import sampling as sampling_lib
from spec_jax.trees import growth


@dataclasses.dataclass(frozen=True)
class MostLikely(growth.Limits):
  """Expand the top `width`, then keep the best of all levels.

  With `top_k = width` it is EAGLE-2's expand-and-rerank (Li et al. 2024, arXiv
  2406.16858, Sec. 4.1 and 4.2); with both equal to the number of drafts and a
  `min_gain` it is OPT-Tree (Wang et al. 2024, arXiv 2406.17276, Algorithm 1).
  The draft's probabilities are taken at temperature 1, whatever the target's.

  Attributes:
    top_k: candidates per expanded node.
    min_gain: expected tokens that a level must have added for another draft
      forward to be made; -inf for a fixed depth.
  """

  top_k: int = 10
  min_gain: float = float("-inf")
  draw: ClassVar[str] = "top_k"
  clocks: ClassVar[bool] = False
  least: ClassVar[dict[str, int]] = {**growth.Limits.least, "top_k": 1}

  def __post_init__(self):
    super().__post_init__()
    if math.isnan(self.min_gain):
      raise ValueError(f"min_gain={self.min_gain}, expected a number.")

  @property
  def max_children(self) -> int:
    return self.top_k

  def sampling(self, sampling):
    return at_temperature_one(sampling)

  def children(self, law, reach, keys):
    del keys
    tokens, log_probs = _top(law, self.top_k)
    scores = reach[:, :, None] + log_probs
    return tokens, scores, scores

  def goes_on(self, gain):
    return gain > self.min_gain


@dataclasses.dataclass(frozen=True)
class ConfidenceExpanded(growth.Limits):
  """CaPE: a greedy chain, with more leaves where the draft is unsure.

  At each step the top tokens but the first hang as leaves beside the chain;
  how many there are falls with the probability of the first (Du et al. 2024,
  arXiv 2402.02082).

  Attributes:
    widths: children of a node, by the probability of the most likely one: one
      number for each of as many equal parts of [0, 1], the lowest first.
  """

  widths: tuple[int, ...] = (8, 8, 8, 6, 6, 6, 4, 4, 2, 2)
  draw: ClassVar[str] = "top_k"
  clocks: ClassVar[bool] = False

  def __post_init__(self):
    super().__post_init__()
    if self.width != 1:
      raise ValueError(
          f"width={self.width}, expected 1: only the chain is expanded.")
    if not self.widths or min(self.widths) < 1:
      raise ValueError(f"widths={self.widths}, expected numbers above 0.")

  @property
  def max_children(self) -> int:
    return max(self.widths)

  def sampling(self, sampling):
    return at_temperature_one(sampling)

  def children(self, law, reach, keys):
    del keys
    tokens, log_probs = _top(law, self.max_children)
    num_parts = len(self.widths)
    part = jnp.clip((jnp.exp(log_probs[:, :, 0]) * num_parts).astype(jnp.int32),
                    0, num_parts - 1)
    widths = jnp.asarray(self.widths, jnp.int32)[part]
    is_in = (jnp.arange(self.max_children)[None, None] < widths[:, :, None])
    scores = jnp.where(is_in, reach[:, :, None] + log_probs, -jnp.inf)
    return tokens, scores, scores


def at_temperature_one(sampling: sampling_lib.Sampling
                       ) -> sampling_lib.Sampling:
  """Confidence is read before temperature and truncation."""
  return sampling_lib.Sampling(repetition_penalty=sampling.repetition_penalty)


def _top(law, k):
  probs, tokens = jax.lax.top_k(law, min(k, law.shape[-1]))
  pad = ((0, 0), (0, 0), (0, k - probs.shape[-1]))
  return (jnp.pad(tokens.astype(jnp.int32), pad),
          jnp.pad(jnp.log(probs), pad, constant_values=-jnp.inf))
