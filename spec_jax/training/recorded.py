"""What a frozen target says of texts, computed once and kept on disk.

Trainers ask `said`, which computes on-line unless the batch brought a record.
`Recorded` gives batches that do: those of the first steps, in shards of a few
steps each, which later steps read again in another order. A shard is written
under a scratch name first: whatever a run is interrupted by, what it wrote is
whole, and the next run goes on from there.
"""

from collections.abc import Callable
from collections.abc import Iterable
import dataclasses
import functools
import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from spec_jax.core import types
from spec_jax.models import contract
from spec_jax.training import loop

# Key of a record among what is frozen, beside the parameters of each part.
RECORD = "record"
_FINAL = "final"  # Logits follow from this tap.
_TOKENS, _KEYS, _VALUES, _TAP = "tokens", "keys", "values", "tap_"
_MADE_FOR = "made_for"


@dataclasses.dataclass(frozen=True)
class Reads:
  """What a loss asks of the target's forward over its texts.

  Attributes:
    target: the model; its dtype is that of the record.
    taps: features.
    with_memory: whether the last layer's keys and values too.
  """

  target: contract.LinenModel
  taps: tuple[Any, ...]
  with_memory: bool = False

  def shapes(self) -> dict[str, tuple[int, ...]]:
    """By name of a tensor its shape of one token, without the time axis."""
    c = self.target.config
    found = {f"{_TAP}{tap}": (c.d_model,) for tap in self._all_taps}
    if self.with_memory:
      found |= dict.fromkeys((_KEYS, _VALUES), (c.num_kv_heads, c.head_dim))
    return found

  @property
  def bytes_per_token(self) -> int:
    size = jnp.dtype(self.target.dtype).itemsize
    return size * sum(map(np.prod, self.shapes().values())) + 2

  @property
  def _all_taps(self):
    return tuple(dict.fromkeys((*self.taps, _FINAL)))

  def record(self, params: Any, tokens: jax.Array) -> dict[str, jax.Array]:
    """Computes it for `i32[B, T]`."""
    out = self.target.score(
        params, tokens, taps=self._all_taps, with_logits=False)
    found = {f"{_TAP}{tap}": out.taps[tap] for tap in self._all_taps}
    if self.with_memory:
      found |= {_KEYS: out.fresh.k[-1], _VALUES: out.fresh.v[-1]}
    return found


def said(target: contract.LinenModel, frozen: Any, tokens: jax.Array,
         taps: tuple[Any, ...], with_logits: bool = True) -> types.ModelOut:
  """What the target says of `i32[B, T]`, a constant.

  Args:
    target: the model.
    frozen: parameters by part, the target's under "target"; and the record, if
      the batch brought one.
    tokens: of the batch.
    taps: features; of a record those that it was made with.
    with_logits: whether logits are wanted.

  Returns:
    Of its keys and values a record has those of the last layer at most.
  """
  record = frozen.get(RECORD)
  if record is None:
    out = target.score(frozen["target"], tokens, taps=taps,
                       with_logits=with_logits)
    # One by one: a dictionary of names and numbers cannot be sorted.
    return types.ModelOut(
        jax.lax.stop_gradient(out.logits), jax.lax.stop_gradient(out.fresh),
        {tap: jax.lax.stop_gradient(found) for tap, found in out.taps.items()})
  logits = None
  if with_logits:
    logits = target.unembed(frozen["target"], record[f"{_TAP}{_FINAL}"])
  fresh = None
  if _KEYS in record:
    positions = jnp.broadcast_to(
        jnp.arange(tokens.shape[1], dtype=jnp.int32), tokens.shape)
    fresh = types.FreshKV((record[_KEYS],), (record[_VALUES],), positions)
  return types.ModelOut(
      logits, fresh, {tap: record[f"{_TAP}{tap}"] for tap in taps})


def reading(recipe: loop.Recipe) -> loop.Recipe:
  """The same recipe over the batches of `Recorded`."""

  def loss(params, frozen, batch, *more):
    tokens, record = batch
    return recipe.loss(params, {**frozen, RECORD: record}, tokens, *more)

  return dataclasses.replace(recipe, loss=loss)


@dataclasses.dataclass(frozen=True, eq=False)
class Recorded:
  """Batches of tokens and what the target says of them, from a folder.

  Attributes:
    batch_fn: step -> `i32[B, T]`, a pure function of the step.
    reads: what is kept.
    folder: of the shards.
    made_for: fingerprint of the target.
    num_steps: steps whose batches are kept; later ones take these again, in an
      order of their own each time round.
    seed: of the orders.
    shard_steps: steps of a shard.
  """

  batch_fn: Callable[[int], np.ndarray]
  reads: Reads
  folder: pathlib.Path
  made_for: str
  num_steps: int
  seed: int = 0
  shard_steps: int = 16

  @property
  def num_bytes(self) -> int:
    """Of all shards, without their headers."""
    return (self.num_steps * self.batch_fn(0).size
            * self.reads.bytes_per_token)

  @property
  def num_shards(self) -> int:
    return -(-self.num_steps // self.shard_steps)

  def missing(self) -> list[int]:
    """Numbers of the shards that are still to be written.

    Raises:
      ValueError: a shard is broken, or of another target or other texts.
    """
    return [number for number in range(self.num_shards)
            if not self._is_there(number)]

  def write(self, params: Any, numbers: Iterable[int]) -> None:
    """Computes shards and writes them; `params` are the target's."""
    self.folder.mkdir(parents=True, exist_ok=True)
    record_fn = jax.jit(self.reads.record)
    for number in numbers:
      self._write_shard(number, params, record_fn)

  def __call__(self, step: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Tokens `i32[B, T]` and their record."""
    turn, place = divmod(step, self.num_steps)
    if turn:
      place = np.random.default_rng((self.seed, turn)).permutation(
          self.num_steps)[place]
    number, row = divmod(int(place), self.shard_steps)
    file = _opened(self._path(number))
    found = {name: file.get_slice(name)[row] for name in self.reads.shapes()}
    return file.get_slice(_TOKENS)[row].astype(np.int32), found

  def _path(self, number):
    return self.folder / f"features-{number:05d}.safetensors"

  def _steps(self, number):
    first = number * self.shard_steps
    return range(first, min(first + self.shard_steps, self.num_steps))

  def _is_there(self, number):
    """Whether a shard is there; raises ValueError for one that is no use."""
    path, steps = self._path(number), self._steps(number)
    if not path.exists():
      return False
    first = self.batch_fn(steps[0])
    wanted = {name: [len(steps), *shape] for name, shape in self._shapes(
        first.shape).items()}
    try:
      with safetensors.safe_open(path, "np") as file:
        made_for = (file.metadata() or {}).get(_MADE_FOR)
        found = {name: file.get_slice(name).get_shape() for name in file.keys()}
        is_text = found == wanted and np.array_equal(
            file.get_slice(_TOKENS)[0], first)
    except (OSError, safetensors.SafetensorError) as error:
      raise ValueError(f"{path}: not a whole file of features ({error}); delete"
                       " it to have it written again.") from error
    if made_for != self.made_for:
      raise ValueError(
          f"{path}: features of the target {str(made_for)[:12]}, expected"
          f" {self.made_for[:12]}; give another --out or delete the folder.")
    if not is_text:
      raise ValueError(
          f"{path}: {'other texts' if found == wanted else found}, expected"
          f" {'those of this training' if found == wanted else wanted}; give"
          " another --out or delete the folder.")
    return True

  def _shapes(self, shape):
    batch, length = shape
    return {_TOKENS: (batch, length)} | {
        name: (batch, *heads, length, size)
        for name, (*heads, size) in self.reads.shapes().items()}

  def _write_shard(self, number, params, record_fn):
    batches = [self.batch_fn(step) for step in self._steps(number)]
    rows = [jax.device_get(record_fn(params, tokens)) for tokens in batches]
    tensors = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    tensors[_TOKENS] = np.stack(batches).astype(np.uint16)
    path = self._path(number)
    # Of this process: two trainings may share a folder.
    scratch = path.with_suffix(f".{os.getpid()}.tmp")
    safetensors.numpy.save_file(tensors, scratch, {_MADE_FOR: self.made_for})
    scratch.chmod(0o644)
    scratch.replace(path)


@functools.lru_cache(maxsize=64)
def _opened(path):
  return safetensors.safe_open(path, "np")
