"""What the functions of this package ask of their arguments."""

import numpy as np

_SUM_TOLERANCE = 1e-6


def law(name: str, values, ndim: int | None = None,
        tolerance: float = _SUM_TOLERANCE) -> np.ndarray:
  """`f64[..., V]` whose last axis is a probability law.

  Raises:
    ValueError: for a wrong rank, an entry that is negative or not finite, or a
      sum that misses 1 by more than the tolerance.

  >>> law("p", [.25, .75])
  array([0.25, 0.75])
  """
  values = np.asarray(values, np.float64)
  if not values.ndim or not values.shape[-1] or (
      ndim is not None and values.ndim != ndim):
    raise ValueError(
        f"{name} has shape {values.shape}, expected"
        f" {'[..., V]' if ndim is None else f'{ndim} axes'} with V > 0.")
  is_good = np.isfinite(values) & (values >= 0)
  if not is_good.all():
    raise ValueError(f"{name} holds {values[~is_good][0]}, expected finite"
                     " probabilities of at least 0.")
  total = values.sum(-1)
  error = np.abs(total - 1)
  if error.size and error.max() > tolerance:
    raise ValueError(f"{name} sums to {total.flat[error.argmax()]}, expected 1"
                     f" within {tolerance}.")
  return values


def laws(p, q) -> tuple[np.ndarray, np.ndarray]:
  """Target and draft law of one shape `[..., V]`.

  Raises:
    ValueError: if either is no law or the shapes differ.

  >>> [law.tolist() for law in laws([.5, .5], [.25, .75])]
  [[0.5, 0.5], [0.25, 0.75]]
  """
  p, q = law("p", p), law("q", q)
  if p.shape != q.shape:
    raise ValueError(
        f"p has shape {p.shape}, q {q.shape}; expected one shape [..., V].")
  return p, q


def between(name: str, values, low: float = 0.0, high: float = 1.0
            ) -> np.ndarray:
  """`f64[...]` with every entry in `[low, high]`.

  Raises:
    ValueError: otherwise.

  >>> between("alpha", .5)
  array(0.5)
  """
  values = np.asarray(values, np.float64)
  if not ((values >= low) & (values <= high)).all():
    raise ValueError(
        f"{name}={values.tolist()}, expected between {low} and {high}.")
  return values


def positive(name: str, values) -> np.ndarray:
  """`f64[...]` with every entry finite and above 0.

  Raises:
    ValueError: otherwise.

  >>> positive('x', 2).tolist()
  2.0
  """
  values = np.asarray(values, np.float64)
  if not ((values > 0) & np.isfinite(values)).all():
    raise ValueError(f"{name}={values.tolist()}, expected above 0 and finite.")
  return values


def count(name: str, value, minimum: int = 0) -> int:
  """An integer of at least `minimum`.

  Raises:
    ValueError: otherwise.

  >>> count("length", 3)
  3
  """
  if int(value) != value or value < minimum:
    raise ValueError(f"{name}={value}, expected an integer >= {minimum}.")
  return int(value)
