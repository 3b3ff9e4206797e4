"""Goodput: the useful tokens per second of a batch, and the best draft length.

SmartSpec, Liu et al. 2024 (arXiv 2406.14066): useful are the tokens that are
kept, the target's own included, not the drafted ones. NumPy, float64.
"""

import dataclasses

import numpy as np

from theory import checks
from theory import latency


@dataclasses.dataclass(frozen=True)
class ForwardTime:
  """Seconds of one forward, linear in its work.

  Attributes:
    per_context_token: seconds per cached token of the batch.
    per_token: seconds per token fed.
    fixed: seconds of an empty forward.
  """

  per_context_token: float
  per_token: float
  fixed: float

  def __post_init__(self):
    checks.between("seconds", dataclasses.astuple(self), 0.0, np.inf)

  def seconds(self, context_tokens: float, tokens: float) -> float:
    return (self.per_context_token * context_tokens + self.per_token * tokens
            + self.fixed)


def goodput(accepts, length: int, target: ForwardTime, draft: ForwardTime,
            context_tokens: float = 0.0) -> float:
  """Tokens per second that a batch keeps, g drafts each.

  Expected tokens of all requests / seconds of a step: g draft forwards of one
  token per request and one target forward of g + 1.

  Args:
    accepts: `[B]`, each request's acceptance.
    length: g, the same for all; 0 is plain decoding.
    target: its forward.
    draft: its forward.
    context_tokens: cached tokens of the whole batch.

  Raises:
    ValueError: for an acceptance outside [0, 1], an empty batch or a step
      that takes no time.

  >>> forward = ForwardTime(0., 0., .01)
  >>> goodput([.5, .5], 1, forward, ForwardTime(0., 0., .005))
  200.0
  """
  accepts = checks.between("accepts", accepts)
  if accepts.ndim != 1 or not accepts.size:
    raise ValueError(f"accepts has shape {accepts.shape}, expected [B], B > 0.")
  batch = accepts.size
  seconds = (length * draft.seconds(context_tokens, batch)
             + target.seconds(context_tokens, batch * (length + 1)))
  return float(latency.expected_tokens(accepts, length).sum()
               / checks.positive("seconds", seconds))


def best_goodput_length(accepts, max_length: int, target: ForwardTime,
                        draft: ForwardTime, context_tokens: float = 0.0) -> int:
  """The length of 0..max_length with the largest `goodput`; ties: shortest.

  >>> slow, free = ForwardTime(0., 0., .01), ForwardTime(0., 0., 0.)
  >>> best_goodput_length([.5], 4, slow, free)
  4
  """
  lengths = range(checks.count("max_length", max_length) + 1)
  return int(np.argmax([
      goodput(accepts, g, target, draft, context_tokens) for g in lengths]))
