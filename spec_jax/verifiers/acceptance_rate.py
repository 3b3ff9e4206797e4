"""How often a rule keeps a draft, for any vocabulary.

A closed form where one is simple, else enumeration where it fits, else Monte
Carlo with its standard error.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from spec_jax.core import sampling
from spec_jax.verifiers import enumeration
from spec_jax.verifiers import race as race_lib
from spec_jax.verifiers import rules

_BATCH = 64  # Laws held at once while sampling: bounds memory at V = 150k.


@dataclasses.dataclass(frozen=True)
class Acceptance:
  """The probability that the emitted token is among the drafts.

  Attributes:
    value: the probability, or its estimate.
    standard_error: of the estimate; 0 if the value is exact.
    method: "closed_form", "enumeration" or "monte_carlo".
  """

  value: float
  standard_error: float
  method: str


def acceptance(name: str, p, q, num_drafts: int, draw: str, *,
               num_samples: int = 4096, seed: int = 0) -> Acceptance:
  """Acceptance of a rule at one position.

  Args:
    name: of the rule, see `verifiers.names()`.
    p: `[V]`, the target's law.
    q: `[V]`, the draft law.
    num_drafts: K.
    draw: see `exact_output_law`; "coupled" too, for one draft.
    num_samples: tuples of drafts drawn if it comes to Monte Carlo. Given the
      tuple the rule's law is summed, not sampled.
    seed: of the Monte Carlo draws.

  Raises:
    UnknownName: if there is no such rule.
    ValueError: see `exact_output_law`.

  >>> found = acceptance("mdsd_greedy", [.5, .3, .2], [.2, .3, .5], 2, "greedy")
  >>> round(found.value, 6), found.standard_error, found.method
  (0.9, 0.0, 'closed_form')
  """
  p, q = enumeration.check_arguments(name, p, q, num_drafts, draw)
  if num_samples < 2:
    raise ValueError(f"num_samples={num_samples}, expected at least 2.")
  value = _closed_form(name, p, q, num_drafts, draw)
  if value is not None:
    return Acceptance(float(value), 0.0, "closed_form")
  if enumeration.is_enumerable(p.size, num_drafts) and draw != "coupled":
    value = enumeration.exact_acceptance(name, p, q, num_drafts, draw)
    return Acceptance(value, 0.0, "enumeration")
  return monte_carlo(name, p, q, num_drafts, draw, num_samples, seed)


def monte_carlo(name: str, p, q, num_drafts: int, draw: str,
                num_samples: int, seed: int) -> Acceptance:
  """The estimate alone; arguments as `acceptance`.

  Raises:
    ValueError: for a draw that is not random or is coupled to the target.
  """
  p, q = enumeration.check_arguments(name, p, q, num_drafts, draw)
  if draw not in _SAMPLERS:
    raise ValueError(f"draw={draw!r} cannot be sampled on its own, expected"
                     f" one of {tuple(_SAMPLERS)}.")
  with jax.enable_x64(True):
    keys = jax.random.split(jax.random.key(seed), num_samples)
    kept = np.asarray(_kept_mass(
        rules.get(name), draw, num_drafts, jnp.asarray(p), jnp.asarray(q),
        keys))
  error = kept.std(ddof=1) / np.sqrt(num_samples)
  return Acceptance(float(kept.mean()), float(error), "monte_carlo")


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _kept_mass(rule, draw, num_drafts, p, q, keys):
  """Mass on the drafts, given the drafts: `f64[M]` for `key[M]`."""

  def one(key):
    drafts = _SAMPLERS[draw](key, q, num_drafts)
    law = rule.law(p, q, drafts, jnp.ones(drafts.shape, bool))
    # Through a set of tokens, so that a repeated draft counts once.
    return jnp.zeros_like(law).at[drafts].set(law[drafts]).sum()

  return jax.lax.map(one, keys, batch_size=_BATCH)


def _draw_iid(key, q, num_drafts):
  keys = jax.random.split(key, num_drafts)
  return jax.vmap(sampling.draw, (0, None))(keys, q)


def _draw_independent(key, q, num_drafts):
  return jax.vmap(sampling.draw)(jax.random.split(key, num_drafts), q)


def _draw_distinct(pick, key, q, num_drafts):
  return pick(q, sampling.clocks(key, q.size, q.dtype), num_drafts)[0]


_SAMPLERS = {
    "iid": _draw_iid,
    "independent": _draw_independent,
    "without_replacement": functools.partial(
        _draw_distinct, sampling.first_k_to_ring),
    "greedy": functools.partial(
        _draw_distinct, sampling.top_and_first_to_ring),
}


def _closed_form(name, p, q, num_drafts, draw):
  """The value, or None where no simple form is known."""
  is_single = num_drafts == 1 and draw in ("iid", "without_replacement")
  if is_single and name in _RATIO_RULES:
    return np.minimum(p, q).sum()
  if name == "recursive" and draw == "iid":
    return _recursive(p, q, num_drafts)
  if name == "k_seq":
    return _k_seq(p, q, num_drafts)
  if name in ("mdsd_greedy", "spechub"):
    return _greedy_drafts(p, q, num_drafts)
  if name == "race_transport" and draw == "iid":
    return _race_transport(p, q, num_drafts)
  if name == "greedy":
    p = np.eye(p.size)[np.argmax(p)]
  elif name != "sample_and_match":
    return None
  if draw == "iid" or is_single:
    return (p * (1 - (1 - q) ** num_drafts)).sum()
  if draw in ("top_k", "deterministic"):
    tuples, _ = enumeration.draft_tuples(q, num_drafts, draw)
    return p[tuples[0]].sum()
  if draw == "coupled" and num_drafts == 1 and name == "sample_and_match":
    return _coupled(p, q)
  return None


_RATIO_RULES = ("rejection", "recursive", "recursive_without_replacement")


def _recursive(p, q, num_drafts):
  """`1 - prod_j (1 - a_j)`, `a_j = sum min(p_j, q)` (MCSD, Sec. 3.2)."""
  missed = 1.0
  for _ in range(num_drafts):
    residual = np.maximum(p - q, 0)
    left = residual.sum()
    missed *= left
    if left == 0:
      break
    p = residual / left
  return 1 - missed


def _k_seq(p, q, num_drafts):
  """`1 - (1 - beta)^K` at the rule's own rho (SpecTr, Algorithm 2)."""
  with jax.enable_x64(True):
    rho = float(rules.get("k_seq").division_factor(
        jnp.asarray(p), jnp.asarray(q), jnp.ones((num_drafts,), bool)))
  return 1 - (1 - np.minimum(q, p / rho).sum()) ** num_drafts


def _greedy_drafts(p, q, num_drafts):
  """`p(top) + sum over the rest of min(p, q')` (Hu et al. 2025, Sec. 5.1)."""
  order = np.argsort(-q, kind="stable")
  p, q = p[order], q[order]
  top = num_drafts - 1
  return p[:top].sum() + np.minimum(p[top:], q[top:] / q[top:].sum()).sum()


def _race_transport(p, q, num_drafts):
  """`sum min(p, E)`, E the law of the winner (Khisti et al. 2024, Sec. 3).

  With more tokens than nodes of the race the residual may, some 1e-5 of the
  time, emit a draft that lost; that is not counted.
  """
  with jax.enable_x64(True):
    is_draft = jnp.ones((num_drafts,), bool)
    race = race_lib.solve(jnp.asarray(p), jnp.asarray(q), is_draft)
    winner = np.asarray(race_lib.winner_law(race, jnp.asarray(q), is_draft))
  return np.minimum(p, winner).sum()


def _coupled(p, q):
  """`sum_j 1 / sum_i max(p_i/p_j, q_i/q_j)` (Daliri et al. 2024, Sec. 3)."""
  # Above j in the order of p/q the first ratio is the larger, below the other.
  ratio = np.divide(p, q, out=np.full_like(p, np.inf), where=q > 0)
  order = np.argsort(ratio)
  p, q = p[order], q[order]
  upper_p = np.cumsum(p[::-1])[::-1] - p
  lower_q = np.cumsum(q)
  both = (p > 0) & (q > 0)
  p, q, upper_p, lower_q = (a[both] for a in (p, q, upper_p, lower_q))
  return (1 / (upper_p / p + lower_q / q)).sum()
