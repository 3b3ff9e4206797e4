"""Where laws p and q come from: files, parametric families, model pairs.

A source yields chunks, each a pure function of its number, so that a program
that streams over them holds one at a time and can go on where it stopped.
"""

from collections.abc import Callable
from collections.abc import Sequence
import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

import spec_jax
from spec_jax.core import registry
from spec_jax.evaluation import prompts as prompts_lib

_CHUNK = 16  # Positions at once; bounds memory at V = 128k.


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
  """A stream of positions.

  Attributes:
    label: for tables.
    key: what decides the numbers; JSON.
    num_chunks: how many.
    read: chunk -> `f64[n, V]` p and q at temperature 1, or logits.
    is_logits: whether `read` gives logits (and temperatures make sense).
  """

  label: str
  key: dict
  num_chunks: int
  read: Callable[[int], tuple[np.ndarray, np.ndarray]]
  is_logits: bool

  def laws(self, chunk: int, temperature: float
           ) -> tuple[np.ndarray, np.ndarray]:
    """Target and draft laws of a chunk, `f64[n, V]` each."""
    p, q = self.read(chunk)
    if not self.is_logits:
      return p, q
    return _softmax(p / temperature), _softmax(q / temperature)


def _softmax(logits):
  weights = np.exp(logits - logits.max(-1, keepdims=True))
  return weights / weights.sum(-1, keepdims=True)


def read_laws(path: str) -> np.ndarray:
  """`f64[n, V]` from .npy or .json; a single law is one row.

  Raises:
    ValueError: if the file cannot be read as laws.
  """
  try:
    if pathlib.Path(path).suffix == ".npy":
      laws = np.load(path, allow_pickle=False)
    else:
      laws = np.asarray(json.loads(pathlib.Path(path).read_text()), float)
    laws = np.atleast_2d(np.asarray(laws, np.float64))
  except (OSError, ValueError, TypeError) as error:
    raise ValueError(f"{path}: cannot be read as laws: {error}; expected .npy"
                     " or .json of shape [V] or [n, V].") from error
  if laws.ndim != 2 or not laws.size:
    raise ValueError(f"{path}: shape {laws.shape}, expected [V] or [n, V].")
  return laws


def from_files(p_path: str, q_path: str) -> Source:
  """Laws as they stand in two files; raises ValueError."""
  p, q = read_laws(p_path), read_laws(q_path)
  if p.shape != q.shape:
    raise ValueError(f"{p_path} has shape {p.shape} and {q_path} {q.shape},"
                     " expected the same positions and vocabulary.")
  chunks = -(-len(p) // _CHUNK)
  rows = lambda i: slice(i * _CHUNK, (i + 1) * _CHUNK)
  digest = float(np.abs(p).sum()), float((p * q).sum()), list(p.shape)
  return Source(pathlib.Path(p_path).stem, {"files": [p_path, q_path],
                                            "digest": digest},
                chunks, lambda i: (p[rows(i)], q[rows(i)]), False)


def _log_normal(rng, shape):
  """Logits of p, and of q with half of its variance shared with p."""
  p = 2 * rng.standard_normal(shape)
  return p, (p + 2 * rng.standard_normal(shape)) / np.sqrt(2)


def _zipf(rng, shape):
  """The law 1/rank; the draft ranks the tokens with noise."""
  ranks = np.log1p(rng.permuted(
      np.broadcast_to(np.arange(shape[-1], dtype=float), shape), axis=-1))
  return -1.1 * ranks, -1.1 * ranks + 0.8 * rng.standard_normal(shape)


def _dirichlet(rng, shape):
  """Sparse laws, q a mixture of p with another."""
  draw = lambda: rng.gamma(0.05, size=shape) + 1e-12
  p, other = draw(), draw()
  q = 0.6 * p / p.sum(-1, keepdims=True) + 0.4 * other / other.sum(
      -1, keepdims=True)
  return np.log(p), np.log(q)


FAMILIES = {"log_normal": _log_normal, "zipf": _zipf, "dirichlet": _dirichlet}


def from_family(name: str, vocab_size: int, num_positions: int, seed: int
                ) -> Source:
  """Random laws; raises `registry.UnknownName`."""
  if name not in FAMILIES:
    raise registry.UnknownName(registry.unknown("family", name, FAMILIES))

  def read(chunk):
    rng = np.random.default_rng((seed, chunk))
    size = min(_CHUNK, num_positions - chunk * _CHUNK)
    return FAMILIES[name](rng, (size, vocab_size))

  key = {"family": name, "vocab_size": vocab_size, "seed": seed,
         "num_positions": num_positions}
  return Source(f"{name}, V={vocab_size}", key, -(-num_positions // _CHUNK),
                read, True)


def from_models(bundle: spec_jax.Bundle, draft: str,
                conversations: Sequence[prompts_lib.Conversation], label: str,
                num_positions: int, fingerprint: str) -> Source:
  """Laws of a model pair along given text, positions evenly spread.

  Args:
    bundle: the models and their tokenizer.
    draft: name of the draft model in it.
    conversations: their first turns are the text.
    label: for tables.
    num_positions: in total, as far as the text has them.
    fingerprint: tells the models apart.

  Raises:
    ValueError: no such draft model, or a text without a position to predict.
  """
  if draft not in bundle.models:
    raise ValueError(f"{bundle.name} has no draft model {draft!r}, expected"
                     f" one of {sorted(bundle.models) or 'none'}.")
  score = jax.jit(lambda model, params, tokens: model.score(
      params, tokens).logits[0], static_argnums=0)
  limit = bundle.target.config.max_positions
  share = -(-num_positions // len(conversations))

  def read(chunk):
    tokens = bundle.tokenizer.encode(conversations[chunk].turns[0])[:limit]
    if len(tokens) < 2:
      raise ValueError(f"{label}: text {conversations[chunk].name} has"
                       f" {len(tokens)} tokens, expected at least 2.")
    at = np.unique(np.linspace(0, len(tokens) - 1, share).astype(int))
    # Padded to few lengths, as every length is a compilation.
    padded = np.pad(tokens, (0, -len(tokens) % 64))[:limit]
    rows = jnp.asarray([padded], jnp.int32)
    both = (score(bundle.target, bundle.params["target"], rows),
            score(bundle.models[draft], bundle.params[draft], rows))
    return tuple(np.asarray(logits, np.float64)[at] for logits in both)

  key = {"models": fingerprint, "draft": draft, "num_positions": num_positions,
         "prompts": prompts_lib.digest(conversations)}
  return Source(label, key, len(conversations), read, True)
