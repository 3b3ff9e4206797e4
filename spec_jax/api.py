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
                 max_new_tokens: int, vocab_size: int | None = None
                 ) -> decoding.Prompts:
  """Token lists as a right-padded batch.

  Args:
    prompts: lists of token ids.
    max_positions: tokens that the model has room for.
    max_new_tokens: budget of each row.
    vocab_size: ids are below; None leaves that unchecked.

  Raises:
    ValueError: no prompt, an empty prompt, no new tokens asked for, what is no
      token id, or a prompt that does not fit together with its new tokens.
  """
  if not len(prompts):
    raise ValueError("no prompts were given, expected at least one.")
  if not _is_whole(max_new_tokens) or max_new_tokens < 1:
    raise ValueError(
        f"max_new_tokens={max_new_tokens!r}, expected >= 1 and whole.")
  rows = [_token_ids(prompt, row, vocab_size)
          for row, prompt in enumerate(prompts)]
  for row, prompt in enumerate(rows):
    if len(prompt) + max_new_tokens > max_positions:
      raise ValueError(
          f"prompt {row} has {len(prompt)} tokens, with"
          f" max_new_tokens={max_new_tokens} that is"
          f" {len(prompt) + max_new_tokens}, over the model's"
          f" {max_positions} positions.")
  tokens = np.zeros((len(rows), max(map(len, rows))), np.int32)
  for row, prompt in enumerate(rows):
    tokens[row, :len(prompt)] = prompt
  return decoding.Prompts(
      jnp.asarray(tokens), jnp.asarray([len(p) for p in rows], jnp.int32))


def _is_whole(value) -> bool:
  return (isinstance(value, int | np.integer)
          and not isinstance(value, bool))


def _token_ids(prompt, row, vocab_size) -> np.ndarray:
  """One prompt as an array; raises ValueError for what is no token id."""
  if isinstance(prompt, str) or not hasattr(prompt, "__len__"):
    raise ValueError(f"prompt {row} is {prompt!r}, expected a list of token"
                     " ids.")
  if not len(prompt):
    raise ValueError(f"prompt {row} is empty, expected at least one token.")
  most = np.iinfo(np.int32).max if vocab_size is None else vocab_size - 1
  for place, token in enumerate(np.asarray(prompt).tolist()
                                if hasattr(prompt, "dtype") else prompt):
    if not _is_whole(token) or not 0 <= token <= most:
      raise ValueError(
          f"prompt {row} has {token!r} as token {place}, expected a whole"
          f" number from 0 to {most}: an id of the target's vocabulary.")
  return np.asarray(prompt, np.int32)


def _encoded(prompts, tokenizer):
  """Texts as token ids; lists of ids stay. Raises ValueError for a mixture."""
  if isinstance(prompts, str):
    raise ValueError(f"prompts={prompts!r} is one text, expected a list of"
                     " texts.")
  texts = [isinstance(prompt, str) for prompt in prompts]
  if not any(texts):
    return prompts
  if not all(texts):
    raise ValueError(
        f"prompt {texts.index(True)} is a text, prompt {texts.index(False)} is"
        " not; expected texts only or lists of token ids only.")
  if tokenizer is None:
    raise ValueError("prompts are texts, but neither the system nor"
                     " the call has a tokenizer.")
  return [tokenizer.encode(text) for text in prompts]


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
    ValueError: see `make_prompts` and `Sampling`; a text in place of a list of
      texts, texts among token ids, texts without a tokenizer.
  """
  tokenizer = tokenizer or system.tokenizer
  prompts = _encoded(prompts, tokenizer)
  sampling = sampling or sampling_lib.Sampling(temperature=temperature)
  batch = make_prompts(
      prompts, system.target.config.max_positions, max_new_tokens,
      system.target.vocab_size)
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
