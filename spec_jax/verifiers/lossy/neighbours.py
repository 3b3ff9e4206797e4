"""Which tokens resemble which: a table, made once from their embeddings."""

import dataclasses
import hashlib

import numpy as np

_CHUNK = 256  # Rows of distances held at once: bounds memory at V = 16k.


@dataclasses.dataclass(frozen=True, eq=False)
class Neighbours:
  """For each token the tokens nearest to it, nearest first, itself left out.

  Compared and hashed by content, so that a rule that holds an equal table
  shares its compilation.

  Attributes:
    table: `i32[V, k]`, read only.
  """

  table: np.ndarray

  def __post_init__(self):
    table = np.array(self.table, np.int32)
    if table.ndim != 2:
      raise ValueError(f"table has shape {table.shape}, expected [V, k].")
    size = len(table)
    if table.size and not 0 <= table.min() <= table.max() < size:
      raise ValueError(
          f"table holds tokens {table.min()} to {table.max()}, expected 0 to"
          f" {size - 1}, a row each.")
    if (table == np.arange(size)[:, None]).any():
      raise ValueError("table names a token among its own neighbours.")
    ranked = np.sort(table, axis=1)
    if (ranked[:, 1:] == ranked[:, :-1]).any():
      raise ValueError("table names a neighbour twice in a row.")
    table.setflags(write=False)
    object.__setattr__(self, "table", table)
    digest = hashlib.sha256(table.tobytes()).digest()
    object.__setattr__(self, "_key", (table.shape, digest))

  @property
  def vocab_size(self) -> int:
    return len(self.table)

  def __eq__(self, other):
    return isinstance(other, Neighbours) and self._key == other._key

  def __hash__(self):
    return hash(self._key)


def nearest(embeddings, k: int = 1000) -> Neighbours:
  """The k nearest by Euclidean distance, ties to the lower token.

  Args:
    embeddings: `[V, E]`, for image tokens the codebook (Jang et al. 2025).
    k: neighbours per token; at most V - 1 are there.

  Raises:
    ValueError: for a wrong shape, embeddings that are not finite, or k < 0.
  """
  points = np.asarray(embeddings, np.float64)
  if points.ndim != 2 or not np.isfinite(points).all():
    raise ValueError(
        f"embeddings of shape {points.shape}, expected [V, E], all finite.")
  if k < 0:
    raise ValueError(f"k={k}, expected >= 0.")
  norms = (points ** 2).sum(1)
  table = np.empty((len(points), min(k, len(points) - 1)), np.int32)
  for start in range(0, len(points), _CHUNK):
    rows = np.arange(start, min(start + _CHUNK, len(points)))
    distance = norms[None] - 2 * points[rows] @ points.T  # Less own norm.
    distance[np.arange(len(rows)), rows] = np.inf
    table[rows] = np.argsort(
        distance, axis=1, kind="stable")[:, :table.shape[1]]
  return Neighbours(table)
