"""Nearest neighbours of unit vectors, by cosine.

The pieces of DReSD (Gritta et al. 2025, Sec. 3): z-scores, PCA and unit length;
an inverted file of k-means cells for the search. Searching all cells is exact.
"""

from collections.abc import Iterator
import dataclasses

import numpy as np

_PRODUCT = 1 << 24  # Cosines computed at once: 64 MB.


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
  sample, centres = start(vectors, num_cells, seed)
  for _ in range(rounds):
    centres = improve(sample, centres)
  owner = np.concatenate(list(owners(vectors, centres)))
  return gather(centres, owner)


def start(vectors: np.ndarray, num_cells: int | None = None, seed: int = 0
          ) -> tuple[np.ndarray, np.ndarray]:
  """The sample `f32[s, C]` that k-means sees, and first centres `f32[L, C]`."""
  size = len(vectors)
  num_cells = min(num_cells or int(5 * size ** 0.5), size)
  rng = np.random.default_rng(seed)
  sample = rng.permutation(size)[:max(num_cells, int(250 * size ** 0.5))]
  sample = np.asarray(vectors[np.sort(sample)], np.float32)
  return sample, sample[rng.permutation(len(sample))[:num_cells]]


def improve(sample: np.ndarray, centres: np.ndarray) -> np.ndarray:
  """One round of Lloyd's algorithm; a cell without members stays."""
  owner = np.concatenate(list(owners(sample, centres)))
  sums = np.zeros_like(centres)
  np.add.at(sums, owner, sample)
  is_used = np.linalg.norm(sums, axis=1) > 1e-6
  return np.where(is_used[:, None], unit(sums), centres)


def owners(vectors: np.ndarray, centres: np.ndarray, first: int = 0
           ) -> Iterator[np.ndarray]:
  """Yields the nearest centres of the vectors from `first` on, in batches.

  The batches of one pair of arrays begin at the same places whenever `first`
  is where one of them ended.
  """
  step = max(1, _PRODUCT // len(centres))
  for begin in range(first, len(vectors), step):
    batch = np.asarray(vectors[begin:begin + step], np.float32)
    yield (batch @ centres.T).argmax(1)


def gather(centres: np.ndarray, owner: np.ndarray) -> Cells:
  """Cells from the number of each vector's centre, `i[n]`."""
  members = np.argsort(owner, kind="stable")
  starts = np.searchsorted(owner[members], np.arange(len(centres) + 1))
  return Cells(centres, starts, members)


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
  if len(found) > count:  # Sort few: those that reach the last one's cosine.
    least = np.partition(scores, len(scores) - count)[-count]
    found, scores = found[scores >= least], scores[scores >= least]
  order = np.lexsort((found, -scores))[:count]
  return found[order], scores[order]
