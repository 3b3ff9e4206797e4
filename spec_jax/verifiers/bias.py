"""How far what a rule emits is from the target: exactly.

>>> from spec_jax import verifiers
>>> p, q = [.5, .3, .2], [.2, .3, .5]
>>> round(verifiers.exact_bias("lenience", p, q, 1, "iid", epsilon=.5), 6)
0.2
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from spec_jax.core import registry
from spec_jax.verifiers import enumeration
from spec_jax.verifiers import rules
from spec_jax.verifiers.lossy import lenience
from spec_jax.verifiers.lossy import thresholds


def exact_bias(name: str, p, q, num_drafts: int, draw: str, **hyper) -> float:
  """Total variation between the law of the emitted token and p.

  Args:
    name: of the rule, see `verifiers.names()`.
    p: `[V]`, the target's law.
    q: `[V]`, the draft law.
    num_drafts: K, drafts at the one position.
    draw: see `exact_output_law`.
    **hyper: hyper-parameters of the rule other than its defaults.

  Returns:
    0 up to rounding for an exact rule. By a closed form for any V where there
    is one: a single draft or K iid drafts under a rule that looks at p alone,
    a single lenient draft, any drafts that are not random. Else by
    enumeration.

  Raises:
    UnknownName: if there is no such rule.
    ValueError: see `exact_output_law`; for a hyper-parameter that the rule
      does not have; for a vocabulary too large to enumerate.

  >>> round(exact_bias("typical", [.7, .2, .1], [.2, .3, .5], 1, "iid"), 6)
  0.5
  """
  p, _ = enumeration.check_arguments(name, p, q, num_drafts, draw)
  law = output_law(name, p, q, num_drafts, draw, **hyper)
  return float(np.abs(law - p).sum() / 2)


def output_law(name: str, p, q, num_drafts: int, draw: str, *,
               dtype=np.float64, enumerate_only: bool = False, **hyper
               ) -> np.ndarray:
  """The law of the emitted token `f64[V]`, drafts summed out.

  Args:
    name: of the rule; it and the others as in `exact_bias`.
    p: `[V]`.
    q: `[V]`.
    num_drafts: K.
    draw: how the drafts are drawn.
    dtype: of the evaluation of the rule.
    enumerate_only: leaves the closed forms out.
    **hyper: hyper-parameters of the rule.
  """
  rule = _configured(name, hyper)
  p, q = enumeration.check_arguments(name, p, q, num_drafts, draw)
  with jax.enable_x64(True):
    if not enumerate_only:
      law = _closed_form(rule, p, q, num_drafts, draw)
      if law is not None:
        return law
    is_random = draw not in thresholds.DETERMINISTIC
    if is_random and not enumeration.is_enumerable(p.size, num_drafts):
      raise ValueError(
          f"V={p.size} tokens and K={num_drafts} drafts drawn {draw!r} under"
          f" {name!r} have no closed form; expected at most"
          f" V^(K+1)={enumeration.MAX_ENTRIES} entries to enumerate.")
    tuples, weights = enumeration.padded_tuples(q, num_drafts, draw)
    laws = enumeration.tuple_laws(
        rule, p.astype(dtype), q.astype(dtype) if is_random else None, tuples)
    return weights @ np.asarray(laws, np.float64)


def _configured(name, hyper):
  rule = rules.get(name)
  known = [field.name for field in dataclasses.fields(rule)]
  for key in hyper:
    if key not in known:
      raise ValueError(registry.unknown(
          f"hyper-parameter of {name}", key, known or ("none",)))
  return dataclasses.replace(rule, **hyper)


def _closed_form(rule, p, q, num_drafts, draw):
  """`f64[V]`, or None where no simple form is known."""
  is_iid = draw == "iid" or num_drafts == 1
  if draw in thresholds.DETERMINISTIC or draw == "independent" or not is_iid:
    return None
  if isinstance(rule, thresholds.AcceptanceSet):
    return _likeliest_of_iid(rule, p, q, num_drafts)
  if isinstance(rule, lenience.Lenience):
    return _lenient(rule, p, q)
  return None


def _likeliest_of_iid(rule, p, q, num_drafts):
  """The likeliest of K draws in a set: by the levels of p, from the top."""
  passes = np.asarray(rule.accepts(jnp.asarray(p)))
  rest = np.asarray(rule.rest(jnp.asarray(p)))
  q = np.where(passes, q, 0)
  # Equally likely tokens share a level; the first drawn of them is emitted.
  _, level = np.unique(-p, return_inverse=True)
  mass = np.bincount(level, q)
  below = np.maximum(1 - np.cumsum(mass), 0)
  is_best = (below + mass) ** num_drafts - below ** num_drafts
  share = np.divide(q, mass[level], out=np.zeros_like(q), where=q > 0)
  law = share * is_best[level]
  return law + (1 - law.sum()) * rest


def _lenient(rule, p, q):
  """`min(q, f(p))`, and (p - q)+ in proportion for what was rejected."""
  kept = np.minimum(q, np.asarray(rule.inflated(jnp.asarray(p))))
  residual = np.maximum(p - q, 0)
  left = residual.sum()
  if left == 0:
    return kept
  return kept + (1 - kept.sum()) * residual / left
