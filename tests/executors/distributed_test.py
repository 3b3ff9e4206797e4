"""Two processes on this machine decode their rows; both see the whole text."""

import json
import os
import pathlib
import socket
import subprocess
import sys

from tests.executors import cases
from tests.executors import distributed_worker

_ROOT = pathlib.Path(__file__).parents[2]
_TIMEOUT_SECONDS = 900  # Ends a hang; says nothing about speed.


def _free_port() -> int:
  with socket.socket() as listener:
    listener.bind(("localhost", 0))
    return listener.getsockname()[1]


def _start(port, process, path):
  env = dict(os.environ, JAX_PLATFORMS="cpu", PYTHONPATH=str(_ROOT),
             XLA_FLAGS=os.environ.get("XLA_FLAGS", "")
             + " --xla_force_host_platform_device_count=1")
  return subprocess.Popen(
      [sys.executable, "-m", "tests.executors.distributed_worker", str(port),
       str(process), "2", str(path)], cwd=_ROOT, env=env,
      stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_two_processes_write_the_text_of_one(tmp_path):
  port = _free_port()
  paths = [tmp_path / f"{process}.json" for process in range(2)]
  workers = [_start(port, *pair) for pair in enumerate(paths)]
  try:
    logs = [worker.communicate(timeout=_TIMEOUT_SECONDS)[0]
            for worker in workers]
  finally:
    for worker in workers:
      worker.kill()
  for worker, log in zip(workers, logs):
    assert worker.returncode == 0, log
  for path in paths:
    report = json.loads(path.read_text())
    assert (report["devices"], report["local_devices"]) == (2, 1)
    for (how, name), run in zip(
        distributed_worker.RUNS, report["runs"], strict=True):
      wanted = cases.expected(name)
      assert run["texts"] == cases.texts(wanted), (how, name)
      assert run["target_calls"] == wanted.counts.target_calls.tolist()
