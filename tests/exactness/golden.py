"""The golden acceptance table: exact values computed outside this package.

Transport optima by linear programming and acceptances by an independent
enumeration; `tests/data/golden_acceptance.json` describes itself.
"""

import functools
import json
import pathlib

_PATH = pathlib.Path(__file__).parents[1] / "data" / "golden_acceptance.json"


@functools.cache
def table() -> dict:
  return json.loads(_PATH.read_text())


def single_step() -> list[dict]:
  """Entries of one position: `p`, `q`, `k`, optima and rule acceptances."""
  return table()["single_step"]


def pairs() -> dict[str, tuple[list[float], list[float]]]:
  """The distinct (p, q) by letter, zeros and p = q among them."""
  return {case["id"].split("_")[0]: (case["p"], case["q"])
          for case in single_step()}


def padded(law, vocab_size: int = 5) -> list[float]:
  """The law over a larger vocabulary whose further tokens never occur."""
  return list(law) + [0.] * (vocab_size - len(law))


def problem(case: dict) -> tuple[list[float], list[float], int]:
  """Padded p and q and the number of drafts of an entry."""
  return padded(case["p"]), padded(case["q"]), case["k"]
