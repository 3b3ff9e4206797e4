"""One process of several; writes the texts it sees as JSON.

Run as `distributed_worker.py PORT PROCESS NUM_PROCESSES FILE`.
"""

import json
import pathlib
import sys

import jax
from jax.experimental import multihost_utils

from spec_jax.executors import fused
from spec_jax.executors import replicated
from spec_jax.executors import sharded
from tests.executors import cases

# A system without and one with a draft model over all processes, one that every
# process decodes alone, and one whose parameters are split over the processes.
RUNS = (("shard_map", "prompt_lookup"), ("shard_map", "speculative_sampling"),
        ("pmap", "prompt_lookup"), ("sharded", "speculative_sampling"))


def main(port, process, num_processes, path):
  jax.config.update("jax_cpu_collectives_implementation", "gloo")
  jax.distributed.initialize(
      f"localhost:{port}", int(num_processes), int(process))
  # Gloo waits half a minute for the others; here they come at the same time,
  # after the first compilations on a busy machine they may not.
  multihost_utils.sync_global_devices("start")
  report = dict(devices=jax.device_count(),
                local_devices=jax.local_device_count(),
                runs=[decode(*run) for run in RUNS])
  pathlib.Path(path).write_text(json.dumps(report), encoding="utf-8")


def decode(how, name):
  """The texts of one run and what they took."""
  decoded = (run_sharded(name) if how == "sharded" else
             cases.run(replicated.Replicated(how=how), name))
  return dict(texts=cases.texts(decoded),
              target_calls=decoded.counts.target_calls.tolist())


def run_sharded(name):
  """Tensor parallelism over the devices of all processes."""
  system, params = cases.build(name)
  mesh = jax.make_mesh((jax.device_count(),), ("model",))
  split = params.replace(target=sharded.shard_params(params.target, mesh),
                         drafter=sharded.shard_params(params.drafter, mesh))
  # Or every process would hold, and compute, all of it.
  assert not split.target["head"].is_fully_addressable
  return jax.device_get(fused.Fused().run(system, split, *cases.inputs()))


if __name__ == "__main__":
  main(*sys.argv[1:])
