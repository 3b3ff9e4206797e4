"""Rules that accept what the target itself finds likely enough; q is not used.

One form for all of them: a set of acceptable tokens computed from p, of the
acceptable drafts the most likely, and a law of its own when there is none.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from spec_jax.core import sampling as sampling_lib
from spec_jax.core import types

DETERMINISTIC = ("top_k", "deterministic")
# "coupled" is missing: no sum over drafts gives what would then be emitted.
ANY_DRAW = types.RANDOM_DRAWS + DETERMINISTIC


def entropy(p: jax.Array) -> jax.Array:
  """`H(p)` in nats: `f[]` for `f[V]`."""
  return jax.scipy.special.entr(p).sum(-1)


def likeliest(p: jax.Array, is_accepted: jax.Array, rest: jax.Array,
              drafts: jax.Array, is_draft: jax.Array) -> jax.Array:
  """All mass on the most likely accepted draft; `rest` if none is accepted.

  Args:
    p: `f[V]`, the target's law.
    is_accepted: `bool[V]`.
    rest: `f[V]`.
    drafts: `i32[K]`; among equally likely ones the first drawn is taken.
    is_draft: `bool[K]`, False for padding.
  """
  is_kept = is_draft & is_accepted[drafts]
  best = drafts[jnp.argmax(jnp.where(is_kept, p[drafts], -1))]
  chosen = jax.nn.one_hot(best, p.shape[-1], dtype=p.dtype)
  return jnp.where(is_kept.any(), chosen, rest)


@dataclasses.dataclass(frozen=True)
class AcceptanceSet:
  """A rule given by the tokens that pass and the law of the rest.

  Several drafts: the most likely one that passes is emitted, so the output
  leans further towards the mode than with one. The papers keep the longest
  accepted path of a tree and decide by likelihood between equally long ones;
  going down token by token is the same at the last level and above it may end
  on a shorter path.
  """

  exact: ClassVar[bool] = False
  draws: ClassVar[tuple[str, ...]] = ANY_DRAW
  max_drafts: ClassVar[int | None] = None

  def accepts(self, p: jax.Array) -> jax.Array:
    """`bool[V]`: the tokens that pass."""
    raise NotImplementedError

  def rest(self, p: jax.Array) -> jax.Array:
    """`f[V]`: what is emitted when no draft passes, or none was drawn."""
    return p

  def law(self, p, q, drafts, is_draft):
    del q
    return likeliest(p, self.accepts(p), self.rest(p), drafts, is_draft)

  def at_zero(self, p, drafts, is_draft):
    """The same at temperature 0, from p at temperature 1."""
    return likeliest(
        p, self.accepts(p), sampling_lib.greedy_law(p), drafts, is_draft)


@dataclasses.dataclass(frozen=True)
class TopKAcceptance(AcceptanceSet):
  """Accepts the target's k most likely tokens (Stern et al. 2018, Sec. 5.1).

  Published for greedy decoding, where k = 1 is exact matching. When sampling,
  what no draft decides is drawn from p; then k = 0 accepts nothing and is
  exact. Departures: ties of the k-th pass, tokens without mass do not.

  Attributes:
    k: how many tokens pass.
  """

  k: int = 2

  def __post_init__(self):
    if self.k < 0:
      raise ValueError(f"k={self.k}, expected >= 0 (0 accepts nothing).")

  def accepts(self, p):
    if self.k == 0:
      return jnp.zeros(p.shape, bool)
    floor = jax.lax.top_k(p, min(self.k, p.shape[-1]))[0][..., -1]
    return (p >= floor) & (p > 0)


@dataclasses.dataclass(frozen=True)
class DistanceAcceptance(AcceptanceSet):
  """Accepts tokens near the target's argmax in value (Stern et al. 2018, 5.2).

  For vocabularies whose ids are a scale, such as the intensities of an image.
  Published for greedy decoding, where epsilon = 0 is exact matching. When
  sampling, what no draft decides is drawn from p.

  Attributes:
    epsilon: largest difference of two ids that pass as equal; the paper takes 2
      for images.
  """

  epsilon: int = 2

  def __post_init__(self):
    if self.epsilon < 0:
      raise ValueError(f"epsilon={self.epsilon}, expected >= 0.")

  def accepts(self, p):
    ids = jnp.arange(p.shape[-1], dtype=jnp.int32)
    return jnp.abs(ids - sampling_lib.most_likely(p)) <= self.epsilon


@dataclasses.dataclass(frozen=True)
class Threshold(AcceptanceSet):
  """Accepts `p(x) >= min(b - a H(p), max p)` (AASD, Wang et al. 2025).

  A target that is sure asks for its argmax, one that is not accepts more; at
  an entropy above b/a nats it accepts all. With a = 0 a fixed threshold. The
  argmax always passes, so it is exact in general only for a point mass.
  Departures: tokens without mass never pass; when sampling, what no draft
  decides is drawn from p (the paper decodes greedily).

  Attributes:
    slope: a, probability per nat; both defaults are those of a port to
      Llama 3.
    intercept: b, the threshold of a target without entropy.
  """

  slope: float = 0.1
  intercept: float = 0.1

  def __post_init__(self):
    if not self.slope >= 0:
      raise ValueError(f"slope={self.slope}, expected >= 0.")

  def threshold(self, p: jax.Array) -> jax.Array:
    """`f[]`: the least probability that passes."""
    return jnp.minimum(self.intercept - self.slope * entropy(p), p.max(-1))

  def accepts(self, p):
    return (p >= self.threshold(p)) & (p > 0)
