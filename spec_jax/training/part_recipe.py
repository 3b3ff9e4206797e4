"""What the recipes of drafters that are judged by depth have in common."""

from collections.abc import Mapping
import dataclasses
from typing import Any

from spec_jax.training import optimizers


@dataclasses.dataclass(frozen=True)
class PartRecipe:
  """How a part beside a frozen target is trained.

  Attributes:
    hyper: of the part's model, see its `from_hyper`; what a bundle keeps.
    num_steps: optimiser steps.
    batch: windows per step, half of them the target's own text.
    length: tokens per window.
    own_windows: windows that the target writes.
    optimizer: by `optimizers.BY_NAME`.
    learning_rate: peak.
    decay: fraction of the steps over which the rate falls to 0; "eagle" and
      "cosine" let it fall over all that follow the warm-up.
    judged_windows: of held-out text, continued by the target.
    judged_depth: drafts per prefix of them.
    dtype: of the training's forward and backward passes.
  """

  hyper: Mapping[str, Any] = dataclasses.field(
      default_factory=dict, hash=False)
  num_steps: int = 500
  batch: int = 16
  length: int = 256
  own_windows: int = 512
  optimizer: str = "adam"
  learning_rate: float = 2e-3
  decay: float = 0.7
  judged_windows: int = 16
  judged_depth: int = 4
  dtype: str = "bfloat16"

  def __post_init__(self):
    optimizers.check(self.optimizer)
