"""Systems side by side on one workload: race, forward costs, table, plot."""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
from typing import Any

from experiments import common
from spec_jax.core import keys as keys_lib
from spec_jax.evaluation import acceptance
from spec_jax.evaluation import clock as clock_lib
from spec_jax.evaluation import costs as costs_lib
from spec_jax.evaluation import plots
from spec_jax.evaluation import prompts as prompts_lib
from spec_jax.evaluation import report
from spec_jax.evaluation import workload as workload_lib
from theory import optimal


@dataclasses.dataclass(frozen=True, eq=False)
class Result:
  """One system at one temperature.

  Attributes:
    choice: the system.
    temperature: it was sampled at.
    first: the first pass; all passes emit the same.
    timing: over all passes, paired with the baseline's.
    cost: of a round's forwards, in isolation.
    baseline_cost: of one autoregressive token.
    audit: acceptance and optimum; None where not audited.
  """

  choice: common.Choice
  temperature: float
  first: workload_lib.Pass
  timing: clock_lib.Timing
  cost: costs_lib.RoundCost
  baseline_cost: costs_lib.RoundCost
  audit: acceptance.Audit | None = None

  @property
  def predicted(self) -> float:
    return costs_lib.predicted_speedup(
        self.first.stats.block_efficiency, self.cost, self.baseline_cost)

  @property
  def overhead(self) -> float:
    """A round's time over that of its forwards alone; 1 would be perfect."""
    return self.timing.seconds_per_round.median / self.cost.total

  def as_dict(self) -> dict[str, Any]:
    """For a result card."""
    audit = None if self.audit is None else self.audit.as_dict()
    return {
        "system": self.choice.name, "exact": self.choice.exact,
        "hyper_parameters": self.choice.hyper,
        "temperature": self.temperature,
        "counts": self.first.stats.as_dict(), "clock": self.timing.as_dict(),
        "forward_costs": self.cost.as_dict(),
        "baseline_forward_costs": self.baseline_cost.as_dict(),
        "predicted_speedup": self.predicted, "overhead": self.overhead,
        "acceptance": audit, "truncated_tokens": self.first.dropped}


def forward_costs(choices: Sequence[common.Choice], temperature: float,
                  work: workload_lib.Workload
                  ) -> dict[str, costs_lib.RoundCost]:
  """Isolated forwards of a round, on the first batch of the workload."""
  rows = [work.fit(work.encode(c, 0), c.name)[0] for c in work.groups()[0]]
  prompts = prompts_lib.batch(rows, work.limit)
  keys = keys_lib.row_keys(work.seed, len(rows))
  cases = {}
  for choice in choices:
    system = choice.at(temperature)
    state = choice.executor.start(
        choice.at(0.0), choice.params, prompts, keys, work.max_new_tokens)
    cases[choice.name] = (system, choice.params, state)
  return costs_lib.round_costs(cases)


def race(choices: Sequence[common.Choice], temperature: float,
         work: workload_lib.Workload, repeats: int,
         costs: Mapping[str, costs_lib.RoundCost],
         on_lap: Callable[[str], None] = lambda name: None
         ) -> dict[str, Result]:
  """Decodes the workload with every system in turn; one must be the baseline.

  Args:
    choices: the systems.
    temperature: of all.
    work: of all.
    repeats: passes per system.
    costs: from `forward_costs`.
    on_lap: see `clock.race`.
  """
  first = {}

  def passer(choice):
    system, clock = choice.at(temperature), clock_lib.Clock(choice.executor)

    def run():
      done = workload_lib.run(clock, system, choice.params, work)
      first.setdefault(choice.name, done)
      return done.lap
    return run

  laps = clock_lib.race({c.name: passer(c) for c in choices}, repeats, on_lap)
  baseline = laps[common.BASELINE]
  return {
      c.name: Result(c, temperature, first[c.name],
                     clock_lib.timing(laps[c.name], baseline), costs[c.name],
                     costs[common.BASELINE])
      for c in choices}


def with_audit(result: Result, work: workload_lib.Workload) -> Result:
  """The same result with its acceptance held against the optimum."""
  audit = acceptance.audit(
      result.choice.at(result.temperature), result.choice.params, work,
      optimum)
  return dataclasses.replace(result, audit=audit)


def optimum(p, q, num_drafts, draw):
  """`theory.optimal`, where it has a formula."""
  if draw == "without_replacement" and num_drafts > 2:
    return None
  return optimal.optimal_acceptance(p, q, num_drafts, draw)


def table_row(result: Result, **more: str) -> dict[str, str]:
  """One line of the table; `more` are further columns."""
  stats, timing, audit = result.first.stats, result.timing, result.audit
  speedup = timing.speedup
  is_drafting = bool(stats.conditional_by_depth)
  accepted = audit.acceptance if audit else stats.acceptance
  number = report.number
  return {
      "system": result.choice.name, "exact": "yes" if result.choice.exact
      else "no",
      "tokens/call": number(stats.block_efficiency),
      "speed-up": f"{speedup.median:.2f}x"
      f" [{speedup.lower:.2f}, {speedup.upper:.2f}]",
      "predicted": number(result.predicted, 2, "x"),
      "tokens/s": number(timing.tokens_per_second.median, 0),
      "acceptance": number(accepted if is_drafting else None, 3),
      "optimum": number(audit and audit.optimum, 3),
      "gap": "-" if audit is None or audit.gap is None else
             f"{audit.gap:.3f} ± {audit.standard_error:.3f}",
      "round/forwards": number(result.overhead),
      **more}


LEGEND = """\
tokens/call: emitted tokens per target call, bonus included. speed-up: median
and quartiles of passes that alternate with the baseline's. predicted: from the
forward passes timed alone. acceptance: share of tries whose drafts held the
emitted token; optimum: the most that any exact rule can reach, mean over the
same tries ("-": the drafts have no law, or there is no formula); gap: optimum
minus acceptance, with its standard error. round/forwards: time of a round over
that of its forwards.
"""


def bar(result: Result) -> plots.Bar:
  """The result as a bar of the plot."""
  stats, speedup = result.first.stats, result.timing.speedup
  return plots.Bar(
      result.choice.name, speedup.median, speedup.lower, speedup.upper,
      result.predicted, stats.block_efficiency, stats.conditional_by_depth)
