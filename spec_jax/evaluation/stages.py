"""Where a round's time goes: its stages, each timed on its own.

The stages of a round are compiled apart and run in short loops on the device,
as `costs` does with the forwards. What a drafter does on the host is timed
where it runs, between two device halves, and belongs to the stages "draft" and
"update". Beside them the whole round is timed as the executor runs it, so that
four numbers can be held against each other: the forwards alone (what a round
has to cost), the forwards in turn (what it costs where the models share a
cache), all stages, and the round.
"""

from collections.abc import Callable
from collections.abc import Mapping
import dataclasses
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spec_jax.core import counts as counts_lib
from spec_jax.core import system as system_lib
from spec_jax.core import types
from spec_jax.evaluation import clock as clock_lib
from spec_jax.evaluation import costs as costs_lib
from spec_jax.evaluation import timed_rounds
from spec_jax.executors import decoding
from spec_jax.executors import fused
from spec_jax.executors import hosted

NAMES = ("draft", "target", "verify", "commit", "update", "bookkeeping")
# Runs per sample. Short stages run more often: one dispatch costs as much as
# several of them.
_LOOPS = {"draft": 8, "target": 8}
_SHORT_LOOP = 64

# A system, its parameters, a state to start from, and the executor of it.
Case = tuple[system_lib.System, types.Params, types.DecodeState, fused.Fused]


@dataclasses.dataclass(frozen=True)
class Profile:
  """Seconds of one round, medians over samples taken in turn.

  Attributes:
    stages: by name, see `NAMES`: "draft" is the whole proposal, "target" the
      verifying forward, "verify" the rule's walk, "commit" the target's cache,
      "update" the drafter's, "bookkeeping" end of text, budget, text and
      counts.
    host: of "draft" and "update" the part that ran on the host; empty if the
      drafter has no half there.
    forwards: the forwards of target and draft alone, on the device.
    in_turn: the same forwards one after the other, see `costs.in_turn`.
    measured: the round, as the executor runs it.
    overhead: a round's time over that of its forwards alone, minus 1; samples
      of both are paired.
    loop_overhead: the same over its forwards in turn: what the loop itself
      adds.
  """

  stages: dict[str, float]
  host: dict[str, float]
  forwards: costs_lib.RoundCost
  in_turn: float
  measured: float
  overhead: clock_lib.Spread
  loop_overhead: clock_lib.Spread

  @property
  def sum_of_stages(self) -> float:
    return sum(self.stages.values())

  @property
  def unexplained(self) -> float:
    """What the stages do not account for; stages may also overlap."""
    return self.measured - self.sum_of_stages

  def as_dict(self) -> dict[str, Any]:
    return dataclasses.asdict(self) | {
        "sum_of_stages": self.sum_of_stages,
        "predicted": self.forwards.total, "unexplained": self.unexplained}


class Profiler:
  """The stages of a round of each case, compiled, to be timed in turn."""

  def __init__(self, cases: Mapping[str, Case],
               timer: Callable[[], float] = time.perf_counter):
    """Compiles.

    Args:
      cases: a system, its parameters, a state and an executor, by name.
      timer: see `costs.Forwards`.
    """
    self._forwards = costs_lib.Forwards(
        {name: case[:3] for name, case in cases.items()}, timer)
    self._rounds = {name: timed_rounds.Rounds(timer, *case)
                    for name, case in cases.items()}
    self._stages = {
        (name, stage): fn for name, case in cases.items()
        for stage, fn in _timed_stages(timer, *case).items()}
    self._in_turn = {(name, "in turn"): costs_lib.in_turn(*case[:3], timer)
                     for name, case in cases.items()}
    for fn in (*self._rounds.values(), *self._stages.values()):
      fn()
    self._costs, self._host = [], {name: [] for name in cases}
    self._samples = {key: [] for key in (
        *self._rounds, *self._in_turn, *self._stages)}

  def sample(self, repeats: int = 1) -> None:
    """Times rounds, forwards and stages in turn, `repeats` times."""
    for _ in range(repeats):
      for name, fn in self._rounds.items():
        self._samples[name].append(fn())
        self._host[name].append(fn.host)
      self._forwards.sample(1)
      self._costs.append(self._forwards.take())
      for key, fn in (self._in_turn | self._stages).items():
        self._samples[key].append(fn())

  def take(self) -> dict[str, Profile]:
    """Profiles by case.

    Raises:
      ValueError: if no samples were taken.
    """
    if not self._costs:
      raise ValueError("no samples were taken, expected sample() before.")
    return {name: self._profile(name) for name in self._rounds}

  def _profile(self, name):
    costs = [cost[name] for cost in self._costs]
    median = lambda values: float(np.median(values))
    rounds, in_turn = self._samples[name], self._samples[name, "in turn"]
    over = lambda base: clock_lib.spread(
        [r / b - 1 for r, b in zip(rounds, base)])
    host = {stage: median([sample[stage] for sample in self._host[name]])
            for stage in self._host[name][0]}
    return Profile(
        {stage: median(self._samples[name, stage]) + host.get(stage, 0.0)
         for stage in NAMES}, host,
        dataclasses.replace(costs[0], target=median([c.target for c in costs]),
                            draft=median([c.draft for c in costs])),
        median(in_turn), median(rounds), over([c.total for c in costs]),
        over(in_turn))


def _timed_stages(timer, system, params, state, executor
                  ) -> dict[str, Callable[[], float]]:
  """Seconds of each stage, on the device, of the round that follows `state`."""
  state, draft_of_host = _hosted(system, params, state, executor)
  given = jax.jit(_play, static_argnums=0)(
      system, params, state, draft_of_host)
  own = lambda value: jax.tree.map(jnp.copy, value)
  fns = _stages(system)
  counts = decoding.zero_counts(system, state.tokens.shape[0])
  kept = {"draft": state.drafter, "target": (), "verify": (),
          "commit": state.cache, "update": given[1],
          "bookkeeping": (state.tokens, counts)}
  return {name: _looped(timer, fns[name], _LOOPS.get(name, _SHORT_LOOP), params,
                        given, own(kept[name])) for name in NAMES}


def _hosted(system, params, state, executor):
  """The state on the device, and what the host drafts for it; None if not."""
  on_device, draft = hosted.on_device(system, state)
  if draft is None:
    return on_device, None
  session = executor.reopened(system, state).drafter.session
  asked = system.drafter.ask(params.drafter, on_device.drafter,
                             system_lib.context(params, on_device))
  return on_device, jax.device_put(
      session.draft(*jax.device_get((asked, state.is_running))))


def _play(system, params, state, draft_of_host):
  """One round, taken apart: what each stage is given."""
  tree, drafter = system_lib.propose(system, params, state, draft_of_host)
  _, outcome = system_lib.judge(system, params, state, tree, drafter)
  verdict = system.walk(system.verifier, system.sampling, tree,
                        outcome.out.logits, system_lib.context(params, state))
  return state, drafter, verdict, outcome, draft_of_host


def _stages(system):
  """`(params, given, kept) -> (kept, what must not be optimised away)`."""

  def draft(params, given, kept):
    state, *_, draft_of_host = given
    state = state.replace(drafter=kept)
    asked = ()
    if system.drafter.needs.host_store:
      asked = system.drafter.ask(
          params.drafter, kept, system_lib.context(params, state))
    tree, drafter = system_lib.propose(system, params, state, draft_of_host)
    return drafter, (tree, asked)

  def target(params, given, kept):
    state, drafter, _, outcome, _ = given
    return kept, system_lib.forward(
        system, params, state, outcome.tree, drafter)

  def verify(params, given, kept):
    state, _, _, outcome, _ = given
    return kept, system.walk(
        system.verifier, system.sampling, outcome.tree, outcome.out.logits,
        system_lib.context(params, state))

  def commit(params, given, kept):
    state, _, _, outcome, _ = given
    cache = kept.commit(outcome.out.fresh, outcome.verdict.path,
                        outcome.verdict.count)
    return cache.replace(length=state.cache.length), ()

  def update(params, given, kept):
    _, _, _, outcome, _ = given
    return system.drafter.update(params.drafter, kept, outcome), ()

  def bookkeeping(params, given, kept):
    state, _, verdict, outcome, _ = given
    tokens, counts = kept
    state = state.replace(tokens=tokens)
    cut, status, emitted = system_lib.stop(
        system, state, outcome.tree, outcome.out, verdict)
    tokens, length = system_lib.append(state, emitted, cut.count)
    counts = counts_lib.add(
        counts, system_lib.info(state, outcome.tree, cut))
    return (tokens, counts), (cut, status, length)

  return {fn.__name__: fn
          for fn in (draft, target, verify, commit, update, bookkeeping)}


def _looped(timer, stage, loop, params, given, kept) -> Callable[[], float]:
  """Times `loop` runs, each waiting for the one before."""

  def run(params, given, kept):
    def body(_, carry):
      zero, kept = carry
      # The barrier ties the inputs to the run before, at no cost.
      held, zero, kept = jax.lax.optimization_barrier((given, zero, kept))
      kept, result = stage(params, held, kept)
      return zero + costs_lib.nothing(result), kept

    return jax.lax.fori_loop(0, loop, body, (jnp.zeros((), jnp.int32), kept))

  run = jax.jit(run, donate_argnums=2)
  holder = [kept]

  def timed():
    begin = timer()
    _, holder[0] = jax.block_until_ready(run(params, given, holder[0]))
    return (timer() - begin) / loop
  return timed
