"""Gumiho: a deeper net for the first two tokens, parallel heads for the rest.

Li et al. 2025, Sec. 3.1 (early tokens weigh more in the accepted length), 3.2
(EAGLE's net with two layers drafts two tokens one after the other; five heads
read what its fusion said in both forwards and guess the features of the next
five tokens at once) and 3.3 (full tree attention: short paths go on with tokens
of longer ones), and the repository: 14 candidates at serial nodes, 35 at the
parallel ones, the best 64 nodes with the root. Children are the most likely
tokens, matched with the target's own draw. Train with `python -m
experiments.train --system=gumiho`. Departures: borrowed tokens are nodes of
their own, `borrowed` of them beyond the 64, since letting a node attend to
another path's, as in the repository, changes what the target says of it; they
are those said of the best path; each serial node has heads of its own, not the
best one alone; the heads learn from the net's own first guess, and from the
first step on (the repository leaves out their law for two epochs), with two
residual blocks each in our recipe (the paper has five); text, start, clipping
and rates of the training depart as in `eagle_1`; the last prompt token is the
first root, so a prompt of one token drafts nothing in its first round.
"""

from spec_jax.core import registry
from spec_jax.drafters import ahead_drafter
from spec_jax.models import ahead_nets
from spec_jax.models import feature_model
from spec_jax.systems import registration
from spec_jax.trees import likelihood
from spec_jax.verifiers import matching

PAPER = registry.Paper(
    title="Gumiho: A Hybrid Architecture to Prioritize Early Tokens in"
    " Speculative Decoding", authors="Li et al.", year=2025,
    arxiv="2503.10135", venue="ICML 2025")


@registration.register("gumiho", papers=(PAPER,), family="features",
                       drafter=("target", "gumiho"))
def gumiho(parts: registration.Parts, *, budget: int = 64, depth: int = 7,
           top_k: int = 14, width: int = 35, borrowed: int = 16):
  """Two tokens of a deeper feature net, then those of parallel heads."""
  model = feature_model.from_hyper(
      parts.target, "gumiho", parts.head("gumiho"))
  width = min(width, parts.target.vocab_size)
  num_ahead = max(0, depth - ahead_nets.HybridNet.num_serial)
  drafter = ahead_drafter.AheadFeatureDrafter(
      model, likelihood.MostLikely(budget, top_k, depth, top_k),
      num_ahead=num_ahead, borrowed=borrowed if num_ahead else 0,
      ahead_policy=likelihood.MostLikely(budget, width, depth, width))
  return registration.compose(
      "gumiho", parts, drafter, matching.SampleAndMatch())
