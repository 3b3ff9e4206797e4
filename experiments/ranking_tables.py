"""The tables, the card and the plot of a ranking."""

from collections.abc import Mapping
from collections.abc import Sequence
import pathlib
from typing import Any

from experiments import claim_tables
from experiments import claims as claims_lib
from experiments import judging
from experiments import tables
from spec_jax.evaluation import plots
from spec_jax.evaluation import report

# Kind of workload, temperature, records by system.
Group = tuple[str, float, Mapping[str, Any]]

LEGEND = """\
Ranks: 1 is best; of the speed-up, and of tokens/call. ms/round: median time of
a round.
""" + claim_tables.LEGEND


def write(folder: pathlib.Path, flags: Mapping[str, Any], bundle: str,
          groups: Sequence[Group], claims: Sequence[claims_lib.Claim],
          rows: Sequence[Mapping[str, Any]], skipped: Mapping[str, str]
          ) -> str:
  """Writes ranking.json, ranking.md and ranking.png; returns the text.

  Args:
    folder: exists.
    flags: of the run.
    bundle: name of the models.
    groups: what was measured.
    claims: to hold it against.
    rows: all cells, also those that failed.
    skipped: systems left out, with the reason.
  """
  verdicts = judging.judge(claims, groups)
  placed = [ranks(group) for group in groups]
  text = as_text(groups, placed, verdicts, rows, skipped)
  report.write_json(folder / "ranking.json", report.card(
      flags, bundle=bundle, left_out=dict(skipped), claims=verdicts,
      ranks=[{"workload": kind, "temperature": temperature, "systems": place}
             for (kind, temperature, _), place in zip(groups, placed)],
      rows=list(rows)))
  report.write_text(folder / "ranking.md", text)
  bars = [(claim_tables.title(kind, temperature),
           [tables.bar(r) for r in records.values()])
          for kind, temperature, records in groups if records]
  if bars:
    report.write_bytes(folder / "ranking.png",
                       plots.comparison(bars, f"{bundle}: ranking"))
  return text


def ranks(group: Group) -> dict[str, dict[str, int]]:
  """Ranks by quantity and system."""
  return {quantity: judging.ranks({
      name: judging.measured(record, quantity).value
      for name, record in group[2].items()})
          for quantity in ("speed-up", "tokens/call")}


def as_text(groups, placed, verdicts, rows, skipped) -> str:
  """All tables as markdown."""
  parts = []
  for (kind, temperature, records), place in zip(groups, placed):
    order = sorted(records, key=place["speed-up"].get)
    parts.append(f"## {claim_tables.title(kind, temperature)}\n\n"
                 + report.markdown(
                     [line(records[name], place) for name in order]))
  parts.append(f"## ranks by speed-up\n\n{overview(groups, placed)}")
  parts.append("## what papers claim\n\n" + claim_tables.text(verdicts))
  parts += [f"void: {row['key']['system']}, {row['key']['prompts']},"
            f" temperature {row['key']['temperature']:g}: {row['error']}\n"
            for row in rows if "error" in row]
  parts += [f"left out: {name}: {reason}\n" for name, reason in skipped.items()]
  return "\n".join(parts) + f"\n{LEGEND}"


def line(record: Mapping[str, Any], place: Mapping[str, Mapping[str, int]]
         ) -> dict[str, str]:
  """One system in one group."""
  cells, name = tables.line(record), record["system"]
  milliseconds = 1e3 * record["clock"]["seconds_per_round"]["median"]
  return {
      "system": name, "rank": str(place["speed-up"][name]),
      "speed-up": cells["speed-up"], "predicted": cells["predicted"],
      "tokens/call": cells["tokens/call"],
      "its rank": str(place["tokens/call"][name]),
      "acceptance": cells["acceptance"], "optimum": cells["optimum"],
      "gap": cells["gap"], "ms/round": report.number(milliseconds)}


def overview(groups: Sequence[Group], placed) -> str:
  """Ranks of every system over all groups, the best mean first."""
  names = dict.fromkeys(name for _, _, records in groups for name in records)
  found = {name: [place["speed-up"].get(name) for place in placed]
           for name in names}

  def mean(name):
    known = [rank for rank in found[name] if rank is not None]
    return sum(known) / len(known)

  columns = [claim_tables.title(kind, temperature)
             for kind, temperature, _ in groups]
  return report.markdown([
      {"system": name} | {
          column: report.number(rank, 0)
          for column, rank in zip(columns, found[name])}
      | {"mean": report.number(mean(name), 1)}
      for name in sorted(names, key=mean)])
