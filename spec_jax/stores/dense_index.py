"""Nearest neighbours of unit vectors, by cosine.

The pieces of DReSD (Gritta et al. 2025, Sec. 3): z-scores, PCA and unit length;
an inverted file of k-means cells for the search. Searching all cells is exact.
"""

import dataclasses

import numpy as np

_BATCH = 1 << 14  # Vectors of one matrix product.


@dataclasses.dataclass(frozen=True, eq=False)
class Projection:
  """Hidden states to unit vectors.

  Attributes:
    mean: `f32[E]`.
    std: `f32[E]`.
    components: `f32[E, C]`, orthonormal columns, the widest direction first.
    explained: share of the variance that they keep.
  """

  mean: np.ndarray
  std: np.ndarray
  components: np.ndarray
  explained: float

  def __call__(self, hidden: np.ndarray) -> np.ndarray:
    """`f[..., E]` -> `f32[..., C]` of length 1."""
    scored = (np.asarray(hidden, np.float32) - self.mean) / self.std
    return unit(scored @ self.components)


def unit(vectors: np.ndarray) -> np.ndarray:
  """Scaled to length 1; zero stays zero."""
  norm = np.linalg.norm(vectors, axis=-1, keepdims=True)
  return vectors / np.maximum(norm, 1e-12)


def fit(hidden: np.ndarray, dims: int) -> Projection:
  """PCA of z-scored hidden states `f[n, E]`.

  Raises:
    ValueError: more dimensions are asked for than there are.
  """
  hidden = np.asarray(hidden, np.float32)
  if not 1 <= dims <= hidden.shape[1] or len(hidden) < 2:
    raise ValueError(f"dims={dims} of {len(hidden)} hidden states of size"
                     f" {hidden.shape[1]}, expected 1 to that size and at least"
                     " two states.")
  mean, std = hidden.mean(0), np.maximum(hidden.std(0), 1e-6)
  scored = (hidden - mean) / std
  covariance = scored.T.astype(np.float64) @ scored / len(hidden)
  values, vectors = np.linalg.eigh(covariance)
  order = np.argsort(-values)[:dims]
  explained = float(values[order].sum() / values.sum())
  return Projection(mean, std, vectors[:, order].astype(np.float32), explained)


@dataclasses.dataclass(frozen=True, eq=False)
class Cells:
  """An inverted file: vectors by the cell whose centre is nearest.

  Attributes:
    centres: `f32[L, C]`, of length 1.
    starts: `i64[L + 1]`, where each cell begins in `members`.
    members: `i64[n]`, numbers of the vectors, cell by cell.
  """

  centres: np.ndarray
  starts: np.ndarray
  members: np.ndarray

  def candidates(self, query: np.ndarray, num_cells: int) -> np.ndarray:
    """Numbers of the vectors in the cells nearest to `f32[C]`."""
    if num_cells >= len(self.centres):
      return self.members
    scores = self.centres @ query
    nearest = np.argpartition(-scores, num_cells - 1)[:num_cells]
    return np.concatenate([
        self.members[self.starts[i]:self.starts[i + 1]] for i in nearest])


def make_cells(vectors: np.ndarray, num_cells: int | None = None,
               rounds: int = 5, seed: int = 0) -> Cells:
  """Spherical k-means of unit vectors `f[n, C]`.

  Args:
    vectors: may be a memory map; read in batches.
    num_cells: default: `5 * sqrt(n)`, as published.
    rounds: of Lloyd's algorithm, on a sample of `250 * sqrt(n)`.
    seed: of the sample.
  """
  size = len(vectors)
  num_cells = min(num_cells or int(5 * size ** 0.5), size)
  rng = np.random.default_rng(seed)
  sample = rng.permutation(size)[:max(num_cells, int(250 * size ** 0.5))]
  sample = np.asarray(vectors[np.sort(sample)], np.float32)
  centres = sample[rng.permutation(len(sample))[:num_cells]]
  for _ in range(rounds):
    owner = _nearest(sample, centres)
    sums = np.zeros_like(centres)
    np.add.at(sums, owner, sample)
    is_used = np.linalg.norm(sums, axis=1) > 1e-6
    centres = np.where(is_used[:, None], unit(sums), centres)
  owner = _nearest(vectors, centres)
  members = np.argsort(owner, kind="stable")
  starts = np.searchsorted(owner[members], np.arange(num_cells + 1))
  return Cells(centres, starts, members)


def _nearest(vectors, centres):
  return np.concatenate([
      (np.asarray(vectors[i:i + _BATCH], np.float32) @ centres.T).argmax(1)
      for i in range(0, len(vectors), _BATCH)])


def search(keys: np.ndarray, cells: Cells, query: np.ndarray, count: int,
           num_cells: int) -> tuple[np.ndarray, np.ndarray]:
  """The nearest keys, the nearest first.

  Args:
    keys: `f16[n, C]`, unit vectors.
    cells: of them.
    query: `f32[C]`, a unit vector.
    count: neighbours.
    num_cells: cells that are searched.

  Returns:
    Numbers `i64[k]` and cosines `f32[k]`.
  """
  found = cells.candidates(query, num_cells)
  scores = np.asarray(keys[found], np.float32) @ query
  order = np.lexsort((found, -scores))[:count]
  return found[order], scores[order]
