"""Rules that let the target draw first and look at the drafts afterwards."""

import dataclasses
from typing import ClassVar

from spec_jax.core import sampling as sampling_lib
from spec_jax.core import types


@dataclasses.dataclass(frozen=True)
class SampleAndMatch:
  """The emitted token is the target's own draw; a draft is kept if it is hit.

  The law ignores the drafts, so it is valid for every way of drawing them,
  and with the same key the text equals autoregressive sampling token for
  token. Called naive sampling in SpecInfer (Sec. 4.3); with one-hot q every
  sequential rejection rule reduces to it.
  """

  exact: ClassVar[bool] = True
  ignores_drafts: ClassVar[bool] = True
  draws: ClassVar[tuple[str, ...]] = types.DRAWS
  max_drafts: ClassVar[int | None] = None

  def law(self, p, q, drafts, is_draft):
    del q, drafts, is_draft
    return p


@dataclasses.dataclass(frozen=True)
class Greedy:
  """Emits the target's most likely token. Exact at temperature 0 only."""

  exact: ClassVar[bool] = False
  ignores_drafts: ClassVar[bool] = True
  draws: ClassVar[tuple[str, ...]] = types.DRAWS
  max_drafts: ClassVar[int | None] = None

  def law(self, p, q, drafts, is_draft):
    del q, drafts, is_draft
    return sampling_lib.greedy_law(p)
