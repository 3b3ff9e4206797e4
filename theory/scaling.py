"""Log-linear scaling laws of drafters, and the batch at which trees narrow.

Scylla, Yan et al. 2025 (arXiv 2505.07858) states three laws of one form,
`y = slope * log10(x) + intercept`, in `LAWS`; y is a mean number of tokens per
round or a speed, never a probability. The constants are to be fitted. NumPy,
float64.
"""

from collections.abc import Sequence
import dataclasses

import numpy as np
from scipy import stats

from theory import checks

# x and y of each law.
LAWS = {
    "data": ("tokens of draft pre-training", "tokens per round"),
    "capacity": ("draft parameters or layers", "tokens per round"),
    "batch": ("sequences decoded together", "tokens per second"),
}


@dataclasses.dataclass(frozen=True)
class LogLinear:
  """A least-squares line over log10(x).

  Attributes:
    slope: y per tenfold x.
    intercept: y at x = 1.
    r_squared: share of the variance of y that it explains.
    num_points: n.
    mean_log_x: mean of log10(x).
    spread: sum of squares of log10(x) about its mean.
    noise: standard deviation of y about the line, n - 2 degrees of freedom.
  """

  slope: float
  intercept: float
  r_squared: float
  num_points: int
  mean_log_x: float
  spread: float
  noise: float

  def predict(self, x, ceiling: float = np.inf) -> np.ndarray:
    """The line at x, `f64[...]`, but never above the ceiling.

    A round of g drafts has at most g + 1 tokens, wherever the line leads.
    """
    log_x = np.log10(checks.positive("x", x))
    return np.minimum(self.slope * log_x + self.intercept, ceiling)

  def band(self, x, confidence: float = 0.95, is_new_point: bool = False
           ) -> tuple[np.ndarray, np.ndarray]:
    """Confidence band of the line at x; two `f64[...]`, low and high.

    Args:
      x: `[...]`.
      confidence: in (0, 1), for each x on its own; Gaussian noise.
      is_new_point: of a new measurement instead of the line.

    Raises:
      ValueError: for a confidence out of range or fewer than 3 points.
    """
    if not 0 < confidence < 1:
      raise ValueError(f"confidence={confidence}, expected in (0, 1).")
    if self.num_points < 3:
      raise ValueError(
          f"{self.num_points} points, expected at least 3 for a band.")
    log_x = np.log10(checks.positive("x", x))
    variance = (1 / self.num_points + is_new_point
                + (log_x - self.mean_log_x) ** 2 / self.spread)
    half = (stats.t.ppf((1 + confidence) / 2, self.num_points - 2)
            * self.noise * np.sqrt(variance))
    line = self.slope * log_x + self.intercept
    return line - half, line + half


def fit(x, y) -> LogLinear:
  """Fits one of the laws.

  Args:
    x: `[n]`, above 0, at least two different values.
    y: `[n]`, finite.

  Raises:
    ValueError: for shapes that differ or points that fix no line.

  >>> law = fit([10., 100., 1000.], [2., 2.5, 3.])
  >>> round(law.slope, 6), round(law.intercept, 6), round(law.r_squared, 6)
  (0.5, 1.5, 1.0)
  """
  log_x = np.log10(checks.positive("x", x))
  y = np.asarray(y, np.float64)
  if log_x.ndim != 1 or log_x.shape != y.shape or not np.isfinite(y).all():
    raise ValueError(
        f"x has shape {log_x.shape}, y {y.shape}; expected one shape [n] and"
        " finite values.")
  if np.unique(log_x).size < 2:
    raise ValueError(f"x={np.asarray(x).tolist()}, expected two values.")
  mean = float(log_x.mean())
  spread = float(((log_x - mean) ** 2).sum())
  slope = float((log_x - mean) @ (y - y.mean())) / spread
  intercept = float(y.mean()) - slope * mean
  error = float(((y - slope * log_x - intercept) ** 2).sum())
  total = float(((y - y.mean()) ** 2).sum())
  return LogLinear(
      slope=slope, intercept=intercept,
      r_squared=1 - error / total if total > 0 else 1.0,
      num_points=y.size, mean_log_x=mean, spread=spread,
      noise=float(np.sqrt(error / max(y.size - 2, 1))))


@dataclasses.dataclass(frozen=True)
class Roofline:
  """Seconds of one forward: the larger of moving bytes and computing.

  Attributes:
    weight_bytes: read once per forward.
    flops_per_token: of each token fed.
    bandwidth: bytes per second.
    compute: floating-point operations per second.
  """

  weight_bytes: float
  flops_per_token: float
  bandwidth: float
  compute: float

  def __post_init__(self):
    checks.positive("Roofline", dataclasses.astuple(self))

  def seconds(self, num_tokens) -> np.ndarray:
    """Of a forward over that many tokens in all, `f64[...]`."""
    tokens = checks.positive("num_tokens", num_tokens)
    return np.maximum(self.weight_bytes / self.bandwidth,
                      self.flops_per_token * tokens / self.compute)

  @property
  def ridge(self) -> float:
    """Tokens per forward up to which they are free."""
    return (self.weight_bytes / self.bandwidth
            * self.compute / self.flops_per_token)


def best_width(tokens: Sequence[float], nodes: Sequence[int], batch: int,
               device: Roofline, draft_seconds: float = 0.0) -> int:
  """Index of the tree width of the largest throughput; ties: the first.

  `batch * tokens[w] / (draft_seconds + seconds(batch * nodes[w]))`. It never
  rises with the batch: a larger batch makes the wider of two trees dearer by
  no smaller factor.

  Args:
    tokens: `[W]`, expected tokens per round of each width.
    nodes: `[W]`, tokens verified per round and sequence, rising.
    batch: sequences.
    device: the target's forward.
    draft_seconds: of a round's drafting, the same for all widths.

  Raises:
    ValueError: for lists that differ in length or nodes that do not rise.

  >>> device = Roofline(1e9, 2e9, 1e12, 1e14)
  >>> [best_width([2., 2.6, 3.], [5, 20, 60], b, device) for b in (1, 4, 64)]
  [1, 0, 0]
  """
  tokens, nodes = checks.positive("tokens", tokens), checks.positive(
      "nodes", nodes)
  if tokens.ndim != 1 or tokens.shape != nodes.shape or (
      np.diff(nodes) <= 0).any():
    raise ValueError(
        f"tokens has shape {tokens.shape}, nodes={nodes.tolist()}; expected"
        " one shape [W] and rising nodes.")
  batch = checks.count("batch", batch, 1)
  checks.between("draft_seconds", draft_seconds, 0.0, np.inf)
  seconds = draft_seconds + device.seconds(batch * nodes)
  return int(np.argmax(batch * tokens / seconds))
