"""The one token counter: what every executor sums over rounds."""

from flax import struct
import jax
import jax.numpy as jnp

from spec_jax.core import types


@struct.dataclass
class Counts:
  """Sums of `StepInfo` over rounds, per row.

  Attributes:
    target_calls: `i32[B]`, rounds in which the row took part.
    emitted: `i32[B]`, tokens, corrections and bonus tokens included.
    drafted: `i32[B, D]`, valid nodes by depth.
    reached: `i32[B, D]`, rounds that tried to accept at the depth.
    accepted: `i32[B, D]`, rounds that accepted at the depth.
    histogram: `i32[B, D + 1]`, rounds by the number of accepted drafts.
  """

  target_calls: jax.Array
  emitted: jax.Array
  drafted: jax.Array
  reached: jax.Array
  accepted: jax.Array
  histogram: jax.Array


def zero(batch: int, depth: int) -> Counts:
  """Nothing counted yet; `depth` is the tree's."""
  # Separate buffers: executors donate them, and none may be donated twice.
  zeros = lambda *shape: jnp.zeros((batch,) + shape, jnp.int32)
  return Counts(target_calls=zeros(), emitted=zeros(), drafted=zeros(depth),
                reached=zeros(depth), accepted=zeros(depth),
                histogram=zeros(depth + 1))


def add(counts: Counts, info: types.StepInfo) -> Counts:
  """Adds one round."""
  num_accepted = info.accepted.sum(-1)
  bins = jnp.arange(counts.histogram.shape[1])
  hit = (bins[None] == num_accepted[:, None]) & (info.active > 0)[:, None]
  return Counts(
      target_calls=counts.target_calls + info.active,
      emitted=counts.emitted + info.emitted,
      drafted=counts.drafted + info.drafted,
      reached=counts.reached + info.reached * info.active[:, None],
      accepted=counts.accepted + info.accepted * info.active[:, None],
      histogram=counts.histogram + hit.astype(jnp.int32))
