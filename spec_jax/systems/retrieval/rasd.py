"""RASD: retrieved continuations fused into a draft model's tree.

Quan et al. 2025, arXiv:2503.03434, Sec. 3 (retrieval tree from the input and a
datastore, pruning by the draft model's law, fusion by longest common prefix).
Departures: the paper's sizes and its pruning rule could not be confirmed; here
a retrieved branch stays if its first token is among the `keep` most likely ones
of the draft model at the root; the draft model grows a static tree of its most
likely tokens. Sampling matches the target's own draw: fused siblings have no
common law.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from spec_jax.core import protocols
from spec_jax.core import registry
from spec_jax.core import tree as tree_lib
from spec_jax.core import types
from spec_jax.drafters import draft_model
from spec_jax.drafters import host_tree
from spec_jax.drafters import prompt_lookup
from spec_jax.drafters import retrieval
from spec_jax.systems import registration
from spec_jax.systems.retrieval import rest
from spec_jax.verifiers import matching

PAPER = registry.Paper(
    title="RASD: Retrieval-Augmented Speculative Decoding",
    authors="Quan et al.", year=2025, arxiv="2503.03434",
    venue="Findings of ACL 2025")


@dataclasses.dataclass(frozen=True)
class Rasd(host_tree.HostTree):
  """See the module's text.

  Attributes:
    own: grows the draft model's tree.
    lookup: retrieves from the text itself.
    retrieve: how the datastore is asked.
    datastore: its folder; "" retrieves from the text only, on the device.
    keep: how many first tokens of the draft model a retrieved branch may have.
  """

  own: draft_model.DraftModel
  lookup: prompt_lookup.PromptLookup
  retrieve: retrieval.Retrieval
  datastore: str = ""
  keep: int = 10

  def __post_init__(self):
    if self.keep < 0:
      raise ValueError(f"keep={self.keep}, expected >= 0.")
    self.open_store()

  @property
  def needs(self) -> protocols.Needs:
    return protocols.Needs(host_store=bool(self.datastore))

  @property
  def num_hosted(self) -> int:
    return self.retrieve.budget

  @property
  def depth(self) -> int:
    return depth_of(self.own.branching, self.lookup, self.retrieve)

  @property
  def max_children(self) -> int:
    return (self.own.level_starts[-1] + self.lookup.depth
            + self.retrieve.budget + 2)

  def open_store(self):
    if not self.datastore:
      return None
    return retrieval.open_checked(
        self.datastore, self.own.model.vocab_size, "rasd")

  def open_row(self, store, text):
    return rest.Row(self.retrieve, store, text)

  def init(self, params, batch, capacity):
    return self.own.init(params, batch, capacity)

  def prefill(self, params, state, tokens, count):
    return self.own.prefill(params, state, tokens, count)

  def propose(self, params, state, ctx, sampling, hosted=None):
    tree, state, logits = self.own.draft(params, state, ctx, sampling)
    found, _ = self.lookup.propose(None, (), ctx, sampling)
    if hosted is not None:
      found = tree_lib.merge(found, host_tree.tree(
          ctx.root, hosted, self.retrieve.depth, self.retrieve.budget))
    return tree_lib.merge(tree, prune(found, logits, self.keep)).replace(
        depth=self.depth, max_children=self.max_children), state

  def update(self, params, state, outcome):
    # A fused tree begins with the draft model's own nodes.
    return self.own.update(params, state, outcome)


def depth_of(branching: tuple[int, ...], *others: Any) -> int:
  return max(len(branching), *(other.depth for other in others))


def prune(tree: types.DraftTree, logits: jax.Array, keep: int
          ) -> types.DraftTree:
  """Drops the branches whose first token is not among the likeliest.

  Args:
    tree: retrieved.
    logits: `f32[B, V]`, the draft model's at the root.
    keep: how many tokens may begin a branch.
  """
  if keep >= logits.shape[-1]:
    return tree
  _, best = jax.lax.top_k(logits, keep)
  is_likely = (tree.tokens[:, :, None] == best[:, None, :]).any(-1)
  is_bad = (tree.parents == 0) & ~is_likely
  above = tree_lib.ancestor_mask(tree.parents, jnp.ones_like(tree.valid))
  return tree.replace(
      valid=tree.valid & ~(above & is_bad[:, None, :]).any(-1))


@registration.register("rasd", papers=(PAPER,), family="retrieval",
                       drafter="draft")
def rasd(parts: registration.Parts, *, datastore: str = "",
         branching: tuple[int, ...] = (4, 2, 1, 1, 1), keep: int = 10,
         depth: int = 10, budget: int = 32):
  """Draft-model tree and retrieved branches as one tree."""
  lookup = prompt_lookup.PromptLookup(depth, allow_short=True)
  retrieve = retrieval.Retrieval(budget, depth)
  # Every accepted node may be a retrieved one, unknown to the draft model.
  own = draft_model.DraftModel(
      parts.model("draft"), branching, "top_k",
      lag=depth_of(branching, lookup, retrieve))
  # Raises where the two vocabularies differ.
  registration.compose("rasd", parts, own, matching.SampleAndMatch())
  return registration.compose(
      "rasd", parts, Rasd(own, lookup, retrieve, datastore, keep),
      matching.SampleAndMatch())
