"""Builds a dense store part by part; an interrupted build goes on.

Memory is bounded by the hidden states that decide the projection. Until there
are enough of those they are kept on disk as they are; then they and all that
follow become keys, and k-means and the cells of the keys come last. Every stage
writes files that grow and notes what counts (`stores.notes`), and depends on
nothing but the plan and the numbers of the parts: a build that was interrupted
gives the same store as one that was not.
"""

from collections.abc import Callable
from collections.abc import Iterator
import dataclasses
import json
import math
import os
import pathlib
from typing import Any

import numpy as np

from spec_jax.stores import dense_index
from spec_jax.stores import dense_store
from spec_jax.stores import notes

# Hidden states with what followed them: `f[m, E]`, `i[m, T]`.
Part = tuple[np.ndarray, np.ndarray]

_HIDDEN, _OWNERS, _ROUND = "hidden.npy", "owners.npy", "round{}.npy"
_PROJECTED = 1 << 13  # Kept hidden states that become keys at once.
_FRESH = {"stage": "fit", "parts": 0, "rows": 0, "explained": 0.0, "rounds": 0,
          "owned": 0}


@dataclasses.dataclass(frozen=True)
class Plan:
  """What is built; a build goes on only if all of it is the same.

  Attributes:
    vocab_size: of the tokenizer.
    hidden_size: E.
    end_of_document: no draft contains it.
    following: T, tokens of a continuation.
    dims: C, dimensions of a key.
    fit_keys: hidden states that decide the projection.
    max_tokens: hidden states to store, 0 = all there are.
    num_cells: see `dense_index.make_cells`, 0 = as many as published.
    rounds: of k-means.
    source: where the parts come from, as JSON knows it.
  """

  vocab_size: int
  hidden_size: int
  end_of_document: int
  following: int = 20
  dims: int = 64
  fit_keys: int = 100_000
  max_tokens: int = 0
  num_cells: int = 0
  rounds: int = 5
  source: dict[str, Any] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    for name in ("vocab_size", "hidden_size", "following", "dims", "rounds"):
      if getattr(self, name) < 1:
        raise ValueError(f"{name}={getattr(self, name)}, expected >= 1.")
    if self.dims > self.hidden_size:
      raise ValueError(f"dims={self.dims}, expected at most the hidden size"
                       f" {self.hidden_size}.")
    if self.fit_keys < 2:
      raise ValueError(f"fit_keys={self.fit_keys}, expected >= 2.")
    for name in ("max_tokens", "num_cells"):
      if getattr(self, name) < 0:
        raise ValueError(f"{name}={getattr(self, name)}, expected >= 0.")

  def as_dict(self) -> dict[str, Any]:
    return json.loads(json.dumps(dataclasses.asdict(self)))


def build(folder: str | os.PathLike, plan: Plan,
          parts_fn: Callable[[int], Iterator[Part]],
          on_rows: Callable[[int], None] = lambda rows: None,
          on_cells: Callable[[str, int], None] = lambda stage, done: None,
          save_every: int = 1 << 14) -> dense_store.DenseStore:
  """Builds a store, or finishes one.

  Args:
    folder: made if it does not exist.
    plan: what is built.
    parts_fn: yields the parts from a number on, always the same ones.
    on_rows: called with the hidden states read, for progress.
    on_cells: called in the stages "k-means", with the rounds done, and "cells",
      with the keys assigned
      that are noted.
    save_every: hidden states between two notes of what is done.

  Raises:
    ValueError: the folder holds another store, or half of another one, or a
      broken one; or there are no hidden states.
  """
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  if (folder / dense_store.HEADER).exists():
    found = dense_store.open_store(folder)
    notes.check_same(
        folder, plan.as_dict(), found.header.get("plan"), "a dense store")
    _tidy(folder)
    return found
  build_ = _Build(folder, plan, notes.read(
      folder, plan.as_dict(), _FRESH, "a dense store"), save_every)
  stages = {
      "fit": lambda: build_.keep(parts_fn, on_rows),
      "project": build_.project,
      "keys": lambda: build_.read(parts_fn, on_rows),
      "k-means": lambda: build_.cluster(on_cells),
      "cells": lambda: build_.assign(on_cells)}
  if build_.progress["stage"] not in stages:
    raise notes.broken(folder, f"stage={build_.progress['stage']!r}, expected"
                       f" one of {', '.join(stages)}")
  on_rows(build_.progress["rows"])
  for stage, run in stages.items():
    if build_.progress["stage"] == stage:
      run()
  _tidy(folder)
  return dense_store.open_store(folder)


def _tidy(folder):
  for pattern in (_HIDDEN, _OWNERS, _ROUND.format("*")):
    for path in folder.glob(pattern):
      path.unlink()
  notes.finish(folder)


@dataclasses.dataclass
class _Build:
  """A build under way; every method is a stage, and notes the next one."""

  folder: pathlib.Path
  plan: Plan
  progress: dict[str, Any]
  save_every: int

  def keep(self, parts_fn, on_rows):
    """The first hidden states as they are, until there are enough."""
    self._grow(parts_fn, on_rows, _HIDDEN, self.plan.hidden_size,
               lambda hidden: hidden, self.plan.fit_keys)
    if not self.progress["rows"]:
      raise ValueError(f"{self.folder}: no hidden states to store, expected"
                       f" some text in {self.plan.source}.")
    self._next("project")

  def project(self):
    """Fits the projection, and makes keys of what was kept."""
    hidden = self._load(_HIDDEN)
    projection = dense_index.fit(hidden[:self.plan.fit_keys], self.plan.dims)
    dense_store.save_arrays(self.folder, {
        "mean": projection.mean, "std": projection.std,
        "components": projection.components})
    keys = self._open("keys.npy", np.float16, (self.plan.dims,), 0)
    for begin in range(0, len(hidden), _PROJECTED):
      keys.append(projection(hidden[begin:begin + _PROJECTED]))
    keys.close()
    self._next("keys", explained=projection.explained)
    (self.folder / _HIDDEN).unlink()

  def read(self, parts_fn, on_rows):
    """All further hidden states, as keys."""
    projection = self._projection()
    self._grow(parts_fn, on_rows, "keys.npy", self.plan.dims, projection,
               math.inf)
    self._next("k-means")

  def cluster(self, on_cells):
    """Centres of the cells."""
    keys, plan = self._load("keys.npy"), self.plan
    values = self._load("values.npy")
    if not len(keys) == len(values) == self.progress["rows"]:
      raise notes.broken(self.folder, f"{len(keys)} keys, {len(values)}"
                         f" continuations, expected {self.progress['rows']}")
    sample, centres = dense_index.start(keys, plan.num_cells or None)
    if self.progress["rounds"]:
      centres = self._load(_ROUND.format(self.progress["rounds"]))
    # A file a round: the note and the file cannot change in one step.
    for number in range(self.progress["rounds"] + 1, plan.rounds + 1):
      centres = dense_index.improve(sample, centres)
      name = _ROUND.format(number).removesuffix(".npy")
      dense_store.save_arrays(self.folder, {name: centres})
      self._next("k-means", rounds=number)
      on_cells("k-means", number)
    dense_store.save_arrays(self.folder, {"centres": centres})
    self._next("cells")

  def assign(self, on_cells):
    """The cell of every key; then the header."""
    keys, centres = self._load("keys.npy"), self._load("centres.npy")
    owned = self._open(_OWNERS, np.int32, (), self.progress["owned"])
    saved = owned.count
    for owner in dense_index.owners(keys, centres, owned.count):
      owned.append(owner)
      if owned.count - saved >= self.save_every:
        owned.sync()
        self._next("cells", owned=owned.count)
        saved = owned.count
        on_cells("cells", owned.count)
    owned.close()
    cells = dense_index.gather(centres, self._load(_OWNERS))
    dense_store.save_arrays(
        self.folder, {"starts": cells.starts, "members": cells.members})
    plan = self.plan
    dense_store.write_header(
        self.folder, plan.vocab_size, plan.end_of_document,
        self.progress["explained"], plan=plan.as_dict())

  def _grow(self, parts_fn, on_rows, name, width, state_fn, limit):
    """Appends parts to two files, up to a limit or the plan's."""
    done, most = self.progress, self.plan.max_tokens or math.inf
    self._next(done["stage"])
    firsts = self._open(name, np.float16, (width,), done["rows"])
    values = self._open("values.npy", np.uint32, (self.plan.following,),
                        done["rows"])
    parts, saved = parts_fn(done["parts"]), done["rows"]
    while done["rows"] < min(limit, most):
      part = next(parts, None)
      if part is None:
        break
      left = int(min(most - done["rows"], len(part[0])))
      firsts.append(state_fn(part[0][:left]))
      values.append(part[1][:left])
      done |= {"parts": done["parts"] + 1, "rows": firsts.count}
      on_rows(firsts.count)
      if firsts.count - saved >= self.save_every:
        firsts.sync()
        values.sync()
        self._next(done["stage"])
        saved = firsts.count
    firsts.close()
    values.close()

  def _open(self, name, dtype, shape, count):
    return notes.Rows(self.folder / name, dtype, shape, count)

  def _load(self, name):
    """A finished file; raises ValueError if it is not whole."""
    try:
      return np.load(self.folder / name, mmap_mode="r").view(np.ndarray)
    except (OSError, ValueError, EOFError) as error:
      raise notes.broken(self.folder, f"{name}: {error}") from error

  def _projection(self):
    return dense_index.Projection(
        *(self._load(f"{name}.npy") for name in ("mean", "std", "components")),
        self.progress["explained"])

  def _next(self, stage, **fields):
    self.progress |= {"stage": stage} | fields
    notes.save(self.folder, self.progress)
