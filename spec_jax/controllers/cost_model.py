"""The length of the largest expected speed-up, from measured costs."""

import dataclasses
from typing import ClassVar

from flax import struct
import jax
import jax.numpy as jnp
import numpy as np


@struct.dataclass
class CostState:
  """Of each row.

  Attributes:
    accepted: `f32[B]`, tokens accepted, older ones counted less.
    judged: `f32[B]`, tokens accepted or rejected, likewise.
    length: `i32[B]`, of this round.
  """

  accepted: jax.Array
  judged: jax.Array
  length: jax.Array


@dataclasses.dataclass(frozen=True)
class CostModel:
  """Maximises the expected walltime factor (Leviathan et al. 2023, Sec. 3.2).

  With acceptance a, a round of n drafts emits `(1 - a^(n+1)) / (1 - a)` tokens
  in the time of `1 + n (draft_cost + check_cost)` plain target forwards. The
  acceptance is the row's own, with a prior that fades.

  Attributes:
    max_length: longest considered.
    draft_cost: time of a draft forward over that of a target forward.
    check_cost: what one more token adds to a target forward, likewise;
      `python -m experiments.calibrate` measures both.
    prior: acceptance at the start of a text.
    prior_weight: tokens that the prior counts for.
    decay: weight of the past after each round.
  """

  max_length: int = 16
  draft_cost: float = 0.1
  check_cost: float = 0.0
  prior: float = 0.7
  prior_weight: float = 4.0
  decay: float = 0.95
  taps: ClassVar[tuple[str, ...]] = ()

  def __post_init__(self):
    if self.max_length < 1:
      raise ValueError(f"max_length={self.max_length}, expected at least 1.")
    for name in ("draft_cost", "check_cost"):
      if getattr(self, name) < 0:
        raise ValueError(f"{name}={getattr(self, name)}, expected >= 0.")
    if not 0 < self.prior < 1 or self.prior_weight <= 0:
      raise ValueError(
          f"prior={self.prior} of weight {self.prior_weight}, expected in"
          " (0, 1) and above 0.")
    if not 0 < self.decay <= 1:
      raise ValueError(f"decay={self.decay}, expected in (0, 1].")

  def init(self, batch):
    full = lambda value: jnp.full((batch,), value, jnp.float32)
    return CostState(full(self.prior * self.prior_weight),
                     full(self.prior_weight), jnp.ones((batch,), jnp.int32))

  def begin(self, state, keys, length):
    del keys, length
    rate = state.accepted / state.judged
    return state.replace(length=1 + jnp.argmax(
        self.factors(rate), -1).astype(jnp.int32))

  def factors(self, rate: jax.Array) -> jax.Array:
    """`f32[B, n]`, the factor for lengths 1..n at acceptance `f32[B]`."""
    lengths = np.arange(1, self.max_length + 1)
    powers = rate[:, None] ** jnp.arange(
        self.max_length + 1, dtype=jnp.float32)[None]
    tokens = jnp.cumsum(powers, -1)[:, 1:]
    costs = 1 + lengths * (self.draft_cost + self.check_cost)
    return tokens / jnp.asarray(costs, jnp.float32)[None]

  def proceed(self, params, state, drafted):
    del params
    return drafted.index + 1 < state.length, state

  def update(self, state, checked):
    failed = (checked.accepted < checked.drafted).astype(jnp.float32)
    accepted = checked.accepted.astype(jnp.float32)
    floor = (1 - self.decay) * self.prior_weight  # So that it never runs dry.
    return state.replace(
        accepted=self.decay * state.accepted + accepted + floor * self.prior,
        judged=self.decay * state.judged + accepted + failed + floor)
