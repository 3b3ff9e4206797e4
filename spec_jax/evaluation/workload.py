"""One pass of a system over a set of conversations, turn by turn, timed."""

from collections.abc import Iterator
from collections.abc import Sequence
import dataclasses
from typing import Any

import jax
import numpy as np

from spec_jax.core import counts as counts_lib
from spec_jax.core import keys as keys_lib
from spec_jax.core import system as system_lib
from spec_jax.core import types
from spec_jax.evaluation import clock as clock_lib
from spec_jax.evaluation import counts as stats_lib
from spec_jax.evaluation import prompts as prompts_lib
from spec_jax.executors import decoding


@dataclasses.dataclass(frozen=True, eq=False)
class Workload:
  """What every system of a comparison has to decode.

  Attributes:
    conversations: see `prompts`.
    tokenizer: of the bundle.
    max_positions: of the model.
    max_new_tokens: per turn.
    batch: rows decoded at once; the last batch may be smaller.
    seed: row r draws from `(seed, r, position)` only.
    truncate: whether a context that is too long loses its oldest tokens;
      otherwise it is an error.
  """

  conversations: Sequence[prompts_lib.Conversation]
  tokenizer: Any
  max_positions: int
  max_new_tokens: int
  batch: int = 1
  seed: int = 0
  truncate: bool = False

  def __post_init__(self):
    if not self.conversations:
      raise ValueError("no prompts were given, expected at least one.")
    if self.batch < 1:
      raise ValueError(f"batch={self.batch}, expected >= 1.")
    prompts_lib.room(self.max_positions, self.max_new_tokens)

  @property
  def limit(self) -> int:
    """Tokens a context may have."""
    return prompts_lib.room(self.max_positions, self.max_new_tokens)

  def groups(self) -> list[list[prompts_lib.Conversation]]:
    """Batches of conversations with the same number of turns."""
    by_turns = {}
    for conversation in self.conversations:
      by_turns.setdefault(len(conversation.turns), []).append(conversation)
    return [rows[i:i + self.batch] for _, rows in sorted(by_turns.items())
            for i in range(0, len(rows), self.batch)]

  def encode(self, conversation: prompts_lib.Conversation, turn: int
             ) -> list[int]:
    """Token ids of one turn, not of what came before."""
    text = conversation.turns[turn]
    if turn == 0:
      return self.tokenizer.encode(text)
    return self.tokenizer.encode(
        prompts_lib.TURN_SEPARATOR + text, add_special_tokens=False)

  def fit(self, context: list[int], name: str) -> tuple[list[int], int]:
    """Cuts a context to the model's room; returns it and what was dropped.

    Raises:
      ValueError: if something would have to be dropped but must not be, or
        the context has no tokens.
    """
    if not context:
      raise ValueError(f"{name}: the prompt has no tokens, expected some text.")
    fitted, dropped = prompts_lib.fit(context, self.limit)
    if dropped and not self.truncate:
      raise ValueError(
          f"{name}: {len(context)} prompt tokens, with max_new_tokens="
          f"{self.max_new_tokens} at most {self.limit} fit into the model's"
          f" {self.max_positions} positions; shorten it, or pass --truncate to"
          " keep the last ones.")
    return fitted, dropped


@dataclasses.dataclass(frozen=True)
class Pass:
  """What a pass gave.

  Attributes:
    lap: time and tokens.
    counts: of each batch and turn.
    rows: emitted ids by conversation and turn, in the order of the batches.
    prompts: what each of the rows continued.
    dropped: prompt tokens left out for lack of room.
  """

  lap: clock_lib.Lap
  counts: list[counts_lib.Counts]
  rows: list[list[int]]
  prompts: list[list[int]]
  dropped: int

  @property
  def stats(self) -> stats_lib.Stats:
    return stats_lib.stats(*self.counts)


def first_turns(work: Workload
                ) -> Iterator[tuple[decoding.Prompts, jax.Array]]:
  """Prompts and keys of each batch, as `run` makes them for first turns."""
  for group, keys in _keyed_groups(work):
    rows = [work.fit(work.encode(c, 0), c.name)[0] for c in group]
    yield prompts_lib.batch(rows, work.limit), keys


def _keyed_groups(work):
  """The conversations of each batch, and their rows' keys."""
  first_row = 0
  for group in work.groups():
    yield group, keys_lib.row_keys(work.seed, len(group), first_row)
    first_row += len(group)


def run(clock: clock_lib.Clock, system: system_lib.System,
        params: types.Params, work: Workload) -> Pass:
  """Decodes the whole workload once, request after request.

  Drafters that learn across requests start knowing nothing.

  Raises:
    ValueError: for a context that does not fit, see `Workload.fit`.
    FloatingPointError: if the target fails.
  """
  lap, counts, rows, prompts, dropped = clock_lib.Lap(), [], [], [], 0
  clock.forget()
  for group, keys in _keyed_groups(work):
    contexts = [[] for _ in group]
    for turn in range(len(group[0].turns)):
      for i, conversation in enumerate(group):
        contexts[i], cut = work.fit(
            contexts[i] + work.encode(conversation, turn), conversation.name)
        dropped += cut
      decoded, taken = clock.decode(
          system, params, prompts_lib.batch(contexts, work.limit), keys,
          work.max_new_tokens)
      _check(decoded, group)
      answers = decoding.emitted(decoded)
      lap, counts = lap + taken, counts + [decoded.counts]
      rows, prompts = rows + answers, prompts + [list(c) for c in contexts]
      end = system.end_of_text
      contexts = [context + [token for token in answer if token != end]
                  for context, answer in zip(contexts, answers)]
  return Pass(lap, counts, rows, prompts, dropped)


def _check(decoded, group):
  failed = np.asarray(decoded.status) == types.Status.NAN_LOGITS
  if failed.any():
    raise FloatingPointError(
        f"{group[int(failed.argmax())].name}: the target's logits are NaN.")
