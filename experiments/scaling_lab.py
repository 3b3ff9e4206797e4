"""The points of `experiments.scaling`, each measured on its own."""

import dataclasses
import functools
import itertools
import json
import os
import subprocess
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp

from experiments import common
from spec_jax import api
from spec_jax.caches import dense
from spec_jax.core import keys as keys_lib
from spec_jax.evaluation import clock as clock_lib
from spec_jax.evaluation import counts as counts_lib
from spec_jax.evaluation import timed_rounds
from spec_jax.executors import replicated

TIMERS = {"wall": time.perf_counter, "cpu": time.process_time}
# Trees are this many levels deep, all but the first without branches.
LEVELS = 3
_TREE = "specinfer"
_COUNT_FLAG = "--xla_force_host_platform_device_count="


class Lab:
  """Measures points."""

  def __init__(self, values, bundle, temperature):
    self._values, self._bundle = values, bundle
    self._temperature, self._tokens_per_call = temperature, {}
    with common.clean_errors():
      if not bundle.prompts:
        raise ValueError(f"{bundle.name} comes without prompts; use a bundle"
                         " with some: --bundle.")

  def tree(self, nodes: int) -> common.Choice:
    """The system whose trees have so many nodes; 1 is plain decoding."""
    if nodes == 1:
      return common.choose(self._bundle, [common.BASELINE], ())[0][0]
    branching = [nodes // LEVELS] + [1] * (LEVELS - 1)
    return common.choose(self._bundle, [_TREE], [
        f"branching={','.join(map(str, branching))}"])[0][0]

  def on_prompts(self, choice, batch) -> dict[str, Any]:
    """A batch of real prompts."""
    given = self._given(choice, batch)
    stats = counts_lib.stats(choice.executor.run(*given).counts)
    state = choice.executor.start(*given)
    return self._timed(choice, given[0], state, batch, stats.block_efficiency)

  def behind(self, choice, prefix) -> dict[str, Any]:
    """One row behind a prefix of that length."""
    given = self._given(choice, 1)
    known = (choice.name, str(choice.hyper))
    if known not in self._tokens_per_call:
      self._tokens_per_call[known] = counts_lib.stats(
          choice.executor.run(*given).counts).block_efficiency
    room = self._values.max_new_tokens
    state = choice.executor.start(*given, prefix + room)
    state = lengthened(state, prefix)
    # Behind a prefix without sense the text may end at once: it must not.
    system = dataclasses.replace(given[0], end_of_text=None)
    return self._timed(choice, system, state, 1, self._tokens_per_call[known])

  def replicated(self, choice) -> dict[str, Any]:
    """The rows split over the devices of this process, whole decodes."""
    devices = tuple(jax.local_devices())
    executor = replicated.Replicated(devices, "pmap")
    given = self._given(choice, self._values.device_rows)
    stats = counts_lib.stats(executor.run(*given).counts)
    seconds = []
    timer = TIMERS[self._values.timer]
    for _ in range(self._values.samples):
      begin = timer()
      jax.block_until_ready(executor.run(*given))
      seconds.append(timer() - begin)
    rounds = stats.target_calls / self._values.device_rows
    return self._row([s / rounds for s in seconds],
                     self._values.device_rows, stats.block_efficiency) | {
                         "num_devices": len(devices)}

  def in_child(self, choice, count) -> dict[str, Any]:
    """`replicated` in a process with so many host devices."""
    others = [flag for flag in os.environ.get("XLA_FLAGS", "").split()
              if not flag.startswith(_COUNT_FLAG)]
    environment = os.environ | {
        "XLA_FLAGS": " ".join([*others, f"{_COUNT_FLAG}{count}"]),
        "JAX_PLATFORMS": "cpu"}
    values = self._values
    command = [sys.executable, "-m", "experiments.scaling", "--child",
               f"--system={choice.name}", f"--out={values.out}",
               f"--temperature={self._temperature}"]
    command += [f"--{name}={getattr(values, name)}" for name in (
        "bundle", "dtype", "max_new_tokens", "seed", "device_rows",
        "prompt_tokens", "samples", "timer")]
    command += [f"--set={override}" for override in values.set]
    command += [f"--{name}={getattr(values, name)}"
                for name in ("hf", "hf_draft", "draft_head")
                if getattr(values, name)]
    done = subprocess.run(command, env=environment, capture_output=True,
                          text=True, check=False)
    if done.returncode:
      raise RuntimeError(f"the process with {count} devices failed:"
                         f" {done.stderr[-500:]}")
    found = json.loads(done.stdout.strip().splitlines()[-1])
    if found["num_devices"] != count:
      raise RuntimeError(f"{count} devices were asked for, the process has"
                         f" {found['num_devices']}.")
    return found

  def _given(self, choice, batch):
    texts = itertools.islice(itertools.cycle(self._bundle.prompts), batch)
    rows = [self._bundle.tokenizer.encode(text)[-self._values.prompt_tokens:]
            for text in texts]
    prompts = api.make_prompts(rows, self._bundle.target.config.max_positions,
                               self._values.max_new_tokens)
    return (choice.at(self._temperature), choice.params, prompts,
            keys_lib.row_keys(self._values.seed, batch),
            self._values.max_new_tokens)

  def _timed(self, choice, system, state, batch, tokens_per_call):
    timed = timed_rounds.Rounds(TIMERS[self._values.timer], system,
                                choice.params, state, choice.executor)
    timed()
    seconds = [timed() for _ in range(self._values.samples)]
    return self._row(seconds, batch, tokens_per_call)

  def _row(self, seconds, batch, tokens_per_call):
    spread = clock_lib.spread(seconds)
    return {"seconds_per_round": dataclasses.asdict(spread),
            "tokens_per_call": tokens_per_call,
            "tokens_per_second": batch * tokens_per_call / spread.median}


def lengthened(state, prefix: int):
  """The same state as if `prefix` tokens had been decoded; caches hold zeros.

  What a round costs depends on how much is cached, not on what.
  """
  length = jnp.full_like(state.length, prefix)
  longer = lambda node: node.replace(length=length - 1) if isinstance(
      node, dense.DenseCache) else node
  caches = functools.partial(
      jax.tree.map, longer,
      is_leaf=lambda node: isinstance(node, dense.DenseCache))
  # One token counts as text already: the pending one.
  return state.replace(length=length, limit=length + state.limit - state.length,
                       cache=caches(state.cache), drafter=caches(state.drafter))
