"""What a dense store costs: the target's forward, the index, a query.

The forward reads a sample of real text. Larger stores than the sample are made
of mixtures of two of its hidden states each, `0.7 a + 0.3 b`: reading millions
of tokens would time the same forward for hours, and the index does not know.
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
import dataclasses
import functools
import pathlib
import tempfile
import time
from typing import Any

import numpy as np
from tqdm import auto as tqdm

from experiments import corpus
from spec_jax.stores import dense_build
from spec_jax.training import hidden as hidden_lib

_MILLION = 1e6
_LENGTH, _FOLLOWING, _DIMS = 256, 20, 64
# As `dresd` asks.
_NEIGHBOURS, _CELLS = 50, 250
_PART = 1 << 13


@dataclasses.dataclass(frozen=True, eq=False)
class Sample:
  """Hidden states of real text.

  Attributes:
    hidden: `f16[n, E]`.
    following: `i64[n, T]`.
    seconds_per_million: of the target's forward.
  """

  hidden: np.ndarray
  following: np.ndarray
  seconds_per_million: float


def read(bundle, documents: Sequence[Sequence[int]], size: int) -> Sample:
  """Reads `size` tokens, or all; what compiles is not timed.

  Raises:
    ValueError: the documents have no hidden states.
  """
  length = min(_LENGTH, bundle.target.config.max_positions)
  states = functools.partial(
      hidden_lib.states, bundle.target, bundle.params["target"], documents,
      corpus.end_of(bundle), length, _FOLLOWING)
  next(states(), None)
  parts, done, begin = [], 0, time.perf_counter()
  for part in states():
    parts.append(part)
    done += len(part[0])
    if done >= size:
      break
  if not parts:
    raise ValueError("the corpus gives no hidden states, expected some text;"
                     " pass another --corpus.")
  seconds = (time.perf_counter() - begin) / done * _MILLION
  hidden, following = (np.concatenate(column) for column in zip(*parts))
  return Sample(hidden, following, seconds)


def mixtures(sample: Sample, size: int, first: int
             ) -> Iterator[dense_build.Part]:
  """Parts of `size` hidden states in all, from a number on."""
  for number in range(first, -(-size // _PART)):
    rng = np.random.default_rng(number)
    count = min(_PART, size - number * _PART)
    here, there = rng.integers(0, len(sample.hidden), (2, count))
    mixed = (np.float32(0.7) * sample.hidden[here]
             + np.float32(0.3) * sample.hidden[there])
    yield mixed.astype(np.float16), sample.following[here]


def costs(bundle, sample: Sample, size: int, queries: int,
          timed: Callable[..., dict[str, Any]]) -> dict[str, Any]:
  """A store of `size` mixtures: built and asked.

  Args:
    bundle: the models.
    sample: see `read`.
    size: of the store.
    queries: how many are timed.
    timed: `store_costs.timed`.
  """
  width = sample.hidden.shape[1]
  plan = dense_build.Plan(
      bundle.target.vocab_size, width, corpus.end_of(bundle), _FOLLOWING,
      min(_DIMS, width), min(size, 100_000))
  with tempfile.TemporaryDirectory() as folder, tqdm.tqdm(
      total=size, desc=f"dense store of {size}", leave=False) as bar:
    begin = time.perf_counter()
    store = dense_build.build(
        folder, plan, lambda first: mixtures(sample, size, first),
        on_rows=lambda done: bar.update(done - bar.n),
        on_cells=lambda stage, done: bar.set_description(f"{stage} {done}"))
    seconds = time.perf_counter() - begin
    num_bytes = sum(
        path.stat().st_size for path in pathlib.Path(folder).iterdir())
    rng = np.random.default_rng(1)
    asked = sample.hidden[rng.integers(0, len(sample.hidden), queries)]
    return {
        "tokens": size, "sample_tokens": len(sample.hidden),
        "forward_seconds_per_million": sample.seconds_per_million,
        "index_seconds_per_million": seconds / size * _MILLION,
        "bytes_per_million": num_bytes / size * _MILLION,
        "cells": len(store.cells.centres),
        "query_microseconds": timed(
            lambda state: store.search(state, _NEIGHBOURS, _CELLS), asked)}
