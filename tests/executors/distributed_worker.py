"""One process of several; writes the text it sees as JSON.

Run as `distributed_worker.py PORT PROCESS NUM_PROCESSES FILE`.
"""

import json
import pathlib
import sys

import jax

from spec_jax.executors import replicated
from tests.executors import cases


def main(port, process, num_processes, path):
  jax.config.update("jax_cpu_collectives_implementation", "gloo")
  jax.distributed.initialize(
      f"localhost:{port}", int(num_processes), int(process))
  decoded = cases.run(replicated.Replicated(), "prompt_lookup")
  report = dict(texts=cases.texts(decoded), devices=jax.device_count(),
                local_devices=jax.local_device_count(),
                target_calls=decoded.counts.target_calls.tolist())
  pathlib.Path(path).write_text(json.dumps(report), encoding="utf-8")


if __name__ == "__main__":
  main(*sys.argv[1:])
