"""Holds measured cells against an order that was claimed."""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import math
from typing import Any

from experiments import claims as claims_lib

AGREES, DISAGREES = "agrees", "disagrees"
NOISE, MISSING = "within noise", "not measured"
_FEWEST_PASSES = 3
_ERRORS = 2  # Standard errors that a difference must exceed.


@dataclasses.dataclass(frozen=True)
class Measured:
  """A quantity of one system.

  Attributes:
    value: as measured.
    error: its standard error; None where it is not known, and then nothing is
      beyond noise.
  """

  value: float
  error: float | None


def measured(record: Mapping[str, Any], quantity: str) -> Measured | None:
  """A quantity of what `comparison.Result.as_dict` gives.

  Of a speed-up the error is half the distance of the quartiles of its passes;
  of counts that of their mean, rounds and tries taken as independent. None for
  the acceptance of a system that drafted nothing.
  """
  counts = record["counts"]
  if quantity == "speed-up":
    spread = record["clock"]["speedup"]
    few = spread["count"] < _FEWEST_PASSES
    half = (spread["upper"] - spread["lower"]) / 2
    return Measured(spread["median"], None if few else half)
  if quantity == "tokens/call":
    squares = sum(share * accepted ** 2
                  for accepted, share in enumerate(counts["histogram"]))
    mean = sum(share * accepted
               for accepted, share in enumerate(counts["histogram"]))
    variance = max(0.0, squares - mean ** 2)
    return Measured(counts["block_efficiency"],
                    math.sqrt(variance / counts["target_calls"]))
  tries = num_tries(counts)
  if not tries:
    return None
  # One hit and one miss more: nothing is certain after a few tries.
  share = (counts["accepted"] + 1) / (tries + 2)
  return Measured(counts["acceptance"], math.sqrt(share * (1 - share) / tries))


def num_tries(counts: Mapping[str, Any]) -> float:
  """Positions at which drafts stood."""
  accepted = counts["accepted"]
  if accepted:
    return accepted / counts["acceptance"]
  # Nothing was accepted, so no round tried behind its first token.
  return counts["target_calls"] if counts["drafted"] else 0


def compare(better: Measured | None, worse: Measured | None) -> str:
  """Whether the first is really larger, as was claimed."""
  if better is None or worse is None:
    return MISSING
  gap = better.value - worse.value
  if better.error is None or worse.error is None or abs(
      gap) <= _ERRORS * math.hypot(better.error, worse.error):
    return NOISE
  return AGREES if gap > 0 else DISAGREES


def judge(claims: Sequence[claims_lib.Claim], cells: Sequence[
    tuple[str, float, Mapping[str, Mapping[str, Any]]]]
          ) -> list[dict[str, Any]]:
  """Every neighbouring pair of every claim, on each workload it speaks of.

  A system that was not measured is left out of the order, so that those beside
  it become neighbours; a claim with fewer than two measured systems is one row
  that says so.

  Args:
    claims: the orders.
    cells: kind of workload, temperature, and records by system.

  Returns:
    Rows with the claim, the pair, both values and the verdict.
  """
  rows = []
  for claim in claims:
    for kind, temperature, records in cells:
      if claim.kind in (kind, "any") and claim.is_greedy == (temperature == 0):
        rows += _pairs(claim, kind, temperature, records)
  return rows


def _pairs(claim, kind, temperature, records):
  base = {"workload": kind, "temperature": temperature,
          "quantity": claim.quantity, "source": claim.source}
  values = {name: measured(records[name], claim.quantity)
            for name in claim.order if name in records}
  known = [name for name, value in values.items() if value is not None]
  if len(known) < 2:
    return [base | {"claim": " > ".join(claim.order), "better": None,
                    "worse": None, "verdict": MISSING}]
  return [base | {
      "claim": f"{better} > {worse}",
      "better": dataclasses.asdict(values[better]),
      "worse": dataclasses.asdict(values[worse]),
      "verdict": compare(values[better], values[worse])}
          for better, worse in zip(known, known[1:])]


def ranks(values: Mapping[str, float]) -> dict[str, int]:
  """1 for the largest; equal values share the better rank."""
  return {name: 1 + sum(other > value for other in values.values())
          for name, value in values.items()}
