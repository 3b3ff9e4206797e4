"""Bandits: the length is learnt from what earlier rounds of the row gave."""

import dataclasses
from typing import ClassVar

from flax import struct
import jax
import jax.numpy as jnp

from spec_jax.core import keys as keys_lib
from spec_jax.core import types


@struct.dataclass
class ThompsonState:
  """Of each row.

  Attributes:
    accepted: `f32[B]`, first parameter of the Beta law: tokens accepted.
    rejected: `f32[B]`, second parameter: rounds that ended in a rejection.
    length: `i32[B]`, drawn for this round.
  """

  accepted: jax.Array
  rejected: jax.Array
  length: jax.Array


@dataclasses.dataclass(frozen=True)
class Thompson:
  """Thompson sampling of the acceptance, as in EESD.

  Liu et al. 2024, arXiv 2406.03853. Each round draws a rate from its Beta
  posterior and goes on drafting with that probability after each token. Tokens
  behind the first rejection were not judged and are not counted.

  Attributes:
    prior_accepted: of the Beta law at the start of a text.
    prior_rejected: the same, of its second parameter.
  """

  prior_accepted: float = 1.0
  prior_rejected: float = 1.0
  taps: ClassVar[tuple[str, ...]] = ()

  def __post_init__(self):
    for field in dataclasses.fields(self):
      if getattr(self, field.name) <= 0:
        raise ValueError(
            f"{field.name}={getattr(self, field.name)}, expected above 0.")

  def init(self, batch):
    full = lambda value: jnp.full((batch,), value, jnp.float32)
    return ThompsonState(full(self.prior_accepted), full(self.prior_rejected),
                         jnp.ones((batch,), jnp.int32))

  def begin(self, state, keys, length):
    return state.replace(length=jax.vmap(_geometric_length)(
        keys, length, state.accepted, state.rejected))

  def proceed(self, params, state, drafted):
    del params
    return drafted.index + 1 < state.length, state

  def update(self, state, checked):
    failed = checked.accepted < checked.drafted
    return state.replace(
        accepted=state.accepted + checked.accepted.astype(jnp.float32),
        rejected=state.rejected + failed.astype(jnp.float32))


def _geometric_length(key, position, accepted, rejected):
  """One more than the continuations before the first stop, `i32[]`."""
  rate_key, length_key = (
      keys_lib.at(key, position, types.Role.CONTROL, i) for i in range(2))
  rate = jax.random.beta(rate_key, accepted, rejected, dtype=jnp.float32)
  tiny = jnp.finfo(jnp.float32).tiny
  u = jax.random.uniform(length_key, (), jnp.float32, minval=tiny)
  # P(log u / log rate >= n) = rate^n. A rate of 1 goes on for ever.
  runs = jnp.log(u) / jnp.minimum(jnp.log(jnp.maximum(rate, tiny)), -1e-6)
  return 1 + jnp.minimum(runs, 1e6).astype(jnp.int32)


@struct.dataclass
class UcbState:
  """Of each row.

  Attributes:
    pulls: `f32[B, A]`, rounds of each arm.
    rewards: `f32[B, A]`, their sum.
    arm: `i32[B]`, this round's.
  """

  pulls: jax.Array
  rewards: jax.Array
  arm: jax.Array


@dataclasses.dataclass(frozen=True)
class UpperConfidence:
  """UCB1 over lengths; the reward is tokens per time.

  A round of n drafts that emits t tokens is worth `t / (1 + n draft_cost)`, as
  a share of the most that any arm could be worth. Every arm is tried once, the
  shortest first (Auer et al. 2002, Fig. 1).

  Attributes:
    lengths: the arms.
    draft_cost: time of a draft forward over that of a target forward.
    exploration: factor of the confidence radius, 1 in UCB1.
  """

  lengths: tuple[int, ...] = (1, 2, 4, 8)
  draft_cost: float = 0.1
  exploration: float = 1.0
  taps: ClassVar[tuple[str, ...]] = ()

  def __post_init__(self):
    if not self.lengths or min(self.lengths) < 1:
      raise ValueError(f"lengths={self.lengths}, expected numbers above 0.")
    for name in ("draft_cost", "exploration"):
      if getattr(self, name) < 0:
        raise ValueError(f"{name}={getattr(self, name)}, expected >= 0.")

  def init(self, batch):
    zeros = jnp.zeros((batch, len(self.lengths)), jnp.float32)
    return UcbState(zeros, zeros, jnp.zeros((batch,), jnp.int32))

  def begin(self, state, keys, length):
    del keys, length
    tried = jnp.maximum(state.pulls, 1)
    rounds = jnp.maximum(state.pulls.sum(-1, keepdims=True), 1)
    radius = self.exploration * jnp.sqrt(2 * jnp.log(rounds) / tried)
    worth = jnp.where(state.pulls > 0, state.rewards / tried + radius, jnp.inf)
    return state.replace(arm=jnp.argmax(worth, -1).astype(jnp.int32))

  def proceed(self, params, state, drafted):
    del params
    wanted = jnp.asarray(self.lengths, jnp.int32)[state.arm]
    return drafted.index + 1 < wanted, state

  def update(self, state, checked):
    cost = lambda n: 1 + n * self.draft_cost
    most = max((n + 1) / cost(n) for n in self.lengths)
    tokens = (1 + checked.accepted).astype(jnp.float32)
    reward = tokens / cost(checked.drafted.astype(jnp.float32)) / most
    arms = jnp.arange(len(self.lengths))[None]
    pulled = (arms == state.arm[:, None]).astype(jnp.float32)
    return state.replace(pulls=state.pulls + pulled,
                         rewards=state.rewards + pulled * reward[:, None])
