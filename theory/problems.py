"""What the two laws and the drafts of one position must satisfy.

The formulas run on NumPy, in float64, and on JAX arrays, also inside `jit`,
in the widest float that JAX is set to.
"""

import jax
import jax.numpy as jnp
import numpy as np

from theory import checks

# "independent": draft j comes from a law q_j of its own.
DRAWS = ("iid", "without_replacement", "greedy", "independent")
# Laws may come from a float32 softmax; they are renormalised.
SUM_TOLERANCE = 1e-4


def checked(p, q, num_drafts: int, draw: str):
  """The namespace to compute in and both laws, normalised.

  Inside `jit` the values of a law cannot be seen; only shapes are checked.

  Args:
    p: `[..., V]`, the target's law.
    q: `[..., V]`, the draft law; `[..., K, V]` for "independent" drafts.
    num_drafts: K, at least 1.
    draw: one of `DRAWS`.

  Returns:
    `numpy` or `jax.numpy`, and p and q as its float arrays.

  Raises:
    ValueError: for an unknown draw, shapes that do not fit, numbers that are
      no law, or more distinct drafts than q has tokens.

  >>> _, p, q = checked([.25, .75], [.5, .5], 1, "iid")
  >>> p.tolist(), q.tolist()
  ([0.25, 0.75], [0.5, 0.5])
  """
  if draw not in DRAWS:
    raise ValueError(f"draw={draw!r}, expected one of {DRAWS}.")
  num_drafts = checks.count("num_drafts", num_drafts, 1)
  is_jax = isinstance(p, jax.Array) or isinstance(q, jax.Array)
  xp, dtype = (jnp, jnp.result_type(float)) if is_jax else (np, np.float64)
  p, q = xp.asarray(p, dtype), xp.asarray(q, dtype)
  _check_shapes(p.shape, q.shape, num_drafts, draw)
  for name, law in (("p", p), ("q", q)):
    if not isinstance(law, jax.core.Tracer):
      checks.law(name, np.asarray(law), tolerance=SUM_TOLERANCE)
  if (draw in ("without_replacement", "greedy")
      and not isinstance(q, jax.core.Tracer)):
    _check_support(np.asarray(q), num_drafts, draw)
  return xp, p / p.sum(-1, keepdims=True), q / q.sum(-1, keepdims=True)


def _check_shapes(p, q, num_drafts, draw):
  if not p or not p[-1]:
    raise ValueError(f"p has shape {p}, expected [..., V] with V at least 1.")
  expected = p
  if draw == "independent":
    expected = p[:-1] + (num_drafts, p[-1])
  if q != expected:
    raise ValueError(
        f"p has shape {p}, q {q}; expected q of shape {expected} for"
        f" num_drafts={num_drafts} drafts drawn {draw!r}.")


def _check_support(q, num_drafts, draw):
  support = (q > 0).sum(-1)
  if support.size and support.min() < num_drafts:
    raise ValueError(
        f"num_drafts={num_drafts} distinct drafts, drawn {draw!r}, but q has"
        f" only {support.min()} tokens of positive probability.")


def top_mask(xp, q, count: int):
  """`bool[..., V]`: the `count` most likely tokens that q can draw at all.

  Ties go to the lower index.

  Args:
    xp: `numpy` or `jax.numpy`.
    q: `[..., V]`, the draft law.
    count: how many, at most V.

  Returns:
    The mask; fewer tokens where fewer have positive probability.

  >>> top_mask(np, np.asarray([.2, .4, .4]), 1).tolist()
  [False, True, False]
  """
  tokens = xp.arange(q.shape[-1])
  mask = xp.zeros(q.shape, bool)
  for _ in range(count):
    # A maximum a token: for a handful of tokens cheaper than a sort.
    best = xp.argmax(xp.where(mask, -1, q), axis=-1)
    mask = mask | (best[..., None] == xp.broadcast_to(tokens, q.shape))
  return mask & (q > 0)
