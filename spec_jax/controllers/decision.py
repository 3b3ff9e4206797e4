"""Whether a tree grows by one more level: a small network on the draft."""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp


class DecisionNetwork(nn.Module):
  """A perceptron on the draft's features: logit of the acceptance to come.

  Attributes:
    widths: of its hidden layers.
  """

  widths: tuple[int, ...] = (512, 256)

  @nn.compact
  def __call__(self, features: jax.Array) -> jax.Array:
    """`[..., E]` -> logarithms of both probabilities, `f32[..., 2]`."""
    x = features.astype(jnp.float32)
    for i, width in enumerate(self.widths):
      x = nn.relu(nn.Dense(width, name=f"hidden_{i}")(x))
    logit = nn.Dense(1, name="out")(x)[..., 0]
    return jnp.stack([jax.nn.log_sigmoid(-logit), jax.nn.log_sigmoid(logit)],
                     axis=-1)


@dataclasses.dataclass(frozen=True)
class Decision:
  """Goes on while some branch is likely enough to be accepted.

  Lu et al. 2024 (arXiv 2409.10644): the network sees the features that gave the
  law of a level; the level is drawn, and is the last one unless an output is
  above the threshold. It looks at nothing that is drawn later.

  Attributes:
    network: a `DecisionNetwork`.
    threshold: 0 always goes on, 1 never.
  """

  network: nn.Module
  threshold: float = 0.4
  taps: ClassVar[tuple[str, ...]] = ("final",)

  def __post_init__(self):
    if not 0 <= self.threshold <= 1:
      raise ValueError(f"threshold={self.threshold}, expected in [0, 1].")

  def proceed(self, params, taps, exists):
    """`bool[B]` from features `[B, W, E]` of the nodes that `exists`."""
    log_probs = self.network.apply({"params": params}, taps["final"])
    likely = jnp.exp(log_probs[..., 1]) > self.threshold
    return (likely & exists).any(-1)
