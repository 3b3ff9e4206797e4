"""A feature net that normalises what it reads of its target, and its guesses.

What servers and trainers of EAGLE-3 have added to it: taps enter at one size
whatever the depth (vllm-project/speculators `norm_before_fc`, EAGLE-3.1's
`fc_norm`), and so does a guess that the next step reads (`norm_output`).
"""

import jax.numpy as jnp

from spec_jax.models import decoder
from spec_jax.models import feature_net

JOINT, EACH = "joint", "each"
_TAP_NORMS = (None, JOINT, EACH)


class NormedNet(feature_net.FeatureNet):
  """Norms before taps are mapped to one, and of what is handed on.

  Attributes:
    tap_norm: "joint", of all taps as one vector; "each", every tap by itself;
      None without.
    has_normed_output: whether a guess is what the head's norm makes of it.
  """

  tap_norm: str | None = None
  has_normed_output: bool = False

  def setup(self):
    super().setup()
    c = self.config
    if self.tap_norm not in _TAP_NORMS:
      raise ValueError(
          f"tap_norm={self.tap_norm!r}, expected one of {_TAP_NORMS}.")
    if not self.head_size or len(self.taps) < 2:
      raise ValueError(
          f"head_size={self.head_size}, taps={self.taps}: expected a head,"
          " whose norm guesses pass, and several taps.")
    if self.tap_norm == JOINT:
      self.taps_norm = decoder.Norm(c.norm, c.norm_eps)
    for name in self._norms():
      setattr(self, name, decoder.Norm(c.norm, c.norm_eps))

  def enter(self, features):
    known = [features[name].astype(self.dtype) for name in self.taps]
    if self.tap_norm == JOINT:
      known = jnp.split(
          self.taps_norm(jnp.concatenate(known, axis=-1)), len(known), axis=-1)
    elif self.tap_norm == EACH:
      known = [getattr(self, norm)(tap)
               for norm, tap in zip(self._norms(), known, strict=True)]
    return super().enter(dict(zip(self.taps, known, strict=True)))

  def say(self, x, fused, features):
    del fused, features
    return {feature_net.HIDDEN:
            self.head_norm(x) if self.has_normed_output else x}

  def logits(self, x):
    return self.project(x if self.has_normed_output else self.head_norm(x))

  def _norms(self):
    """Of the taps one by one, in their order."""
    return [f"tap_{i}_norm" for i in range(len(self.taps))
            if self.tap_norm == EACH]
