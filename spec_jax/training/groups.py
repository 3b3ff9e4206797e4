"""Groups of tokens whose rows of the output head are alike."""

import numpy as np

_ROUNDS = 8


def balanced(rows: np.ndarray, num_groups: int, seed: int = 0) -> np.ndarray:
  """Splits tokens into groups of equal size by the angles of their rows.

  Spherical k-means, in which a group takes no more than its share: pairs of a
  token and a group are served in the order of their cosines.

  Args:
    rows: `[V, E]`, none of them zero.
    num_groups: G.
    seed: of the first centres.

  Returns:
    `i32[G, R]`, `R = ceil(V / G)`; V fills up groups that have fewer.

  Raises:
    ValueError: for more groups than tokens.
  """
  vocab_size = len(rows)
  if not 1 <= num_groups <= vocab_size:
    raise ValueError(f"num_groups={num_groups}, expected from 1 to"
                     f" {vocab_size}, the tokens.")
  rows = np.asarray(rows, np.float64)
  rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
  centres = rows[np.random.default_rng(seed).choice(
      vocab_size, num_groups, replace=False)]
  size = -(-vocab_size // num_groups)
  for _ in range(_ROUNDS):
    owner = _assign(rows @ centres.T, size)
    sums = np.stack([rows[owner == group].sum(0)
                     for group in range(num_groups)])
    norms = np.linalg.norm(sums, axis=1, keepdims=True)
    centres = np.where(norms > 0, sums / np.maximum(norms, 1e-12), centres)
  groups = np.full((num_groups, size), vocab_size, np.int32)
  for group in range(num_groups):
    tokens = np.flatnonzero(owner == group)
    groups[group, :len(tokens)] = tokens
  return groups


def _assign(cosines, size):
  """`i64[V]`, by token its group, of which none has more than `size`."""
  vocab_size, num_groups = cosines.shape
  owner = np.full(vocab_size, -1)
  free = np.full(num_groups, size)
  for pair in np.argsort(-cosines, axis=None, kind="stable"):
    token, group = divmod(int(pair), num_groups)
    if owner[token] < 0 and free[group]:
      owner[token] = group
      free[group] -= 1
  return owner
