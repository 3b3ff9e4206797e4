"""A training loop that survives being killed at any moment.

Every random choice is a function of the step, checkpoints are atomic, and the
log is cut back to the restored step: an interrupted run, started again with the
same arguments, ends with the same parameters and the same loss curve.
"""

from collections.abc import Callable
import dataclasses
import json
import pathlib
from typing import Any

import jax
import numpy as np
import optax
import orbax.checkpoint as ocp

LOG_NAME = "metrics.jsonl"


@dataclasses.dataclass(frozen=True)
class Recipe:
  """What is optimised, and how.

  Attributes:
    init: `key -> params`.
    loss: `(params, frozen, batch, key) -> (scalar, metrics)`; `frozen` is any
      pytree that is not trained (a teacher's parameters). With `wants_step`
      a fifth argument `i32[]` says how many steps there were before.
    optimizer: of the parameters.
    reads: what the loss asks of a frozen target's forward over the batch, a
      `recorded.Reads`; None if that is no constant of the text.
    wants_step: see `loss`.
  """

  init: Callable[[jax.Array], Any]
  loss: Callable[..., tuple[jax.Array, dict[str, Any]]]
  optimizer: optax.GradientTransformation
  reads: Any = None
  wants_step: bool = False


def fit(
    recipe: Recipe,
    batch_fn: Callable[[int], Any],
    *,
    num_steps: int,
    folder: pathlib.Path,
    frozen: Any = None,
    seed: int = 0,
    checkpoint_every: int = 50,
    evaluate_every: int = 100,
    evaluate: Callable[[Any], dict[str, float]] | None = None,
    on_step: Callable[[int, dict[str, float]], None] | None = None,
) -> Any:
  """Trains to `num_steps`, or on from the last checkpoint in `folder`.

  Args:
    recipe: what to optimise.
    batch_fn: step -> batch; must be a pure function of the step.
    num_steps: in total, those of earlier runs included.
    folder: checkpoints and the log (`metrics.jsonl`, one row a step).
    frozen: passed to the loss.
    seed: of the initialisation and of the keys passed to the loss.
    checkpoint_every: steps.
    evaluate_every: steps; the last step is always evaluated.
    evaluate: `params -> metrics`; logged with the prefix "eval_".
    on_step: called after each step with its row, for progress bars.

  Returns:
    The trained parameters.
  """
  folder = pathlib.Path(folder).absolute()
  folder.mkdir(parents=True, exist_ok=True)
  init_key, train_key = jax.random.split(jax.random.key(seed))

  @jax.jit
  def update(params, opt_state, frozen, batch, step):
    key = jax.random.fold_in(train_key, step)
    when = (step,) * recipe.wants_step
    (loss, metrics), grads = jax.value_and_grad(recipe.loss, has_aux=True)(
        params, frozen, batch, key, *when)
    updates, opt_state = recipe.optimizer.update(grads, opt_state, params)
    params = optax.apply_updates(params, updates)
    return params, opt_state, {"loss": loss, **metrics}

  params = recipe.init(init_key)
  opt_state = recipe.optimizer.init(params)
  with _manager(folder) as manager:
    params, opt_state, first = _restore(manager, params, opt_state)
    rows = _Rows(Log(folder / LOG_NAME, first), on_step)
    for step in range(first, num_steps):
      params, opt_state, metrics = update(
          params, opt_state, frozen, batch_fn(step), step)
      rows.add(step + 1, metrics)
      is_last = step + 1 == num_steps
      if evaluate and ((step + 1) % evaluate_every == 0 or is_last):
        rows.evaluated(evaluate(params))
      if (step + 1) % checkpoint_every == 0 or is_last:
        rows.write()  # First: what was saved is never missing in the log.
        manager.save(step + 1, args=ocp.args.StandardSave(
            {"params": params, "opt_state": opt_state}))
        manager.wait_until_finished()
  return params


class _Rows:
  """The last step's row, until the next step is under way.

  Reading a step's metrics waits for it: the device would have nothing to do
  while the host reads, logs and makes the next batch.
  """

  def __init__(self, log: "Log",
               on_step: Callable[[int, dict[str, float]], None] | None):
    self._log, self._on_step, self._waiting = log, on_step, None

  def add(self, step: int, metrics: dict[str, jax.Array]) -> None:
    """A step that was started; the one before it is written."""
    self.write()
    self._waiting = step, metrics, {}

  def evaluated(self, found: dict[str, float]) -> None:
    """Of the last step that was added."""
    step, metrics, _ = self._waiting
    self._waiting = step, metrics, {
        f"eval_{k}": float(v) for k, v in found.items()}

  def write(self) -> None:
    """Waits for the step and writes its row, if none did."""
    if self._waiting is None:
      return
    (step, metrics, found), self._waiting = self._waiting, None
    row = {"step": step} | {
        k: float(v) for k, v in jax.device_get(metrics).items()} | found
    self._log.write(row)
    if self._on_step:
      self._on_step(step, row)


class Log:
  """Rows of JSON; rows after the restored step are dropped on opening."""

  def __init__(self, path: pathlib.Path, step: int):
    self._path = path
    kept = [row for row in read_log(path) if row["step"] <= step]
    text = "".join(json.dumps(row) + "\n" for row in kept)
    scratch = path.with_suffix(".tmp")
    scratch.write_text(text)
    scratch.replace(path)

  def write(self, row: dict[str, float]) -> None:
    with self._path.open("a") as file:
      file.write(json.dumps(row) + "\n")


def read_log(path: pathlib.Path) -> list[dict[str, float]]:
  """The rows of a log; a last line torn by a kill is left out."""
  if not path.exists():
    return []
  rows = []
  for line in path.read_text().splitlines():
    try:
      rows.append(json.loads(line))
    except json.JSONDecodeError:
      break
  return rows


def thinned(rows: list[dict[str, float]], most: int) -> list[dict[str, float]]:
  """About `most` evenly spread rows, and all that were evaluated."""
  stride = -(-len(rows) // most)
  return [row for i, row in enumerate(rows) if i % stride == 0
          or any(key.startswith("eval_") for key in row)]


def _manager(folder: pathlib.Path) -> ocp.CheckpointManager:
  options = ocp.CheckpointManagerOptions(max_to_keep=2, create=True)
  return ocp.CheckpointManager(folder / "checkpoints", options=options)


def _restore(manager, params, opt_state):
  step = manager.latest_step()
  if step is None:
    return params, opt_state, 0
  template = jax.tree.map(
      ocp.utils.to_shape_dtype_struct,
      {"params": params, "opt_state": opt_state})
  restored = manager.restore(step, args=ocp.args.StandardRestore(template))
  return restored["params"], restored["opt_state"], step


def curve(rows: list[dict[str, float]], name: str
          ) -> tuple[np.ndarray, np.ndarray]:
  """Steps and values of one metric, where it was logged."""
  pairs = [(row["step"], row[name]) for row in rows if name in row]
  steps, values = zip(*pairs) if pairs else ((), ())
  return np.asarray(steps), np.asarray(values)
