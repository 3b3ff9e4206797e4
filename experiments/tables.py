"""Tables and plots of results, as they stand in cards and cells."""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import pathlib
from typing import Any

from experiments import common
from spec_jax.evaluation import plots
from spec_jax.evaluation import report

# What `comparison.Result.as_dict` gives.
Record = Mapping[str, Any]

LEGEND = """\
tokens/call: emitted tokens per target call, bonus included. speed-up: median
and quartiles of passes that alternate with the baseline's. predicted: from the
forward passes timed alone; in turn: from the same, one after the other, as they
run in a round. acceptance: share of tries whose drafts held the
emitted token; optimum: the most that any exact rule can reach, mean over the
same tries, given how the drafts were drawn, or the drafts where they were not
("-": they share the emitting draw's noise, or there is no formula); gap:
optimum minus acceptance, with its standard error. round/forwards: time of a
round over that of its forwards.
"""

_IN_TURN = "in turn"
_FEWEST_TRIES = 20  # Of a depth whose acceptance is drawn.


def line(record: Record) -> dict[str, str]:
  """One line of the table."""
  counts, clock, audit = (record[k] for k in ("counts", "clock", "acceptance"))
  speedup, number = clock["speedup"], report.number
  accepted = counts["acceptance"] if counts["conditional_by_depth"] else None
  optimum = gap = "-"
  if audit is not None:
    accepted, optimum = audit["acceptance"], number(audit["optimum"], 3)
    if audit["gap"] is not None:
      gap = f"{audit['gap']:.3f} ± {audit['standard_error']:.3f}"
  return {
      "system": record["system"], "exact": _exact(record),
      "tokens/call": number(counts["block_efficiency"]),
      "speed-up": f"{speedup['median']:.2f}x [{speedup['lower']:.2f},"
                  f" {speedup['upper']:.2f}]",
      "predicted": number(record["predicted_speedup"], 2, "x"),
      _IN_TURN: number(record.get("predicted_in_turn"), 2, "x"),
      "tokens/s": number(clock["tokens_per_second"]["median"], 0),
      "acceptance": number(accepted, 3), "optimum": optimum, "gap": gap,
      "round/forwards": number(record["overhead"])}


def _exact(record):
  answer = "yes" if record["exact"] else "no"
  # Records of before there were others have one baseline, and do not name it.
  is_shared = record.get("baseline", common.BASELINE) == common.BASELINE
  return answer if is_shared else f"{answer}, for its own target"


def void_line(name: str, error: str) -> dict[str, str]:
  """A line that shows nothing but why."""
  columns = ("system", "exact", "tokens/call", "speed-up", "predicted",
             _IN_TURN, "tokens/s", "acceptance", "optimum", "gap",
             "round/forwards")
  return dict.fromkeys(columns, "-") | {
      "system": name, "speed-up": f"void: {' '.join(error.split())[:60]}"}


def table(lines: Sequence[Mapping[str, str]]) -> str:
  """Markdown; without the column "in turn" where no forwards were timed so."""
  if all(line[_IN_TURN] == "-" for line in lines):
    lines = [{column: cell for column, cell in line.items()
              if column != _IN_TURN} for line in lines]
  return report.markdown(lines)


def bar(record: Record) -> plots.Bar:
  """A record as a bar of the plot."""
  counts, speedup = record["counts"], record["clock"]["speedup"]
  return plots.Bar(
      record["system"], speedup["median"], speedup["lower"], speedup["upper"],
      record["predicted_speedup"], counts["block_efficiency"],
      _often_reached(counts))


def _often_reached(counts):
  """Acceptance by depth, down to where it is a mean over few tries."""
  kept = []
  for share, before in zip(counts["conditional_by_depth"],
                           [1.0, *counts["marginal_by_depth"]]):
    # No more rounds can have tried this depth than accepted the one above.
    if before * counts["target_calls"] < _FEWEST_TRIES:
      break
    kept.append(share)
  return tuple(kept)


def write_cells(folder: pathlib.Path, flags: Mapping[str, Any], bundle: str,
                rows: Sequence[Record], skipped: Mapping[str, str]) -> None:
  """A benchmark's JSON, markdown and PNG.

  Args:
    folder: exists.
    flags: of the run.
    bundle: name of the models.
    rows: cells with "key" and either "result" or "error".
    skipped: systems left out, with the reason.
  """
  report.write_json(folder / "benchmark.json", report.card(
      flags, bundle=bundle, left_out=dict(skipped), rows=list(rows)))
  report.write_text(folder / "benchmark.md", cells_text(rows))
  groups = [(title, [bar(row["result"]) for row in group if "result" in row])
            for title, group in _groups(rows).items()]
  groups = [(title, bars) for title, bars in groups if bars]
  if groups:
    report.write_bytes(folder / "benchmark.png",
                       plots.comparison(groups, f"{bundle}: benchmark"))


def cells_text(rows: Sequence[Record]) -> str:
  """One table per prompt file, temperature and batch size."""
  parts = []
  for title, group in _groups(rows).items():
    lines = [line(row["result"]) if "result" in row else
             void_line(row["key"]["system"], row["error"]) for row in group]
    parts.append(f"## {title}\n\n{table(lines)}")
  return "\n".join(parts) + f"\n{LEGEND}"


def by_temperature(cells: Sequence[Record]) -> dict[float, list[Record]]:
  """Cells with a "key", grouped; order is kept."""
  found = {}
  for cell in cells:
    found.setdefault(cell["key"]["temperature"], []).append(cell)
  return found


def temperatures_text(cells: Sequence[Record],
                      line_fn: Callable[[Record], dict[str, str]]) -> str:
  """One table per temperature."""
  return "\n".join(
      f"## Temperature {temperature:g}\n\n"
      f"{report.markdown([line_fn(cell) for cell in group])}"
      for temperature, group in by_temperature(cells).items())


def _groups(rows):
  found = {}
  for row in rows:
    key = row["key"]
    title = (f"{pathlib.Path(key['prompts']).name}, temperature"
             f" {key['temperature']:g}, batch {key['batch']}")
    found.setdefault(title, []).append(row)
  return found
