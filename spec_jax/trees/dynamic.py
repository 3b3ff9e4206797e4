"""DySpec: sampled trees whose shape follows the draft's confidence.

The next draw is always made where it is most likely to be reached. A draw
below a node is reached if the node is accepted, estimated by the product of
draft probabilities on its path, and the siblings drawn before are rejected,
estimated by the draft's mass outside them (Xiong et al. 2024, arXiv 2410.11744,
its first algorithm). Neither looks at the token that will be drawn, so each
draw is fresh given all that decided to make it, and recursive rejection without
replacement stays exact.

The published loop makes one draw after another; here the same tree comes level
by level. All draws of a level are worked out as long as they are among the best
N known so far, whose places only better ones can take.
"""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp

from spec_jax.core import sampling as sampling_lib
from spec_jax.trees import growth


@dataclasses.dataclass(frozen=True)
class MostReached(growth.Limits):
  """Draws without replacement, in the order of the chance to be reached.

  Attributes:
    top_k: draws below a node at most. The tree is the published one if this
      and `width` are at least the number of drafts.
    threshold: draws less likely to be reached are not made (the paper's
      second algorithm, where it replaces the budget).
    temperature: of the draft, whatever the target's; None: the target's own,
      which at 0 leaves a chain.
  """

  top_k: int = 8
  threshold: float = 0.0
  temperature: float | None = 0.6
  draw: ClassVar[str] = "without_replacement"
  clocks: ClassVar[bool] = True
  least: ClassVar[dict[str, int]] = {**growth.Limits.least, "top_k": 1}

  def __post_init__(self):
    super().__post_init__()
    if not 0 <= self.threshold < 1:
      raise ValueError(f"threshold={self.threshold}, expected in [0, 1).")
    least = sampling_lib.LEAST_TEMPERATURE
    if self.temperature is not None and not self.temperature >= least:
      raise ValueError(
          f"temperature={self.temperature} of the draft, expected at least"
          f" {least:g}, or None for the target's.")

  @property
  def max_children(self) -> int:
    return self.top_k

  def sampling(self, sampling):
    if self.temperature is None:
      return sampling
    return dataclasses.replace(sampling, temperature=self.temperature)

  def children(self, law, reach, keys):
    vocab_size = law.shape[-1]
    make = lambda key: sampling_lib.clocks(key, vocab_size, law.dtype)
    noise = jax.vmap(jax.vmap(make))(keys)
    k = min(self.top_k, vocab_size)
    tokens, exists = sampling_lib.first_k_to_ring(law, noise, k)
    probs = jnp.where(exists, jnp.take_along_axis(law, tokens, -1), 0)
    # Mass outside the elder siblings: the chance that all of them fail.
    rest = jnp.maximum(1 - (jnp.cumsum(probs, -1) - probs), 0)
    # Rounding leaves a few ulps of a law that is used up.
    is_left = exists & (rest > 8 * jnp.finfo(law.dtype).eps)
    log_least = math.log(self.threshold) if self.threshold else -math.inf
    scores = jnp.where(is_left, reach[:, :, None] + jnp.log(rest), -jnp.inf)
    scores = jnp.where(scores >= log_least, scores, -jnp.inf)
    pad = ((0, 0), (0, 0), (0, self.top_k - k))
    return (jnp.pad(tokens, pad), jnp.pad(scores, pad,
                                          constant_values=-jnp.inf),
            jnp.pad(reach[:, :, None] + jnp.log(probs), pad,
                    constant_values=-jnp.inf))
