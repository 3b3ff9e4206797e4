"""Tables and plots of a race of drafters."""

from collections.abc import Mapping
from collections.abc import Sequence
import pathlib
from typing import Any

from experiments import claim_tables
from experiments import drafter_claims
from experiments import judging
from experiments import tables
from spec_jax.evaluation import plots
from spec_jax.evaluation import report

_DEPTHS = 5

LEGEND = """\
trained: seconds of optimiser steps; tokens/s: read in them; 1 to 5: share of
prefixes of the target's own held-out text at which a greedy draft is accepted
at least so deep.
tokens/call, speed-up, acceptance and optimum as of experiments.benchmark;
round: median milliseconds, and over one token of plain decoding.
"""


def part_line(row: Mapping[str, Any]) -> dict[str, str]:
  """One drafter's part, and its training where it was trained here."""
  part = row["part"]
  steps, seconds = part.get("steps"), part.get("seconds_per_step")
  tokens = part.get("tokens_per_step")
  last = part["judged"][-1] if part.get("judged") else {}
  return {
      "part": f"`{row['system']}`",
      "parameters": f"{part['parameters'] / 1e6:.2f}M",
      "steps": report.number(steps, 0),
      "trained": report.number(steps and steps * seconds, 0),
      "tokens/s": report.number(tokens and tokens / seconds, 0)} | {
          str(d): report.number(last.get(f"eval_accept_{d}"))
          for d in range(1, _DEPTHS + 1)}


def decoded_line(row: Mapping[str, Any]) -> dict[str, str]:
  """One drafter in one shape, or what failed."""
  if "error" in row:
    return void_line(row)
  line = tables.line(row["result"])
  clock, base = row["result"]["clock"], row["result"]["baseline_clock"]
  seconds, token = (c["seconds_per_round"]["median"] for c in (clock, base))
  return {"drafter": _title(row)} | {
      column: line[column]
      for column in ("tokens/call", "speed-up", "acceptance", "optimum")} | {
          "round": f"{1e3 * seconds:.1f} ({seconds / token:.2f})"}


def void_line(row: Mapping[str, Any]) -> dict[str, str]:
  """What failed."""
  line = tables.void_line(row["key"]["system"], row["error"])
  return {"drafter": _title(row), "tokens/call": "-",
          "speed-up": line["speed-up"], "acceptance": "-", "optimum": "-",
          "round": "-"}


def text(rows: Sequence[Mapping[str, Any]]) -> str:
  """Of trainings, of decodes for each temperature, and of papers' claims."""
  return "\n".join((
      report.markdown([part_line(row) for row in rows]),
      tables.temperatures_text(_cells(rows), decoded_line),
      f"## What papers claim\n\n{claim_tables.text(verdicts(rows))}",
      LEGEND + claim_tables.LEGEND))


def verdicts(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
  """The papers' order of drafters held against these, see `judging.judge`.

  Each drafter counts in the last of its shapes, which is a tree if it has one:
  so the papers measured.
  """
  groups = [("held-out text", temperature, {
      cell["key"]["system"]: cell["result"] for cell in group
      if "result" in cell})
            for temperature, group in tables.by_temperature(
                _cells(rows)).items()]
  return judging.judge(drafter_claims.CLAIMS, groups)


def write(folder: pathlib.Path, flags: Mapping[str, Any],
          rows: Sequence[Mapping[str, Any]]) -> None:
  """JSON, markdown and PNG.

  Args:
    folder: exists.
    flags: of the run.
    rows: of "system", "part" and "decoded", a list of cells.
  """
  report.write_json(folder / "drafter_race.json", report.card(
      flags, claims=verdicts(rows), rows=list(rows)))
  report.write_text(folder / "drafter_race.md", text(rows))
  groups = [(f"temperature {temperature:g}", [
      _bar(row) for row in group if "result" in row])
            for temperature, group in tables.by_temperature(
                _cells(rows)).items()]
  if any(bars for _, bars in groups):
    report.write_bytes(folder / "drafter_race.png", plots.comparison(
        groups, "drafters of one target"))


def _bar(row):
  return tables.bar(row["result"] | {"system": _title(row)})


def _title(row):
  return f"{row['key']['system']}, {row['key']['shape']}"


def _cells(rows):
  return [cell for row in rows for cell in row["decoded"]]
