"""SpecDec++: a head on the draft predicts whether a token will be accepted."""

import dataclasses
from typing import ClassVar

from flax import struct
import flax.linen as nn
import jax
import jax.numpy as jnp


class AcceptanceHead(nn.Module):
  """Residual blocks `x + silu(W x + b)`, then two logits: rejected, accepted.

  Huang et al. 2025 (arXiv 2405.19715). In the published code the
  blocks are one module repeated; here each has weights of its own.

  Attributes:
    num_blocks: of the residual kind.
  """

  num_blocks: int = 3

  @nn.compact
  def __call__(self, features: jax.Array) -> jax.Array:
    """`[..., E]` -> logarithms of both probabilities, `f32[..., 2]`."""
    x = features.astype(jnp.float32)
    for i in range(self.num_blocks):
      x = x + nn.silu(nn.Dense(x.shape[-1], name=f"block_{i}")(x))
    return jax.nn.log_softmax(nn.Dense(2, name="out")(x))


@struct.dataclass
class LearnedState:
  """Of each row.

  Attributes:
    log_survival: `f32[B]`, logarithm of the estimated probability that all
      tokens judged so far in this round are accepted.
  """

  log_survival: jax.Array


@dataclasses.dataclass(frozen=True)
class LearnedAcceptance:
  """Stops once some rejection is likely enough (Sec. 3, Theorem 3.1).

  A token's estimate comes from the draft's last features once it was fed, that
  is from the forward that gives the next token: so the one drawn by then is
  verified too.

  Attributes:
    head: an `AcceptanceHead`.
    threshold: h, drafting stops when the estimated probability of some
      rejection is above it.
  """

  head: nn.Module
  threshold: float = 0.7
  taps: ClassVar[tuple[str, ...]] = ("final",)

  def __post_init__(self):
    if not 0 <= self.threshold <= 1:
      raise ValueError(f"threshold={self.threshold}, expected in [0, 1].")

  def init(self, batch):
    return LearnedState(jnp.zeros((batch,), jnp.float32))

  def begin(self, state, keys, length):
    del keys, length
    return state.replace(log_survival=jnp.zeros_like(state.log_survival))

  def proceed(self, params, state, drafted):
    judged = self.head.apply(
        {"params": params}, drafted.features["final"])[:, 1]
    # The root was not drafted: nothing is to be accepted or rejected there.
    judged = jnp.where(drafted.index > 0, judged, 0.0)
    survival = state.log_survival + judged
    risk = -jnp.expm1(survival)
    return risk <= self.threshold, state.replace(log_survival=survival)

  def update(self, state, checked):
    del checked
    return state
