"""Hidden states of texts, with the tokens that follow each of them."""

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
import functools
import itertools
from typing import Any

import jax
import numpy as np

_TAP = "final"


@functools.partial(jax.jit, static_argnums=0)
def _score(model, params, tokens):
  out = model.score(params, tokens, taps=(_TAP,), with_logits=False)
  return out.taps[_TAP]


def states(model: Any, params: Any, documents: Iterable[Sequence[int]],
           end_of_document: int, length: int, following: int, batch: int = 8,
           first: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Yields batches of states and continuations.

  Args:
    model: a `models.contract.LinenModel`.
    params: of it.
    documents: token ids; long ones are read in windows of `length`.
    end_of_document: fills continuations behind a document's end.
    length: tokens seen at once.
    following: tokens of a continuation.
    batch: windows in one forward pass.
    first: number of the batch to begin with; those before it cost no forward
      pass.

  Yields:
    `f16[m, E]` after the final norm and `i64[m, following]`.
  """
  windows = ((ids, start) for document in documents
             for ids in (np.asarray(document, np.int64),)
             for start in range(0, max(len(ids) - 1, 0), length))
  for number in itertools.count():
    rows = list(itertools.islice(windows, batch))
    if not rows:
      return
    if number >= first:
      yield _batch(model, params, rows, end_of_document, length, following,
                   batch)


def _batch(model, params, rows, end, length, following, batch):
  tokens = np.zeros((batch, length), np.int32)
  for i, (ids, start) in enumerate(rows):
    window = ids[start:start + length]
    tokens[i, :len(window)] = window
  hidden = np.asarray(_score(model, params, tokens), np.float16)
  states_, nexts = [], []
  for i, (ids, start) in enumerate(rows):
    # The last token of a document has nothing behind it.
    size = min(length, len(ids) - 1 - start)
    states_.append(hidden[i, :size])
    padded = np.concatenate([ids, np.full(following, end)])
    places = start + 1 + np.arange(size)[:, None] + np.arange(following)
    nexts.append(padded[places])
  return np.concatenate(states_), np.concatenate(nexts)
