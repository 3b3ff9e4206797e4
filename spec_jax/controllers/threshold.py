"""Stop after a token of which the draft is unsure; the bound adapts itself."""

import dataclasses
from typing import ClassVar

from flax import struct
import jax
import jax.numpy as jnp


@struct.dataclass
class ThresholdState:
  """Of each row.

  Attributes:
    threshold: `f32[B]`.
    rate: `f32[B]`, running mean of accepted / drafted.
  """

  threshold: jax.Array
  rate: jax.Array


@dataclasses.dataclass(frozen=True)
class ConfidenceThreshold:
  """Draft & Verify (Zhang et al. 2023, arXiv 2309.08168): adaptive exit.

  Drafting stops after a token less likely than the threshold; that token is
  verified with the others. After each round the threshold moves by
  `(1 - threshold_decay) * step`: up while fewer than `target_rate` of the
  drafts are accepted, down otherwise, unless as many as possible were drafted.
  Unlike in the published code it stays between 0 and 1, or its start where that
  is more.

  Attributes:
    threshold: at the start of a text. Above 1 each round drafts one token; at 1
      it goes on after one whose probability is rounded to 1.
    step: 0 keeps the threshold as it is.
    target_rate: of accepted among drafted tokens.
    rate_decay: weight of the past in the running rate, which starts at 0.
    threshold_decay: weight of the past in the threshold.
  """

  threshold: float = 0.6
  step: float = 0.01
  target_rate: float = 0.9
  rate_decay: float = 0.5
  threshold_decay: float = 0.9
  taps: ClassVar[tuple[str, ...]] = ()

  def __post_init__(self):
    if not 0 <= self.threshold < float("inf"):
      raise ValueError(
          f"threshold={self.threshold}, expected 0 or more: 0 never stops, a"
          " bound above 1 after every token.")
    for name in ("step", "target_rate", "rate_decay", "threshold_decay"):
      value = getattr(self, name)
      if not 0 <= value <= 1:
        raise ValueError(f"{name}={value}, expected in [0, 1].")

  def init(self, batch):
    return ThresholdState(jnp.full((batch,), self.threshold, jnp.float32),
                          jnp.zeros((batch,), jnp.float32))

  def begin(self, state, keys, length):
    del keys, length
    return state

  def proceed(self, params, state, drafted):
    del params
    return drafted.confidence >= state.threshold, state

  def update(self, state, checked):
    share = checked.accepted.astype(jnp.float32) / (
        checked.drafted.astype(jnp.float32))
    rate = self.rate_decay * state.rate + (1 - self.rate_decay) * share
    move = jnp.where(
        rate < self.target_rate, self.step,
        jnp.where(checked.is_full, 0.0, -self.step)).astype(jnp.float32)
    threshold = state.threshold + (1 - self.threshold_decay) * move
    return ThresholdState(
        jnp.clip(threshold, 0.0, max(1.0, self.threshold)), rate)
