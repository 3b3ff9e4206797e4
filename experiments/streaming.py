"""Text on the terminal as it is decoded, drafts that were kept in colour."""

from collections.abc import Callable
from collections.abc import Iterator
import sys
from typing import TextIO

import jax
import numpy as np

from experiments import common
from spec_jax.core import keys as keys_lib
from spec_jax.core import types
from spec_jax.evaluation import counts as stats_lib
from spec_jax.evaluation import prompts as prompts_lib

_ACCEPTED, _DIM, _PLAIN = "\033[32m", "\033[2m", "\033[0m"


class Colours:
  """Escape codes on a terminal, nothing elsewhere."""

  def __init__(self, out: TextIO):
    self._is_terminal = out.isatty()

  def accepted(self, text: str) -> str:
    return self._wrap(_ACCEPTED, text)

  def dim(self, text: str) -> str:
    return self._wrap(_DIM, text)

  def _wrap(self, code, text):
    return f"{code}{text}{_PLAIN}" if self._is_terminal and text else text


def show(choice: common.Choice, sampling, prompt: list[int],
         max_new_tokens: int, seed: int, limit: int,
         out: TextIO | None = None,
         on_piece: Callable[[], None] = lambda: None
         ) -> tuple[stats_lib.Stats, types.Status]:
  """Decodes one prompt and prints the text while it grows.

  Args:
    choice: the system.
    sampling: a `Sampling`.
    prompt: token ids, at most `limit`.
    max_new_tokens: budget.
    seed: of the draws.
    limit: tokens the model has room for beside the new ones.
    out: default: standard output.
    on_piece: called whenever a piece of text has been shown.

  Returns:
    The counts of the decode, and why it stopped.
  """
  out = out or sys.stdout
  colours, last = Colours(out), {}

  def arriving() -> Iterator[int]:
    shown = len(prompt)
    for decoded in choice.executor.stream(
        choice.system.with_sampling(sampling), choice.params,
        prompts_lib.batch([prompt], limit), keys_lib.row_keys(seed, 1),
        max_new_tokens, rounds_per_yield=1):
      length = int(decoded.length[0])
      last["counts"], last["status"] = decoded.counts, decoded.status
      for position in range(shown, length):
        # All tokens of a round but its last were drafts.
        last["is_accepted"] = position < length - 1
        yield int(np.asarray(decoded.tokens)[0, position])
      shown = length

  for piece in choice.system.tokenizer.stream(arriving()):
    out.write(colours.accepted(piece) if last["is_accepted"] else piece)
    out.flush()
    on_piece()
  out.write("\n")
  return (stats_lib.stats(jax.device_get(last["counts"])),
          types.Status(int(last["status"][0])))


def reason(status: types.Status) -> str:
  """Why a text stopped, in words."""
  return status.name.lower().replace("_", " ")


def check(name: str, num_tokens: int, status: types.Status) -> None:
  """Raises FloatingPointError for a text that the target could not finish."""
  if status == types.Status.NAN_LOGITS:
    raise FloatingPointError(
        f"{name}: the target's logits are NaN after {num_tokens} new tokens,"
        " expected numbers: its weights are broken, or --dtype is too narrow"
        " for them.")
