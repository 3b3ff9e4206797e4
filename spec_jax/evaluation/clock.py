"""The one clock: wall time of decodes, compiled before the watch starts.

Prefill and rounds are timed apart: tokens per second are those of the rounds.
A speed-up is a ratio of passes that alternate within one run, see `race`.
"""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import time
from typing import Any

import jax
import numpy as np

from spec_jax.core import system as system_lib
from spec_jax.core import types
from spec_jax.executors import decoding
from spec_jax.executors import fused


@dataclasses.dataclass(frozen=True)
class Spread:
  """A median with its quartiles.

  Attributes:
    median: of the samples.
    lower: first quartile.
    upper: third quartile.
    count: number of samples.
  """

  median: float
  lower: float
  upper: float
  count: int


def spread(samples: Sequence[float]) -> Spread:
  """Raises ValueError if there are no samples."""
  if not len(samples):
    raise ValueError("no samples were given, expected at least one.")
  lower, median, upper = np.percentile(np.asarray(samples), (25, 50, 75))
  return Spread(float(median), float(lower), float(upper), len(samples))


def medians(cases: Mapping[str, Callable[[], Any]], repeats: int
            ) -> dict[str, float]:
  """Seconds of each function, all of them in turn; what compiles is left out.

  Args:
    cases: return arrays, which are waited for.
    repeats: samples of each.
  """
  samples = {name: [] for name in cases}
  for turn in range(repeats + 1):
    for name, run_fn in cases.items():
      begin = time.perf_counter()
      jax.block_until_ready(run_fn())
      if turn:  # The first compiles.
        samples[name].append(time.perf_counter() - begin)
  return {name: spread(taken).median for name, taken in samples.items()}


@dataclasses.dataclass(frozen=True)
class Lap:
  """What one or more decodes took; laps add up.

  Attributes:
    prefill: seconds, prompts into the caches.
    rounds: seconds, everything after.
    num_rounds: rounds of the slowest row of each decode.
    emitted: tokens, over all rows.
  """

  prefill: float = 0.0
  rounds: float = 0.0
  num_rounds: int = 0
  emitted: int = 0

  def __add__(self, other: "Lap") -> "Lap":
    return Lap(*(a + b for a, b in zip(dataclasses.astuple(self),
                                       dataclasses.astuple(other))))

  @property
  def tokens_per_second(self) -> float:
    return self.emitted / self.rounds if self.rounds else 0.0

  @property
  def seconds_per_round(self) -> float:
    return self.rounds / self.num_rounds if self.num_rounds else 0.0


class Clock:
  """Decodes and times it; every shape is run once before it is timed."""

  def __init__(self, executor: fused.Fused | None = None):
    """Times `executor`, by default `Fused()`."""
    self._executor = executor or fused.Fused()
    self._warm = set()

  def forget(self) -> None:
    """Empties the memory of drafters that learn across requests."""
    self._executor.memory.clear()

  def decode(self, system: system_lib.System, params: types.Params,
             prompts: decoding.Prompts, keys: jax.Array, max_new_tokens: int
             ) -> tuple[decoding.Decoded, Lap]:
    """One timed decode.

    Args:
      system: static.
      params: of target and drafter.
      prompts: a batch.
      keys: `key[B]`.
      max_new_tokens: budget per row.
    """
    capacity = decoding.capacity_for(prompts, max_new_tokens)
    self.warm(system, params, prompts, keys, max_new_tokens)
    return self._decode(self._executor, system, params, prompts, keys,
                        max_new_tokens, capacity)

  def warm(self, system: system_lib.System, params: types.Params,
           prompts: decoding.Prompts, keys: jax.Array, max_new_tokens: int
           ) -> None:
    """Compiles what `decode` runs, unless it did so before.

    Programs belong to the process: a thread may warm them for other clocks.
    """
    capacity = decoding.capacity_for(prompts, max_new_tokens)
    case = (system, prompts.tokens.shape, capacity)
    if case not in self._warm:
      # The budget is traced: a short decode compiles what a long one runs.
      # It leaves no trace in the memory of a drafter that learns.
      stranger = dataclasses.replace(self._executor, memory={})
      self._decode(stranger, system, params, prompts, keys, 2, capacity)
      self._warm.add(case)

  def _decode(self, executor, system, params, prompts, keys, max_new_tokens,
              capacity):
    counts = jax.block_until_ready(
        decoding.zero_counts(system, prompts.tokens.shape[0]))
    begin = time.perf_counter()
    state = jax.block_until_ready(executor.start(
        system, params, prompts, keys, max_new_tokens, capacity))
    middle = time.perf_counter()
    state, counts = jax.block_until_ready(
        executor.rounds(system, params, state, counts))
    end = time.perf_counter()
    lap = Lap(middle - begin, end - middle,
              int(np.asarray(counts.target_calls).max()),
              int(np.asarray(counts.emitted).sum()))
    return executor.finish(system, params, state, counts, prompts), lap


@dataclasses.dataclass(frozen=True)
class Timing:
  """Laps of one case, summarised.

  Attributes:
    prefill: seconds of a pass.
    rounds: seconds of a pass.
    seconds_per_round: seconds.
    tokens_per_second: of the rounds.
    speedup: ratio of the tokens per second to the baseline's, pass by pass;
      None without a baseline.
  """

  prefill: Spread
  rounds: Spread
  seconds_per_round: Spread
  tokens_per_second: Spread
  speedup: Spread | None = None

  def as_dict(self) -> dict[str, Any]:
    return dataclasses.asdict(self)


def race(passes: Mapping[str, Callable[[], Lap]], repeats: int,
         on_lap: Callable[[str], None] = lambda name: None
         ) -> dict[str, list[Lap]]:
  """Runs every case in turn, `repeats` times, and back in every other turn.

  A machine that slows down meanwhile then slows all cases alike.

  Args:
    passes: by name; each does the whole work of its case.
    repeats: laps of each case.
    on_lap: called with the name after each lap, for progress.

  Raises:
    ValueError: if `repeats` is below 1.
  """
  if repeats < 1:
    raise ValueError(f"repeats={repeats}, expected >= 1.")
  laps = {name: [] for name in passes}
  for repeat in range(repeats):
    for name in (list(passes), list(reversed(passes)))[repeat % 2]:
      laps[name].append(passes[name]())
      on_lap(name)
  return laps


def timing(laps: Sequence[Lap], baseline: Sequence[Lap] | None = None
           ) -> Timing:
  """Summary of the laps of one case.

  Args:
    laps: of the case.
    baseline: those it is paired with, lap by lap.
  """
  speedup = None
  if baseline is not None:
    speedup = spread([
        lap.tokens_per_second / base.tokens_per_second
        for lap, base in zip(laps, baseline, strict=True)])
  over = lambda name: spread([getattr(lap, name) for lap in laps])
  return Timing(over("prefill"), over("rounds"), over("seconds_per_round"),
                over("tokens_per_second"), speedup)
