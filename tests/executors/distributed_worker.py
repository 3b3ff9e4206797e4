"""One process of several; writes the texts it sees as JSON.

Run as `distributed_worker.py PORT PROCESS NUM_PROCESSES FILE`.
"""

import json
import pathlib
import sys

import jax
from jax.experimental import multihost_utils

from spec_jax.executors import replicated
from tests.executors import cases

# A system without and one with a draft model over all processes, and one that
# every process decodes alone.
RUNS = (("shard_map", "prompt_lookup"), ("shard_map", "speculative_sampling"),
        ("pmap", "prompt_lookup"))


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
  decoded = cases.run(replicated.Replicated(how=how), name)
  return dict(texts=cases.texts(decoded),
              target_calls=decoded.counts.target_calls.tolist())


if __name__ == "__main__":
  main(*sys.argv[1:])
