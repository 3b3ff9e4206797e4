"""Trains draft heads in two stages, the second on the target's own text.

Wertheimer et al. 2024 (arXiv 2404.19124) and the published trainer: ordinary
text in long windows first; then shorter ones, as many more of them in a batch,
that the target goes on with itself, at temperature 1 among its 10 most likely
tokens. The loss is the same, see `training.token_heads`; batches come from
`data.Stages`.
"""

import dataclasses

from spec_jax.training import token_heads


@dataclasses.dataclass(frozen=True)
class StagedRecipe(token_heads.TokenHeadRecipe):
  """How heads are trained; batch, length and own_windows are the first's.

  Attributes:
    first_stage: share of the steps on ordinary text; 1 leaves no second stage,
      and neither does `own_windows=0`.
    cut: the second stage's windows are so many times shorter, and so many times
      as many: in a batch and of the target's own.
    own_temperature: at which the target writes.
    own_top_k: among how many tokens; 0 = all.
  """

  first_stage: float = 0.5
  cut: int = 4
  own_temperature: float = 1.0
  own_top_k: int = 10

  def __post_init__(self):
    super().__post_init__()
    if not 0 < self.first_stage <= 1:
      raise ValueError(
          f"first_stage={self.first_stage}, expected a share of the steps above"
          " 0, at most 1.")
    if self.cut < 1 or self.length // self.cut < self.levels + 2:
      raise ValueError(
          f"cut={self.cut} of length={self.length}, expected a whole number"
          f" from 1 on that leaves at least levels={self.levels} and two more"
          " tokens.")

  @property
  def switch(self) -> int:
    """Steps before the second stage."""
    if not self.own_windows:
      return self.num_steps
    return round(self.first_stage * self.num_steps)

  @property
  def second(self) -> "StagedRecipe":
    """With the sizes of the second stage."""
    return dataclasses.replace(
        self, cut=1, length=self.length // self.cut,
        batch=self.batch * self.cut, own_windows=self.own_windows * self.cut)
