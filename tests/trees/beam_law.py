"""The exact law of beam trees, from a race that knows of no beam.

Every sequence of the full length has an exponential clock whose rate is its
probability; a prefix rings when the first of its continuations does. Level l
of the tree is the first W prefixes of length l to ring, in that order. The
race is followed ring by ring: clocks do not age, so the next of a set to ring
is each with probability proportional to its rate.

A tree is nested tuples `((token, subtree), ...)`, siblings in draw order.
"""

import collections
import functools
import itertools

import jax
import numpy as np

from spec_jax.verifiers import enumeration
from spec_jax.verifiers import rules


@functools.cache
def trees(q_rows, root: int, width: int, depth: int) -> dict:
  """All trees below a token, with their probabilities.

  Args:
    q_rows: `[V, V]`, row t is the draft law after token t.
    root: the token.
    width: nodes per level.
    depth: levels.
  """
  rates = _rates(q_rows, root, depth)
  states, final = {((),) * depth: 1.0}, collections.defaultdict(float)
  while states:
    following = collections.defaultdict(float)
    for levels, mass in states.items():
      grown = {leaf: _ring(levels, leaf, width) for leaf in rates}
      moves = {leaf: new for leaf, new in grown.items() if new != levels}
      total = sum(rates[leaf] for leaf in moves)
      if not moves:
        final[_nest(levels, ())] += mass
      for leaf, new in moves.items():
        following[new] += mass * rates[leaf] / total
    states = following
  return dict(final)


def _rates(q_rows, root, depth):
  rates = {}
  for leaf in itertools.product(range(len(q_rows)), repeat=depth):
    path = (root, *leaf)
    rate = np.prod([q_rows[a][b] for a, b in itertools.pairwise(path)])
    if rate > 0:
      rates[leaf] = rate
  return rates


def _ring(levels, leaf, width):
  """The prefixes that have rung, level by level, once a leaf rings too."""
  return tuple(
      rung if len(rung) == width or leaf[:n] in rung else (*rung, leaf[:n])
      for n, rung in enumerate(levels, start=1))


def _nest(levels, prefix):
  if len(prefix) == len(levels):
    return ()
  return tuple((node[-1], _nest(levels, node)) for node in levels[len(prefix)]
               if node[:-1] == prefix)


def nested(tokens, parents, valid, node: int = 0):
  """One row of a drafted tree, as such tuples."""
  return tuple(
      (int(tokens[child]), nested(tokens, parents, valid, child))
      for child in range(len(tokens))
      if parents[child] == node and valid[child])


def emitted(rule: str, p_rows, q_rows, root: int, drawn: dict) -> dict:
  """The probability of each string that one round may emit.

  Args:
    rule: its name; the law at each node is the rule's own, in float64.
    p_rows: `[V, V]`, the target's laws.
    q_rows: `[V, V]`, the draft laws.
    root: the token the trees stand on.
    drawn: trees with their probabilities.
  """
  strings = collections.defaultdict(float)

  def visit(last, tree, mass, prefix):
    below = dict(tree)
    law = _law(rule, p_rows[last], q_rows[last], tuple(below))
    for token, share in enumerate(law):
      if token in below:
        visit(token, below[token], mass * share, (*prefix, token))
      else:
        strings[(*prefix, token)] += mass * share

  for tree, mass in drawn.items():
    visit(root, tree, mass, ())
  return {string: mass for string, mass in strings.items() if mass > 0}


@functools.cache
def _law(rule, p, q, drafts):
  with jax.enable_x64(True):
    return np.asarray(enumeration.tuple_laws(
        rules.get(rule), np.asarray(p), np.asarray(q),
        np.asarray([drafts], np.int32).reshape(1, len(drafts))))[0].tolist()
