"""What a rule emits and how often it keeps a draft: exactly, for small V.

Every tuple of drafts is listed with its probability and handed to the very
`rule.law` that decoding samples from, in float64. The sum over tuples is the
output law; nothing here restates a rule.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from spec_jax.core import compiling
from spec_jax.core import types
from spec_jax.verifiers import rules

# Entries of the table of laws, `[V^K, V]`: 32 MiB in float64.
MAX_ENTRIES = 1 << 22
# Tables up to this size keep one shape for all q of a vocabulary, whatever its
# support: to compile anew would cost more than the rows that cannot occur.
_FIXED_SHAPE = 1 << 15
# Laws may come from a float32 softmax; they are renormalised in float64.
_SUM_TOLERANCE = 1e-6
# Draft i may also come from a law q_i of its own.
DRAWS = types.DRAWS + ("independent",)


def exact_output_law(name: str, p, q, num_drafts: int, draw: str,
                     dtype=np.float64) -> np.ndarray:
  """The law of the emitted token, the drafts summed out.

  Args:
    name: of the rule, see `verifiers.names()`.
    p: `[V]`, the target's law.
    q: `[V]`, the draft law; `[K, V]` for "independent" drafts.
    num_drafts: K, drafts at the one position.
    draw: how the drafts are drawn from q: "iid", "without_replacement" (one
      after the other), "greedy" (the K - 1 most likely tokens, then one draw
      from the rest), "independent" (draft i from `q[i]`), "top_k" or
      "deterministic" (both: the K most likely tokens; the rule is not shown
      q). Ties go to the lower index.
    dtype: of the evaluation of the rule; float32 shows the rounding of the
      run-time path.

  Returns:
    `f64[V]`; equals p for an exact rule.

  Raises:
    UnknownName: if there is no such rule.
    ValueError: for inputs that are no laws, too many drafts, a draw that the
      rule is not valid for, or a problem too large to enumerate.

  >>> exact_output_law(
  ...     "recursive", [.5, .3, .2], [.2, .3, .5], 2, "iid").round(6).tolist()
  [0.5, 0.3, 0.2]
  """
  weights, _, laws = _enumerate(name, p, q, num_drafts, draw, dtype)
  return weights @ laws


def exact_acceptance(name: str, p, q, num_drafts: int, draw: str,
                     dtype=np.float64) -> float:
  """The probability that the emitted token is among the drafts.

  Arguments and errors as `exact_output_law`.

  >>> round(exact_acceptance(
  ...     "k_seq", [.5, .3, .2], [.2, .3, .5], 2, "iid"), 6)
  0.791355
  """
  weights, tuples, laws = _enumerate(name, p, q, num_drafts, draw, dtype)
  is_draft = np.zeros(laws.shape, bool)
  np.put_along_axis(is_draft, tuples, True, axis=1)
  return float(weights @ (laws * is_draft).sum(1))


def is_enumerable(vocab_size: int, num_drafts: int) -> bool:
  """Whether all tuples of drafts fit into `MAX_ENTRIES`."""
  return vocab_size ** (num_drafts + 1) <= MAX_ENTRIES


def check_arguments(name: str, p, q, num_drafts: int, draw: str
                    ) -> tuple[np.ndarray, np.ndarray]:
  """Both laws as `f64[V]`; raises if they, or the rule, cannot be used."""
  rule = rules.get(name)
  if int(num_drafts) != num_drafts or num_drafts < 1:
    raise ValueError(
        f"num_drafts={num_drafts}, expected an integer of at least 1.")
  if draw not in DRAWS:
    raise ValueError(f"draw={draw!r}, expected one of {DRAWS}.")
  p = _as_law("p", p)
  q = (_as_laws("q", q, num_drafts) if draw == "independent"
       else _as_law("q", q))
  if p.size != q.shape[-1]:
    raise ValueError(
        f"p has {p.size} tokens and q has {q.shape[-1]}; expected one"
        " vocabulary.")
  if draw not in rule.draws:
    raise ValueError(
        f"rule {name!r} is not valid for drafts drawn {draw!r}; expected one"
        f" of {rule.draws}.")
  if rule.max_drafts is not None and num_drafts > rule.max_drafts:
    raise ValueError(
        f"num_drafts={num_drafts}, rule {name!r} takes at most"
        f" {rule.max_drafts}.")
  support = int((q > 0).sum())
  if draw not in ("iid", "coupled", "independent") and num_drafts > support:
    raise ValueError(
        f"num_drafts={num_drafts} distinct drafts, drawn {draw!r}, but q has"
        f" only {support} tokens of positive probability.")
  return p, q


def draft_tuples(q: np.ndarray, num_drafts: int, draw: str
                 ) -> tuple[np.ndarray, np.ndarray]:
  """All tuples of drafts that can occur.

  Args:
    q: `f64[V]`, or `f64[K, V]` for "independent" drafts.
    num_drafts: K.
    draw: any of `DRAWS` but "coupled".

  Returns:
    `i32[M, K]` tuples in draw order and `f64[M]` probabilities, summing to 1.

  Raises:
    ValueError: for coupled drafts.
  """
  if draw == "coupled":
    raise ValueError(
        "draw='coupled' takes the drafts from the noise of the emitted token"
        " itself, so no sum over drafts gives their joint law; expected one"
        f" of {tuple(d for d in DRAWS if d != 'coupled')}.")
  if draw in ("top_k", "deterministic"):
    order = np.argsort(-q, kind="stable")[:num_drafts]
    return order[None].astype(np.int32), np.ones(1)
  if draw == "greedy":
    return _greedy_tuples(q, num_drafts)
  tuples = np.asarray(list(itertools.product(
      range(q.shape[-1]), repeat=num_drafts)), np.int32)
  weights = _WEIGHTS[draw](q, tuples)
  return tuples[weights > 0], weights[weights > 0]


def padded_tuples(q: np.ndarray, num_drafts: int, draw: str
                  ) -> tuple[np.ndarray, np.ndarray]:
  """`draft_tuples`, of one shape for all q of a vocabulary if that is small.

  What is added repeats the last tuple with probability 0.
  """
  tuples, weights = draft_tuples(q, num_drafts, draw)
  size = q.shape[-1] ** (1 if draw == "greedy" else num_drafts)
  if (draw in _WEIGHTS or draw == "greedy") and size <= _FIXED_SHAPE:
    extra = size - len(tuples)
    tuples = np.pad(tuples, ((0, extra), (0, 0)), mode="edge")
    weights = np.pad(weights, (0, extra))
  return tuples, weights


def _greedy_tuples(q, num_drafts):
  order = np.argsort(-q, kind="stable").astype(np.int32)
  top, rest = order[:num_drafts - 1], order[num_drafts - 1:]
  rest = rest[q[rest] > 0]
  tops = np.broadcast_to(top, (len(rest), len(top)))
  return np.column_stack([tops, rest]), q[rest] / q[rest].sum()


def _iid_weights(q, tuples):
  return q[tuples].prod(1)


def _independent_weights(q, tuples):
  return q[np.arange(len(q)), tuples].prod(1)


def _successive_weights(q, tuples):
  left = np.broadcast_to(q, (len(tuples), q.size)).copy()
  rows = np.arange(len(tuples))
  weights = np.ones(len(tuples))
  for token in tuples.T:
    total = left.sum(1)  # Not 1 - sum: that would cancel for a peaked q.
    weights = weights * np.divide(
        left[rows, token], total, out=np.zeros_like(total), where=total > 0)
    left[rows, token] = 0
  return weights


_WEIGHTS = {"iid": _iid_weights, "independent": _independent_weights,
            "without_replacement": _successive_weights}


def _enumerate(name, p, q, num_drafts, draw, dtype):
  """Probabilities `[M]`, tuples `[M, K]` and emitted laws `[M, V]`."""
  p, q = check_arguments(name, p, q, num_drafts, draw)
  if not is_enumerable(p.size, num_drafts):
    raise ValueError(
        f"V={p.size} tokens and K={num_drafts} drafts need"
        f" V^(K+1)={p.size ** (num_drafts + 1)} entries, expected at most"
        f" {MAX_ENTRIES}; use verifiers.acceptance, which has no such limit.")
  tuples, weights = padded_tuples(q, num_drafts, draw)
  # As in a `DraftTree`, deterministic drafts carry no law.
  shown_q = None if draw in ("top_k", "deterministic") else q.astype(dtype)
  with jax.enable_x64(True):
    laws = tuple_laws(rules.get(name), p.astype(dtype), shown_q, tuples)
    return weights, tuples, np.asarray(laws, np.float64)


@functools.partial(jax.jit, static_argnums=0, compiler_options=compiling.ONCE)
def tuple_laws(rule, p: jax.Array, q: jax.Array | None, tuples: jax.Array
               ) -> jax.Array:
  """The emitted law `f[M, V]` for each tuple of drafts `i32[M, K]`."""
  exists = jnp.ones(tuples.shape[1:], bool)
  return jax.vmap(lambda drafts: rule.law(p, q, drafts, exists))(tuples)


def _as_laws(name, value, num_drafts):
  laws = np.asarray(value, np.float64)
  if laws.ndim != 2 or len(laws) != num_drafts:
    raise ValueError(
        f"{name} has shape {laws.shape}, expected [K, V], one law for each of"
        f" num_drafts={num_drafts} independent drafts.")
  return np.stack([_as_law(f"{name}[{i}]", law) for i, law in enumerate(laws)])


def _as_law(name, value):
  law = np.asarray(value, np.float64)
  if law.ndim != 1 or not law.size:
    raise ValueError(f"{name} has shape {law.shape}, expected [V].")
  if not np.isfinite(law).all() or (law < 0).any():
    raise ValueError(
        f"{name} contains {law[~(law >= 0) | np.isinf(law)][0]}, expected"
        " finite probabilities >= 0.")
  if abs(law.sum() - 1) > _SUM_TOLERANCE:
    raise ValueError(
        f"{name} sums to {law.sum()}, expected 1 within {_SUM_TOLERANCE}.")
  return law / law.sum()
