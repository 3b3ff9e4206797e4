"""What the counts of a decode mean; one definition for every method."""

import dataclasses

import jax
import numpy as np

from spec_jax.core import counts as counts_lib


@dataclasses.dataclass(frozen=True)
class Stats:
  """Counts over all rows and rounds.

  Attributes:
    target_calls: forward passes of the target, per row and round.
    emitted: tokens, corrections and bonus tokens included.
    drafted: tree nodes verified, the root excluded.
    accepted: drafted tokens that were kept.
    block_efficiency: emitted / target_calls (tau, bonus included).
    marginal_by_depth: P(a round accepts at depth d), d = 1...
    conditional_by_depth: P(it does | it had a draft to accept there).
    acceptance: accepted / tries, over all depths: the mean probability that a
      node's draft set holds the emitted token.
    histogram: share of rounds that accepted 0, 1, ... drafts.
  """

  target_calls: int
  emitted: int
  drafted: int
  accepted: int
  block_efficiency: float
  marginal_by_depth: tuple[float, ...]
  conditional_by_depth: tuple[float, ...]
  acceptance: float
  histogram: tuple[float, ...]

  def as_dict(self) -> dict[str, object]:
    return dataclasses.asdict(self)


def stats(*decodes: counts_lib.Counts) -> Stats:
  """Sums the counts of one or more decodes of one system over all rows."""
  counts = jax.tree.map(
      lambda *parts: np.concatenate([np.asarray(p) for p in parts]), *decodes)
  total = lambda a: a.sum(0)
  calls, accepted = int(total(counts.target_calls)), total(counts.accepted)
  reached, histogram = total(counts.reached), total(counts.histogram)
  return Stats(
      target_calls=calls,
      emitted=int(total(counts.emitted)),
      drafted=int(total(counts.drafted).sum()),
      accepted=int(accepted.sum()),
      block_efficiency=_ratio(total(counts.emitted), calls),
      marginal_by_depth=tuple(_ratio(a, calls) for a in accepted),
      conditional_by_depth=tuple(map(_ratio, accepted, reached)),
      acceptance=_ratio(accepted.sum(), reached.sum()),
      histogram=tuple(_ratio(h, calls) for h in histogram))


def _ratio(numerator, denominator) -> float:
  return float(numerator) / float(denominator) if denominator else 0.0
