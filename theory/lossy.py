"""What inexact rules emit: the price of a higher acceptance.

DistillSpec's lenience (Zhou et al. 2024, arXiv 2310.08461) and Medusa's
typical acceptance (Cai et al. 2024, arXiv 2401.10774); NumPy, float64.
"""

import numpy as np

from theory import checks

_INFLATE = {
    "lin": lambda p, eps: p / eps,
    "sq": lambda p, eps: p / eps ** 2,
    "exp": lambda p, eps: p ** eps,
}


def lenient(p, q, eps: float, kind: str = "lin"
            ) -> tuple[np.ndarray, np.ndarray]:
  """Acceptance and emitted law when `min(1, f(p, eps) / q)` is the test.

  A rejected draft is replaced from the usual residual `norm((p - q)_+)`; with
  `eps = 1` the rule is exact.

  Args:
    p: `[..., V]`.
    q: `[..., V]`.
    eps: lenience in (0, 1].
    kind: "lin" `p / eps`, "sq" `p / eps^2` or "exp" `p^eps`.

  Returns:
    Acceptance `f64[...]` and law `f64[..., V]`.

  Raises:
    ValueError: if either is no law, or for an unknown kind or eps.

  >>> accept, law = lenient([.5, .3, .2], [.2, .3, .5], .5)
  >>> round(float(accept), 6), law.round(6)
  (0.9, array([0.3, 0.3, 0.4]))
  """
  p, q = checks.laws(p, q)
  if kind not in _INFLATE:
    raise ValueError(f"kind={kind!r}, expected one of {tuple(_INFLATE)}.")
  if not 0 < eps <= 1:
    raise ValueError(f"eps={eps}, expected in (0, 1].")
  kept = np.minimum(q, _INFLATE[kind](p, eps))
  residual = np.maximum(p - q, 0)
  mass = residual.sum(-1, keepdims=True)
  residual = np.divide(residual, mass, out=p.copy(), where=mass > 0)
  accept = kept.sum(-1)
  return accept, kept + (1 - accept[..., None]) * residual


def typical_threshold(p, eps: float, delta: float) -> np.ndarray:
  """Tokens above `min(eps, delta exp(-H(p)))` pass; H in nats. `f64[...]`.

  Raises:
    ValueError: if p is no law, or eps or delta is not above 0.

  >>> round(float(typical_threshold([.25] * 4, .3, .09)), 6)
  0.0225
  """
  p = checks.law("p", p)
  eps, delta = checks.positive("eps", eps), checks.positive("delta", delta)
  log_p = np.log(p, out=np.zeros_like(p), where=p > 0)
  return np.minimum(eps, delta * np.exp((p * log_p).sum(-1)))
