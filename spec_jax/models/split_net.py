"""A feature net whose guess and whose speech part at the end.

FSPAD (Gui et al. 2024, arXiv 2408.15562): a feature that is as near as possible
to the target's is not the one from which the output head says most. Partial
alignment lets the two differ.
"""

from spec_jax.models import decoder
from spec_jax.models import feature_net


class SplitNet(feature_net.FeatureNet):
  """Adds to the last layer's output one map for each of its two uses.

  Attributes:
    is_split: False for the same output in both.
  """

  is_split: bool = True

  def setup(self):
    super().setup()
    if self.is_split:
      width = (self.config.d_model,)
      self.guess = decoder.Linear(width, width, False, self.dtype)
      self.speech = decoder.Linear(width, width, False, self.dtype)

  def say(self, x, fused, features):
    if not self.is_split:
      return super().say(x, fused, features)
    return {feature_net.HIDDEN: x + self.guess(x),
            feature_net.SPOKEN: x + self.speech(x)}
