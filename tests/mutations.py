"""Plants known bugs one at a time and records which check catches each.

  python -m tests.mutations --out=out/mutations.md

writes the table bug x check and exits with 1 if any bug passes all checks.
By default a bug meets only the checks it is expected to fail; --full runs the
whole matrix, which takes a quarter of an hour on two cores.
"""

import pathlib
import sys
import time

from absl import app
from absl import flags

from tests import planted_bugs
from tests.mutation_checks import catalogue

_OUT = flags.DEFINE_string("out", None, "Markdown file for the table.")
_FULL = flags.DEFINE_bool("full", False, "Run every check on every bug.")


def failure(check: str, rules: tuple[str, ...] = ()) -> str | None:
  """How a check fails, in a word, or None if it passes."""
  run = catalogue.CHECKS[check]
  try:
    run(rules) if rules and check == "output laws" else run()
  except Exception as error:  # pylint: disable=broad-except
    # A crash is a way of being caught too; which error does not matter.
    return type(error).__name__
  return None


def run_bug(bug: planted_bugs.Bug, checks) -> dict[str, str | None]:
  """Result of each check with the bug in place."""
  with planted_bugs.planted(bug):
    return {check: failure(check, bug.rules) for check in checks}


def is_caught(results: dict[str, str | None]) -> bool:
  return any(result is not None for result in results.values())


_HEADING = """\
# Planted bugs, and what catches them

Real bugs of speculative decoders, injected one at a time into this code base.
Written by `python -m tests.mutations --out=tests/MUTATIONS.md`; an empty cell
was not run (a bug meets the checks it is expected to fail, `--full` runs all).

"""


def table(results: dict[str, dict[str, str | None]]) -> str:
  """Markdown: a row per bug, a column per check."""
  checks = list(catalogue.CHECKS)
  lines = ["| planted bug | caught | " + " | ".join(checks) + " |",
           "|---" * (len(checks) + 2) + "|"]
  for name, row in results.items():
    cells = [{None: "passes"}.get(row[c], "catches") if c in row else ""
             for c in checks]
    caught = "yes" if is_caught(row) else "**NO**"
    lines.append(f"| {name} | {caught} | " + " | ".join(cells) + " |")
  return "\n".join(lines) + "\n"


def main(argv):
  del argv
  for check in catalogue.CHECKS:
    if (error := failure(check)) is not None:
      sys.exit(f"check {check!r} fails without any bug: {error}")
  results, start = {}, time.monotonic()
  for bug in planted_bugs.BUGS:
    checks = catalogue.CHECKS if _FULL.value else bug.suspects
    results[bug.name] = run_bug(bug, checks)
    print(f"{time.monotonic() - start:6.0f} s  {bug.name}: "
          f"{'caught' if is_caught(results[bug.name]) else 'NOT CAUGHT'}",
          flush=True)
  text = table(results)
  print(text)
  if _OUT.value:
    path = pathlib.Path(_OUT.value)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_HEADING + text)
  sys.exit(0 if all(map(is_caught, results.values())) else 1)


if __name__ == "__main__":
  app.run(main)
