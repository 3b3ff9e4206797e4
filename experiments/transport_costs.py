"""What the transport optimum and the rule that reaches it cost.

  python -m experiments.transport_costs

times `theory.optimal_acceptance` beside a sort of the same vector, and the law
of race transport at one node beside a forward of the bundle's target; and says
how far the race stays from the optimum on parametric families at the same
vocabularies. Times are medians, taken in turn.
"""

from collections.abc import Sequence
import functools
import sys
from typing import Any

from absl import flags
import jax
import jax.numpy as jnp
import numpy as np
from tqdm import auto as tqdm

from experiments import common
from experiments import laws
from spec_jax import verifiers
from spec_jax.evaluation import clock
from spec_jax.evaluation import costs as costs_lib
from spec_jax.evaluation import report
import theory

_RULE = "race_transport"
_LEGEND = """\
optimum / sort: time of the optimal acceptance over that of one argsort of p/q.
node: the law of the race at one node, float32. gap: optimum minus acceptance,
the largest of all positions of all families.
"""


def define(values: flags.FlagValues) -> None:
  """The flags of this program."""
  common.define_models(values)
  flags.DEFINE_list("vocab", ["2048", "32000", "128256"], "Sizes of the"
                    " vocabulary.", flag_values=values)
  flags.DEFINE_list("num_drafts", ["2", "4", "8"], "Iid drafts at a node.",
                    flag_values=values)
  flags.DEFINE_list("family", list(laws.FAMILIES), "Of laws.",
                    flag_values=values)
  flags.DEFINE_integer("num_positions", 8, "Of each family.", lower_bound=1,
                       flag_values=values)
  flags.DEFINE_integer("repeats", 20, "Of each time.", lower_bound=1,
                       flag_values=values)
  common.define_seed(values, "Of the families.")
  flags.DEFINE_string("out", "out/transport_costs", "Folder of card and table.",
                      flag_values=values)


def run(values: flags.FlagValues) -> int:
  """The program; returns the exit code."""
  with common.clean_errors():
    sizes, counts = (common.numbers(getattr(values, flag), flag, int)
                     for flag in ("vocab", "num_drafts"))
    if min(sizes) < 2 or min(counts) < 1:
      raise ValueError(f"--vocab={values.vocab} --num_drafts="
                       f"{values.num_drafts}, expected at least 2 tokens and 1"
                       " draft.")
    folder = report.make_folder(values.out)
    for vocab in sizes:  # Bad families are named before any work.
      sources(values, vocab)
  bundle = common.load_models(values)
  forward = costs_lib.grid(
      bundle.target, bundle.params["target"], [(1, 1)], prefix=128,
      repeats=values.repeats)[1, 1]
  rows = [row_of(values, vocab, count)
          for vocab in tqdm.tqdm(sizes, unit="vocabulary") for count in counts]
  own = bundle.target.vocab_size
  with common.clean_errors():
    report.write_json(folder / "transport_costs.json", report.card(
        common.flags_of(values), rows=rows,
        target={"vocab": own, "forward_seconds": forward}))
    report.write_text(folder / "transport_costs.md",
                      text(rows, own, forward))
  print(text(rows, own, forward))
  return 0


def sources(values: flags.FlagValues, vocab: int) -> list[laws.Source]:
  """The families at one vocabulary; raises ValueError."""
  return [laws.from_family(name, vocab, values.num_positions, values.seed)
          for name in values.family]


def row_of(values: flags.FlagValues, vocab: int, num_drafts: int
           ) -> dict[str, Any]:
  """Costs and gap at one size."""
  found = [source.laws(0, 1.0) for source in sources(values, vocab)]
  p, q = (jnp.asarray(law, jnp.float32) for law in found[0])
  is_draft = jnp.ones((num_drafts,), bool)
  cases = {
      "sort": lambda p, q: jnp.argsort(p / jnp.maximum(q, 1e-30)),
      "optimum": lambda p, q: theory.optimal_acceptance(
          p, q, num_drafts, "iid"),
      "node": lambda p, q: verifiers.get(_RULE).law(
          p, q, jax.lax.top_k(q, num_drafts)[1], is_draft)}
  seconds = clock.medians({
      name: functools.partial(_one_by_one(fn), p, q)
      for name, fn in cases.items()}, values.repeats)
  seconds = {name: value / len(p) for name, value in seconds.items()}
  gaps = [theory.optimal_acceptance(p, q, num_drafts, "iid")
          - verifiers.acceptance(_RULE, p, q, num_drafts, "iid").value
          for laws_ in found for p, q in zip(*laws_)]
  return {"vocab": vocab, "num_drafts": num_drafts, "seconds": seconds,
          "gap": float(np.max(gaps))}


def _one_by_one(fn):
  """One program for all positions: what it takes to start it counts once."""
  return jax.jit(lambda p, q: jax.lax.map(lambda laws_: fn(*laws_), (p, q)))


def text(rows: Sequence[dict[str, Any]], own: int, forward: float) -> str:
  """The table in markdown."""
  lines = []
  for row in rows:
    seconds = row["seconds"]
    lines.append({
        "V": str(row["vocab"]), "n": str(row["num_drafts"]),
        "sort, ms": report.number(1e3 * seconds["sort"]),
        "optimum / sort": report.number(seconds["optimum"] / seconds["sort"]),
        "node, ms": report.number(1e3 * seconds["node"], 3),
        "node / forward": report.number(seconds["node"] / forward, 3)
                          if row["vocab"] == own else "-",
        "gap": f"{row['gap']:.1e}"})
  return (f"{report.markdown(lines)}\n{_LEGEND}forward: one token of the"
          f" target, V = {own}, {1e3 * forward:.2f} ms.\n")


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the program; `argv` without its name."""
  return common.launch(__doc__, define, run, argv)


if __name__ == "__main__":
  sys.exit(main())
