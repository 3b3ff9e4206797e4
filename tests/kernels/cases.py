"""Ragged cases of tree attention, and an oracle in float64."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from spec_jax.kernels import tree_attention as lib


@dataclasses.dataclass(frozen=True)
class Case:
  """One call. `num_past` in-flight keys stand before the tree's own."""

  batch: int = 2
  heads: int = 2
  groups: int = 2
  size: int = 64
  num_nodes: int = 5
  num_past: int = 0
  capacity: int = 96
  page: int | None = None
  window: int = 0
  softcap: float = 0.0
  num_splits: int | None = None
  dtype: str = "float32"
  seed: int = 0

  @property
  def options(self):
    return lib.Options(self.window, self.softcap, self.num_splits)

  def arrays(self, lengths=None):
    """Arguments of `tree_attention`, garbage beyond the lengths."""
    rng = np.random.default_rng(self.seed)
    dtype = jnp.dtype(self.dtype)
    num_fresh = self.num_past + self.num_nodes
    normal = lambda *shape: rng.normal(size=shape).astype(np.float32)
    queries = 3 * normal(self.batch, self.heads, self.num_nodes, self.groups,
                         self.size) / np.sqrt(self.size)
    fresh = [normal(self.batch, self.heads, num_fresh, self.size)
             for _ in range(2)]
    if lengths is None:
      lengths = rng.integers(0, self.capacity + 1, self.batch)
    lengths = np.asarray(lengths, np.int32)
    stored = [normal(self.batch, self.heads, self.capacity, self.size)
              for _ in range(2)]
    beyond = np.arange(self.capacity)[None] >= lengths[:, None]
    for array in stored:
      array[np.broadcast_to(beyond[:, None], array.shape[:3])] = 1e4
    mask = self._mask(rng)
    depth = mask[:, :, self.num_past:].sum(-1) + self.num_past
    positions = (lengths[:, None] + depth - 1).astype(np.int32)
    prefix = self._prefix(rng, stored, lengths, dtype)
    keys, values = (jnp.asarray(a, dtype) for a in fresh)
    return (jnp.asarray(queries, dtype), keys, values, jnp.asarray(mask),
            prefix, jnp.asarray(positions))

  def _mask(self, rng):
    mask = np.zeros(
        (self.batch, self.num_nodes, self.num_past + self.num_nodes), bool)
    mask[:, :, :self.num_past] = rng.random(
        (self.batch, self.num_nodes, self.num_past)) < 0.5
    for row in range(self.batch):
      for node in range(self.num_nodes):
        at = self.num_past + node
        mask[row, node, at] = True
        if node:
          parent = rng.integers(0, node)
          own = slice(self.num_past, None)
          mask[row, node, own] |= mask[row, parent, own]
      if self.num_nodes > 3:  # The last node is padding: it sees the prefix.
        mask[row, -1] = False
    return mask

  def _prefix(self, rng, stored, lengths, dtype):
    if self.page is None:
      return lib.Prefix(*(jnp.asarray(a, dtype) for a in stored),
                        jnp.asarray(lengths))
    num_pages = self.capacity // self.page
    table = rng.permutation(self.batch * num_pages + 3)[
        :self.batch * num_pages].reshape(self.batch, num_pages)
    pages = []
    for array in stored:
      cut = array.reshape(self.batch, self.heads, num_pages, self.page,
                          self.size).swapaxes(1, 2)
      pool = np.full((self.batch * num_pages + 3, self.heads, self.page,
                      self.size), 1e4, np.float32)
      pool[table] = cut
      pages.append(jnp.asarray(pool, dtype))
    return lib.Prefix(*pages, jnp.asarray(lengths),
                      jnp.asarray(table, jnp.int32))


def oracle(case, queries, fresh_keys, fresh_values, fresh_mask, prefix,
           positions):
  """Out and log-sum-exp in float64, one query at a time."""
  wide = lambda a: np.asarray(a.astype(jnp.float32), np.float64)
  queries, fresh_keys, fresh_values = map(
      wide, (queries, fresh_keys, fresh_values))
  keys, values = map(wide, (prefix.keys, prefix.values))
  lengths, mask = np.asarray(prefix.length), np.asarray(fresh_mask)
  positions = np.asarray(positions)
  out = np.zeros(queries.shape)
  log_sums = np.full(queries.shape[:-1], -np.inf)
  for b, k, t in np.ndindex(queries.shape[:3]):
    oldest = positions[b, t] - case.window + 1 if case.window else 0
    slots = np.arange(max(oldest, 0), lengths[b])
    if prefix.table is None:
      seen_keys, seen_values = keys[b, k, slots], values[b, k, slots]
    else:
      pages = np.asarray(prefix.table)[b, slots // case.page]
      seen_keys = keys[pages, k, slots % case.page]
      seen_values = values[pages, k, slots % case.page]
    seen_keys = np.concatenate([seen_keys, fresh_keys[b, k][mask[b, t]]])
    seen_values = np.concatenate([seen_values, fresh_values[b, k][mask[b, t]]])
    if not len(seen_keys):
      continue
    scores = queries[b, k, t] @ seen_keys.T
    if case.softcap:
      scores = case.softcap * np.tanh(scores / case.softcap)
    top = scores.max(-1, keepdims=True)
    weights = np.exp(scores - top)
    out[b, k, t] = weights @ seen_values / weights.sum(-1, keepdims=True)
    log_sums[b, k, t] = np.log(weights.sum(-1)) + top[:, 0]
  return out, log_sums
