"""Systems side by side on one workload: race, forward costs, audit."""

from collections.abc import Callable
from collections.abc import Sequence
import dataclasses
import functools
from typing import Any

from experiments import common
from spec_jax.evaluation import acceptance
from spec_jax.evaluation import clock as clock_lib
from spec_jax.evaluation import costs as costs_lib
from spec_jax.evaluation import workload as workload_lib
from spec_jax.verifiers import walk
from theory import optimal

_MOST_DISTINCT = 16


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
  def predicted_in_turn(self) -> float | None:
    return costs_lib.predicted_in_turn(
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
        "baseline": self.choice.baseline,
        "hyper_parameters": self.choice.hyper,
        "temperature": self.temperature,
        "counts": self.first.stats.as_dict(), "clock": self.timing.as_dict(),
        "forward_costs": self.cost.as_dict(),
        "baseline_forward_costs": self.baseline_cost.as_dict(),
        "predicted_speedup": self.predicted,
        "predicted_in_turn": self.predicted_in_turn, "overhead": self.overhead,
        "acceptance": audit, "truncated_tokens": self.first.dropped}


def rehearsals(choices: Sequence[common.Choice],
               temperatures: Sequence[float], work: workload_lib.Workload
               ) -> list[Callable[[], None]]:
  """Functions that compile what `race` runs of first turns.

  One for each system and temperature, or for each system that defers it. A
  system's temperatures share its prefill, so they stand far apart: side by side
  both would compile it.
  """
  def rehearse(choice, temperature):
    system, clock = choice.at(temperature), clock_lib.Clock(choice.executor)
    for prompts, keys in workload_lib.first_turns(work):
      clock.warm(system, choice.params, prompts, keys, work.max_new_tokens)

  return [functools.partial(rehearse, choice, temperature)
          for temperature in temperatures for choice in choices
          if temperature == temperatures[0]
          or not choice.executor.defers(choice.system)]


def forwards_of(choices: Sequence[common.Choice], temperature: float,
                work: workload_lib.Workload, with_in_turn: bool = False
                ) -> costs_lib.Forwards:
  """The forwards of a round on the first batch: alone, and in turn if asked."""
  prompts, keys = next(workload_lib.first_turns(work))
  cases = {}
  for choice in choices:
    system = choice.at(temperature)
    state = choice.executor.start(
        system, choice.params, prompts, keys, work.max_new_tokens)
    cases[choice.name] = (system, choice.params, state)
  return costs_lib.Forwards(cases, with_in_turn=with_in_turn)


def race(choices: Sequence[common.Choice], temperature: float,
         work: workload_lib.Workload, repeats: int,
         forwards: costs_lib.Forwards,
         on_lap: Callable[[str], None] = lambda name: None
         ) -> dict[str, Result]:
  """Decodes the workload with every system in turn.

  Args:
    choices: the systems, the baselines of all among them.
    temperature: of all.
    work: of all.
    repeats: passes per system.
    forwards: from `forwards_of`; sampled once per turn.
    on_lap: see `clock.race`.
  """
  first = {}

  def passer(choice):
    system, clock = choice.at(temperature), clock_lib.Clock(choice.executor)

    def run():
      done = workload_lib.run(clock, system, choice.params, work)
      first.setdefault(choice.name, done)
      if choice is choices[0]:
        forwards.sample()
      return done.lap
    return run

  laps = clock_lib.race({c.name: passer(c) for c in choices}, repeats, on_lap)
  costs = forwards.take()
  return {
      c.name: Result(c, temperature, first[c.name],
                     clock_lib.timing(laps[c.name], laps[c.baseline]),
                     costs[c.name], costs[c.baseline])
      for c in choices}


def with_audit(result: Result, work: workload_lib.Workload) -> Result:
  """The same result with its acceptance held against the optimum."""
  if result.choice.system.drafter.needs.host_store:
    return result  # Such a drafter does not run on the device.
  # The optimum is that of one node. A rule that judges a whole tree, or pools
  # the children of several nodes, may keep more below the root.
  judged = walk.is_plain(result.choice.system.walk)
  audit = acceptance.audit(
      result.choice.at(result.temperature), result.choice.params, work,
      optimum if judged else lambda *_: None, result.choice.executor)
  return dataclasses.replace(result, audit=audit)


def optimum(p, q, drafts, draw):
  """`theory.optimal`; None beyond the number of drafts that it takes."""
  num_drafts = drafts.shape[-1]
  if q is None:
    return optimal.given_acceptance(p, drafts)
  if draw == "without_replacement" and num_drafts > _MOST_DISTINCT:
    return None
  return optimal.optimal_acceptance(p, q, num_drafts, draw)
