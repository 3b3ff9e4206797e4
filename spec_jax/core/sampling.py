"""From logits to the law that is sampled: one function for p and q alike."""

from collections.abc import Callable
import dataclasses
import functools
import math
from typing import Any
from typing import ClassVar

import chex
import jax
import jax.numpy as jnp

from spec_jax.core import threefry

# Below, logits over the temperature leave float32 and the law is NaN.
LEAST_TEMPERATURE = 1e-6
# Beyond, penalised logits do.
_PENALTIES = 0.01, 100


@dataclasses.dataclass(frozen=True)
class Sampling:
  """How logits become a law. Static: a new value is a new compilation.

  The steps run in this order: repetition penalty, temperature, top-k, top-p,
  min-p (each keeps at least the most likely token), normalisation.

  Attributes:
    temperature: 0 means greedy: all mass on the first most likely token; else
      at least 1e-6.
    top_k: keep the k most likely tokens; 0 = all. Ties of the k-th are kept.
    top_p: keep the smallest set of most likely tokens with at least this mass
      (Holtzman et al. 2020, Sec. 3.1); 1 = all.
    min_p: drop tokens less likely than this fraction of the most likely one
      (Nguyen et al. 2024, Sec. 3); 0 = none.
    repetition_penalty: divides positive and multiplies negative logits of
      tokens that occurred in the text (Keskar et al. 2019, Sec. 4.1); 1 = none,
      at least 0.01 and at most 100.
  """

  temperature: float = 1.0
  top_k: int = 0
  top_p: float = 1.0
  min_p: float = 0.0
  repetition_penalty: float = 1.0

  def __post_init__(self):
    _require("temperature", self.temperature, lambda v: v >= 0, ">= 0")
    _require("temperature", self.temperature,
             lambda v: not 0 < v < LEAST_TEMPERATURE,
             f"0 (greedy) or at least {LEAST_TEMPERATURE:g}")
    _require("top_k", self.top_k, lambda v: v >= 0, ">= 0 (0 keeps all)", int)
    _require("top_p", self.top_p, lambda v: 0 < v <= 1, "in (0, 1]")
    _require("min_p", self.min_p, lambda v: 0 <= v < 1, "in [0, 1)")
    least, most = _PENALTIES
    _require("repetition_penalty", self.repetition_penalty,
             lambda v: least <= v <= most, f"from {least} to {most}")

  @property
  def is_greedy(self) -> bool:
    return self.temperature == 0

  @property
  def needs_seen(self) -> bool:
    """Whether the law depends on which tokens occurred before."""
    return self.repetition_penalty != 1.0

  def probs(self, logits: jax.Array, seen: jax.Array | None = None
            ) -> jax.Array:
    """The law itself.

    Args:
      logits: `f[..., V]`.
      seen: `bool[..., V]`, tokens that occur in the text so far; needed only
        with a repetition penalty.

    Returns:
      `f[..., V]`, at least float32, rows sum to 1.
    """
    logits = _wide(logits)
    if self.needs_seen:
      logits = _penalise(logits, seen, self.repetition_penalty)
    if self.is_greedy:
      return greedy_law(logits)
    return jax.nn.softmax(
        self.truncate(_tempered(logits, self.temperature)), axis=-1)

  def decide(self, fn: Callable[["Sampling", jax.Array], Any],
             logits: jax.Array) -> Any:
    """`fn(sampling, logits)`; what takes a `Deferred` asks this way."""
    return fn(self, logits)

  def truncate(self, logits: jax.Array) -> jax.Array:
    """Sets the logits outside top-k, top-p and min-p to -inf."""
    if 0 < self.top_k < logits.shape[-1]:
      kth = jax.lax.top_k(logits, self.top_k)[0][..., -1:]
      logits = jnp.where(logits >= kth, logits, -jnp.inf)
    if self.top_p < 1:
      logits = jnp.where(_in_nucleus(logits, self.top_p), logits, -jnp.inf)
    if self.min_p > 0:
      floor = logits.max(-1, keepdims=True) + math.log(self.min_p)
      logits = jnp.where(logits >= floor, logits, -jnp.inf)
    return logits


@dataclasses.dataclass(frozen=True, eq=False)
class Deferred:
  """A `Sampling` whose temperature is known when the program runs, 0 or not.

  It lives within one trace: there, everything but the temperature is static.

  Attributes:
    sampling: all but the temperature, which is 1.
    temperature: `f32[]`, as `Sampling` would take it.
  """

  is_greedy: ClassVar[bool] = False  # As far as a trace can tell.

  sampling: Sampling
  temperature: jax.Array

  @property
  def needs_seen(self) -> bool:
    return self.sampling.needs_seen

  @property
  def repetition_penalty(self) -> float:
    return self.sampling.repetition_penalty

  def decide(self, fn: Callable[[Sampling, jax.Array], Any],
             logits: jax.Array) -> Any:
    """`fn` of a greedy sampling, or of one at temperature 1 and its logits.

    A penalty, too, gives the same law whether it comes before the temperature
    or after it.
    """
    greedy = dataclasses.replace(self.sampling, temperature=0.0)
    return jax.lax.cond(
        self.temperature == 0, functools.partial(fn, greedy),
        lambda logits: fn(
            self.sampling, _tempered(logits, self.temperature)), logits)

  def probs(self, logits: jax.Array, seen: jax.Array | None = None
            ) -> jax.Array:
    """See `Sampling.probs`."""
    return self.decide(
        lambda sampling, logits: sampling.probs(logits, seen), logits)


def _require(name, value, holds_fn, expected, kind=(int, float)):
  if not isinstance(value, kind) or isinstance(value, bool):
    wanted = "an integer" if kind is int else "a number"
    raise ValueError(f"{name}={value!r}, {wanted} was expected.")
  if math.isinf(value):
    raise ValueError(f"{name}={value!r}, expected {expected} and finite.")
  if not holds_fn(value):
    raise ValueError(f"{name}={value!r}, expected {expected}.")


def _wide(logits):
  """At least float32."""
  is_short = jnp.finfo(logits.dtype).bits < 32
  return logits.astype(jnp.float32) if is_short else logits


def _tempered(logits, temperature):
  """Logits over a temperature, in the same bits whether it is static or not.

  By a product, as XLA would divide by a constant.
  """
  logits = _wide(logits)
  return logits * jnp.reciprocal(jnp.asarray(temperature, logits.dtype))


def _penalise(logits, seen, penalty):
  chex.assert_equal_shape([logits, seen])
  penalised = jnp.where(logits > 0, logits / penalty, logits * penalty)
  return jnp.where(seen, penalised, logits)


def _in_nucleus(logits, top_p):
  order = jnp.argsort(-logits, axis=-1, stable=True)
  ranked = jax.nn.softmax(jnp.take_along_axis(logits, order, -1), axis=-1)
  # A token is in when the mass strictly before it is below top_p; the first
  # is always in, also when its own mass exceeds top_p.
  is_in = jnp.cumsum(ranked, -1) - ranked < top_p
  ranks = jnp.argsort(order, axis=-1)
  return jnp.take_along_axis(is_in, ranks, -1)


def most_likely(scores: jax.Array) -> jax.Array:
  """The first of the largest of each `f[..., V]`, `i32[...]`.

  `jnp.argmax` in two plain reductions: on a CPU, XLA computes an argmax, and
  all that is fused with it, one number after the other, ten times as slowly.
  Of scores that are NaN it is some token of the vocabulary.
  """
  index = jax.lax.broadcasted_iota(jnp.int32, scores.shape, scores.ndim - 1)
  is_best = scores == scores.max(-1, keepdims=True)
  return jnp.where(is_best, index, scores.shape[-1] - 1).min(-1)


def greedy_law(scores: jax.Array) -> jax.Array:
  """All mass `f[..., V]` on the first of the largest."""
  return jax.nn.one_hot(
      most_likely(scores), scores.shape[-1], dtype=scores.dtype)


def clocks(key: jax.Array, vocab_size: int, dtype=jnp.float32) -> jax.Array:
  """Exponential noise `f[V]`, never 0: one clock per token. Consumes the key.

  A token of probability p rings at clock / p; the first to ring is a draw from
  the law. This is Gumbel-max (argmax of log p - log clock) with one logarithm
  instead of three.
  """
  tiny = jnp.finfo(dtype).tiny
  if threefry.is_plain(key) and jnp.dtype(dtype) == jnp.float32:
    return -jnp.log(threefry.uniform(key, vocab_size, tiny))
  return -jnp.log(jax.random.uniform(key, (vocab_size,), dtype, minval=tiny))


def first_to_ring(probs: jax.Array, noise: jax.Array) -> jax.Array:
  """One draw `i32[...]` from each law `f[..., V]` with its own clocks.

  The one sampler of the code base: what a rule emits and what plain
  autoregressive decoding emits come from here, from the same key, so the two
  agree token for token wherever the two laws agree.
  """
  return most_likely(probs / noise)


def first_k_to_ring(probs: jax.Array, noise: jax.Array, k: int
                    ) -> tuple[jax.Array, jax.Array]:
  """Successive draws without replacement, in the order drawn.

  Gumbel-top-k (Kool et al. 2019, Sec. 2.3).

  Args:
    probs: `f[..., V]`.
    noise: `f[..., V]`, from `clocks`.
    k: draws.

  Returns:
    `i32[..., k]` tokens and `bool[..., k]`, False where the support was
    exhausted.
  """
  rates, tokens = jax.lax.top_k(probs / noise, k)
  return tokens.astype(jnp.int32), rates > 0


def top_and_first_to_ring(probs: jax.Array, noise: jax.Array, k: int
                          ) -> tuple[jax.Array, jax.Array]:
  """The k - 1 most likely tokens, then one draw from the rest.

  The greedy draft law of Hu et al. 2025 (Sec. 5.1); shapes as
  `first_k_to_ring`.
  """
  top_probs, top = jax.lax.top_k(probs, k - 1)
  vocab = jnp.arange(probs.shape[-1], dtype=top.dtype)
  is_top = (top[..., None] == vocab.reshape(
      (1,) * top.ndim + vocab.shape)).any(-2)
  rates = jnp.where(is_top, 0, probs / noise)
  last = most_likely(rates)[..., None]
  tokens = jnp.concatenate([top.astype(jnp.int32), last], -1)
  found = jnp.concatenate([top_probs, rates.max(-1, keepdims=True)], -1)
  return tokens, found > 0


def draw(key: jax.Array, probs: jax.Array) -> jax.Array:
  """One draw from a law `f[V]`. The key is consumed."""
  return first_to_ring(probs, clocks(key, probs.shape[-1], probs.dtype))


def seen_tokens(tokens: jax.Array, length: jax.Array, vocab_size: int
                ) -> jax.Array:
  """`bool[B, V]`: which tokens occur in the first `length` of `i32[B, L]`."""
  batch, capacity = tokens.shape
  is_text = jnp.arange(capacity)[None] < length[:, None]
  slots = jnp.where(is_text, tokens, vocab_size)
  rows = jnp.arange(batch)[:, None]
  return jnp.zeros((batch, vocab_size), bool).at[rows, slots].set(
      True, mode="drop")


GREEDY = Sampling(temperature=0.0)
