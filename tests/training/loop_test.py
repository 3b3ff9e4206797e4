"""The loop: falling loss, frozen teacher, and resumption to the same curve."""

import functools
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from spec_jax.models import bundle as bundle_lib
from spec_jax.training import loop
from tests.training import interrupted

ROOT = pathlib.Path(__file__).parent.parent.parent


def _line_recipe(learning_rate=0.1):
  """Least squares on a line: small enough to check by eye."""

  def loss(params, frozen, batch, key):
    noise = 0.01 * jax.random.normal(key, batch.shape)
    error = params["slope"] * batch - frozen * batch + noise
    return (error ** 2).mean(), {"slope": params["slope"]}

  return loop.Recipe(lambda key: {"slope": jax.random.normal(key, ())}, loss,
                     optax.adam(learning_rate))


def _batch(step):
  return jnp.asarray(np.random.default_rng(step).normal(size=8), jnp.float32)


def _fit(folder, num_steps, **kwargs):
  return loop.fit(_line_recipe(), _batch, num_steps=num_steps, folder=folder,
                  frozen=jnp.float32(3.0), checkpoint_every=4, **kwargs)


def test_loss_falls_to_the_teacher(tmp_path):
  params = _fit(tmp_path, 120)
  assert abs(float(params["slope"]) - 3.0) < 0.1
  _, losses = loop.curve(loop.read_log(tmp_path / loop.LOG_NAME), "loss")
  assert losses[-1] < 0.01 * losses[0]


@pytest.mark.parametrize("interrupted_at", [1, 4, 7])
def test_resumed_run_equals_uninterrupted(tmp_path, interrupted_at):
  log = interrupted.resumed_log(
      tmp_path, functools.partial(_fit, num_steps=10), interrupted_at)
  assert [row["step"] for row in log] == list(range(1, 11))


def test_torn_last_line_is_dropped(tmp_path):
  path = tmp_path / loop.LOG_NAME
  path.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
  assert loop.read_log(path) == [{"step": 1, "loss": 2.0}]


def test_evaluation_is_logged_at_the_end(tmp_path):
  _fit(tmp_path, 5, evaluate=lambda params: {"slope": params["slope"]},
       evaluate_every=3)
  steps, _ = loop.curve(loop.read_log(tmp_path / loop.LOG_NAME), "eval_slope")
  assert steps.tolist() == [3, 5]


def _train(out, corpus):
  environment = dict(os.environ, JAX_PLATFORMS="cpu")
  return subprocess.Popen(
      [sys.executable, "-m", "experiments.train", "--bundle=smoke",
       f"--corpus={corpus}", f"--out={out}", "--checkpoint_every=3"],
      cwd=ROOT, env=environment, stdout=subprocess.DEVNULL,
      stderr=subprocess.PIPE)


def _wait_for_rows(path, count, process):
  deadline = time.monotonic() + 300
  while len(loop.read_log(path)) < count:
    assert process.poll() is None, process.stderr.read().decode()[-2000:]
    assert time.monotonic() < deadline, f"no {count} rows in {path}"
    time.sleep(0.005)


def test_kill_minus_nine_leaves_the_curve_as_it_would_have_been(tmp_path):
  corpus = tmp_path / "corpus"
  corpus.mkdir()
  source = pathlib.Path(json.__file__).parent
  for i, path in enumerate(sorted(source.glob("*.py")) * 12):
    # Many files, so that both sides of the split get some.
    (corpus / f"{i}_{path.name}").write_text(path.read_text())
  assert _train(tmp_path / "whole", corpus).wait() == 0
  process = _train(tmp_path / "killed", corpus)
  _wait_for_rows(tmp_path / "killed" / "target" / loop.LOG_NAME, 5, process)
  process.send_signal(signal.SIGKILL)
  process.wait()
  assert not (tmp_path / "killed" / "bundle").exists()
  assert _train(tmp_path / "killed", corpus).wait() == 0
  for stage in ("shallow", "target", "draft"):
    logs = [loop.read_log(tmp_path / run / stage / loop.LOG_NAME)
            for run in ("whole", "killed")]
    assert logs[0] == logs[1]
  bundles = [bundle_lib.load_bundle(tmp_path / run / "bundle")
             for run in ("whole", "killed")]
  chex.assert_trees_all_equal(bundles[0].params, bundles[1].params)
