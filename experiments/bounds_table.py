"""Tables and plots of acceptance beside the optimum."""

import collections
from collections.abc import Mapping
from collections.abc import Sequence
import pathlib
from typing import Any

import numpy as np

from spec_jax.evaluation import plots
from spec_jax.evaluation import report

LEGEND = """\
acceptance: probability that the emitted token is among the drafts, mean over
positions (± the error of drawing drafts, where a rule has no closed form);
optimum: the most that any exact rule reaches with those drafts; gap: the
difference of the two; cost: microseconds of the rule's law at one node.
"""


def summary(label: str, temperature: float,
            chunks: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
  """Means over all positions of a source at one temperature."""
  joined = {}
  for row in (row for chunk in chunks for row in chunk):
    case = row["rule"], row["draw"], row["num_drafts"]
    into = joined.setdefault(case, {
        "acceptance": [], "variance": [], "optimum": [],
        "microseconds": None, "method": row["method"]})
    for name in ("acceptance", "variance", "optimum"):
      into[name] += row[name]
    into["microseconds"] = into["microseconds"] or row["microseconds"]
  rows = []
  for (rule, draw, num_drafts), found in joined.items():
    count = len(found["acceptance"])
    rows.append({
        "rule": rule, "draw": draw, "num_drafts": num_drafts,
        "positions": count, "method": found["method"],
        "acceptance": float(np.mean(found["acceptance"])),
        "standard_error": float(np.sqrt(np.sum(found["variance"])) / count),
        "optimum": float(np.mean(found["optimum"])),
        "microseconds": found["microseconds"]})
  return {"source": label, "temperature": temperature, "rows": rows}


def write(folder: pathlib.Path, flags: Mapping[str, Any],
          summaries: Sequence[Mapping[str, Any]]) -> None:
  """JSON, markdown and PNG."""
  report.write_json(folder / "acceptance_bounds.json",
                    report.card(flags, summaries=list(summaries)))
  report.write_text(folder / "acceptance_bounds.md", text(summaries))
  groups = [(f"{s['source']}, temperature {s['temperature']:g}", panels(s))
            for s in summaries if s["rows"]]
  if groups:
    report.write_bytes(folder / "acceptance_bounds.png",
                       plots.acceptance_curves(groups))


def panels(found: Mapping[str, Any]) -> dict[str, dict[str, tuple]]:
  """By draw: name of a rule, or "optimum", to numbers of drafts and values."""
  by_draw = {}
  counts = collections.Counter(
      (row["rule"], row["draw"]) for row in found["rows"])
  for row in found["rows"]:
    lines = by_draw.setdefault(row["draw"], {})
    if max(counts.values()) > 1 == counts[row["rule"], row["draw"]]:
      continue  # A rule of one draft; a point among curves tells nothing.
    for name, value in ((row["rule"], row["acceptance"]),
                        ("optimum", row["optimum"])):
      lines.setdefault(name, {})[row["num_drafts"]] = value
  return {draw: {name: tuple(zip(*sorted(values.items())))
                 for name, values in lines.items()}
          for draw, lines in by_draw.items()}


def text(summaries: Sequence[Mapping[str, Any]]) -> str:
  """One table per source, temperature and draw."""
  parts = []
  for found in summaries:
    for draw in dict.fromkeys(row["draw"] for row in found["rows"]):
      rows = [row for row in found["rows"] if row["draw"] == draw]
      parts.append(
          f"## {found['source']}, temperature {found['temperature']:g},"
          f" {draw.replace('_', ' ')}\n\n{report.markdown(_lines(rows))}")
  return "\n".join(parts) + f"\n{LEGEND}"


def _lines(rows):
  """A line per rule, a column per number of drafts, the optimum last."""
  counts = sorted({row["num_drafts"] for row in rows})
  of = {(row["rule"], row["num_drafts"]): row for row in rows}
  names = sorted({row["rule"] for row in rows}, key=lambda name: max(
      of[name, n]["acceptance"] for n in counts if (name, n) in of))
  lines = []
  for name in names:
    line = {"rule": name}
    for n in counts:
      line[f"n={n} (gap)"] = _cell(of.get((name, n)))
    costs = [of[name, n]["microseconds"] for n in counts if (name, n) in of]
    line["cost"] = report.number(costs[-1], 0)
    lines.append(line)
  best = {row["num_drafts"]: row["optimum"] for row in rows}
  lines.append({"rule": "**optimum**"} | {
      f"n={n} (gap)": report.number(best[n], 3) for n in counts} | {
          "cost": "-"})
  return lines


def _cell(row):
  if row is None:
    return "-"
  value = report.number(row["acceptance"], 3)
  if row["standard_error"] > 5e-4:
    value += f" ± {row['standard_error']:.3f}"
  return f"{value} ({max(0.0, row['optimum'] - row['acceptance']):.3f})"
