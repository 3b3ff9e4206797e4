"""Trees whose last levels need no forward: an earlier one spoke for them.

Of a net that speaks for tokens further ahead (`models.ahead_nets`): what it
says knows the path up to the node it was run for, and not the tokens between.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from spec_jax.core import sampling as sampling_lib
from spec_jax.core import types
from spec_jax.drafters import feature_drafter
from spec_jax.trees import borrowing


@dataclasses.dataclass(frozen=True)
class AheadFeatureDrafter(feature_drafter.GrownFeatureDrafter):
  """Grows the last levels from what the last forward said of them.

  Attributes:
    num_ahead: of the last levels, which are grown from what the last forward
      said of them; 0 where each level has its own.
    ahead_policy: how those levels are grown, a policy of the same budget; None
      for as all others.
    borrowed: nodes added below leaves that end early, at most; see
      `trees.borrowing`. Needs `num_ahead`.
  """

  num_ahead: int = 0
  ahead_policy: Any = None
  borrowed: int = 0

  def __post_init__(self):
    super().__post_init__()
    net = self.model.net
    if self.num_ahead and not (
        self.num_ahead <= net.num_ahead
        and self.num_forwards >= net.num_serial):
      raise ValueError(
          f"num_ahead={self.num_ahead} of depth={self.depth}: the net of part"
          f" {self.model.part!r} speaks for {net.num_ahead} tokens ahead, after"
          f" {net.num_serial} forwards.")
    if self.borrowed and (not self.num_ahead or self.model.vocabulary):
      raise ValueError(
          f"borrowed={self.borrowed}, num_ahead={self.num_ahead}, vocabulary"
          f"={self.model.vocabulary!r}: expected levels to borrow from, and a"
          " draft that knows all tokens.")
    if self.num_ahead and self.policy.draw in types.RANDOM_DRAWS:
      raise ValueError(
          f"num_ahead={self.num_ahead}, policy={self.policy} draws at random;"
          " expected a policy of most likely tokens.")

  @property
  def max_children(self) -> int:
    policies = (self.policy, self.ahead_policy or self.policy)
    return max(policy.max_children for policy in policies)

  @property
  def num_forwards(self) -> int:
    return self.depth - self.num_ahead

  def look_ahead(self, params, loop, extend_fn):
    if not self.num_ahead:
      return loop
    # What a forward said goes with the nodes below the one it was made for.
    logits = self.model.ahead(params, loop.handed)[1]
    loop = loop.replace(handed=(logits, loop.frontier.exists))
    for step in range(self.num_ahead):
      loop = extend_fn(
          loop, loop.handed[0][:, :, step], loop.handed,
          policy=self.ahead_policy or self.policy, is_fed=False)
    return loop

  def complete(self, tree, kept, loop):
    if not self.borrowed:
      return tree
    # Of the best path; that of a row which had stopped says nothing.
    logits, speaks = jax.tree.map(lambda a: a[:, 0], loop.handed)
    logits = logits[:, :self.num_ahead]
    best = sampling_lib.most_likely(logits)
    log_probs = jax.nn.log_softmax(logits).max(-1)
    scores = jnp.pad(loop.growth.scores.reshape(kept.shape[0], -1),
                     ((0, 0), (1, 0)))
    return borrowing.lengthen(
        tree, jnp.take_along_axis(scores, kept, axis=1), best,
        log_probs, speaks, self.num_forwards + 1, self.borrowed)
