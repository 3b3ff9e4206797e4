"""Text in, text out: the public face of decoding."""

from collections.abc import Sequence
import dataclasses

import jax.numpy as jnp
import numpy as np

from spec_jax.core import keys as keys_lib
from spec_jax.core import sampling as sampling_lib
from spec_jax.core import system as system_lib
from spec_jax.core import types
from spec_jax.evaluation import counts as counts_lib
from spec_jax.executors import decoding
from spec_jax.executors import fused
from spec_jax.executors import hosted


@dataclasses.dataclass(frozen=True, eq=False)
class Generated:
  """What `generate` returns.

  Attributes:
    tokens: emitted ids of each row, the prompt left out.
    text: their text; None without a tokenizer.
    status: why each row stopped.
    stats: counts over all rows, see `evaluation.counts.Stats`.
  """

  tokens: list[list[int]]
  text: list[str] | None
  status: list[types.Status]
  stats: counts_lib.Stats


def make_prompts(prompts: Sequence[Sequence[int]], max_positions: int,
                 max_new_tokens: int) -> decoding.Prompts:
  """Token lists as a right-padded batch.

  Raises:
    ValueError: no prompt, an empty prompt, no new tokens asked for, or a
      prompt that does not fit together with its new tokens.
  """
  if not prompts:
    raise ValueError("no prompts were given, expected at least one.")
  if max_new_tokens < 1:
    raise ValueError(f"max_new_tokens={max_new_tokens}, expected >= 1.")
  for row, prompt in enumerate(prompts):
    if not len(prompt):
      raise ValueError(
          f"prompt {row} is empty, expected at least one token.")
    if len(prompt) + max_new_tokens > max_positions:
      raise ValueError(
          f"prompt {row} has {len(prompt)} tokens, with"
          f" max_new_tokens={max_new_tokens} that is"
          f" {len(prompt) + max_new_tokens}, over the model's"
          f" {max_positions} positions.")
  tokens = np.zeros((len(prompts), max(map(len, prompts))), np.int32)
  for row, prompt in enumerate(prompts):
    tokens[row, :len(prompt)] = prompt
  return decoding.Prompts(
      jnp.asarray(tokens), jnp.asarray([len(p) for p in prompts], jnp.int32))


def generate(
    system: system_lib.System,
    params: types.Params,
    prompts: Sequence[str] | Sequence[Sequence[int]],
    *,
    max_new_tokens: int = 128,
    temperature: float = 0.0,
    seed: int = 0,
    tokenizer=None,
    sampling: sampling_lib.Sampling | None = None,
    executor: fused.Fused | None = None,
) -> Generated:
  """Decodes a batch of prompts.

  Args:
    system: from `spec_jax.build`.
    params: from `spec_jax.build`.
    prompts: texts (a tokenizer is needed) or lists of token ids.
    max_new_tokens: budget of each row.
    temperature: 0 for greedy.
    seed: row r draws from `(seed, r, position)` only.
    tokenizer: needed for texts; default: the system's own.
    sampling: all sampling options; replaces `temperature`.
    executor: where the decode runs; default: a new `Fused()`, or `Hosted()`
      for a drafter with a store on the host. Pass one executor to several calls
      to let drafters with a memory learn from the earlier ones.

  Raises:
    ValueError: see `make_prompts` and `Sampling`.
  """
  tokenizer = tokenizer or system.tokenizer
  if prompts and isinstance(prompts[0], str):
    if tokenizer is None:
      raise ValueError("prompts are texts, but neither the system nor"
                       " the call has a tokenizer.")
    prompts = [tokenizer.encode(text) for text in prompts]
  sampling = sampling or sampling_lib.Sampling(temperature=temperature)
  batch = make_prompts(
      prompts, system.target.config.max_positions, max_new_tokens)
  decoded = (executor or hosted.executor_for(system)).run(
      system.with_sampling(sampling), params, batch,
      keys_lib.row_keys(seed, len(prompts)), max_new_tokens)
  return collect(decoded, tokenizer)


def collect(decoded: decoding.Decoded, tokenizer=None) -> Generated:
  """The emitted part of each row, as ids and text."""
  rows = decoding.emitted(decoded)
  text = None if tokenizer is None else [tokenizer.decode(r) for r in rows]
  return Generated(
      rows, text, [types.Status(int(s)) for s in np.asarray(decoded.status)],
      counts_lib.stats(decoded.counts))
