"""Tables of what papers claim, beside what was measured."""

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from spec_jax.evaluation import report

LEGEND = """\
Claims: neighbours of a published order; "±" is half the distance of the
quartiles of a speed-up, and else a standard error over rounds or tries; "within
noise" where the difference is below two of both together, or a speed-up has
fewer than three passes.
"""


def text(verdicts: Sequence[Mapping[str, Any]]) -> str:
  """What `judging.judge` returns, as markdown."""
  return report.markdown([line(row) for row in verdicts])


def line(row: Mapping[str, Any]) -> dict[str, str]:
  """One pair of one claim."""
  return {
      "claim": row["claim"], "of": row["quantity"],
      "on": title(row["workload"], row["temperature"]),
      "measured": " : ".join(_value(row[side]) for side in ("better", "worse")),
      "verdict": row["verdict"], "source": row["source"]}


def title(kind: str, temperature: float) -> str:
  return f"{kind}, temperature {temperature:g}"


def _value(found):
  if found is None:
    return "-"
  error = "?" if found["error"] is None else f"{found['error']:.2f}"
  return f"{found['value']:.2f} ± {error}"
