"""Sequences that agree with the text so far all stay in play (SpecTr)."""

import collections
import dataclasses
import functools
import itertools

import jax
import numpy as np
import pytest

from spec_jax import verifiers
from spec_jax.core import keys as keys_lib
from spec_jax.core import tree as tree_lib
from spec_jax.core import types
from spec_jax.verifiers import active_set
from tests import chi_square
from tests.exactness import markov
from tests.exactness import tree_law

NUM_SEQUENCES, DEPTH, NUM_TOKENS = 3, 2, 3
NUM_ROWS = 20_000
P, Q = np.asarray(markov.P_ROWS), np.asarray(markov.Q_ROWS)
RULES = ("k_seq", "recursive")


@functools.cache
def emitted_law(name, last, drafts):
  """Of the rule, padded to one shape; not every slot is a draft."""
  padded = np.zeros(NUM_SEQUENCES, np.int32)
  # Padding first: the rule must not count on where the drafts stand.
  padded[NUM_SEQUENCES - len(drafts):] = drafts
  exists = np.arange(NUM_SEQUENCES) >= NUM_SEQUENCES - len(drafts)
  with jax.enable_x64(True):
    return np.asarray(_law(
        verifiers.get(name), P[last], Q[last], padded, exists))


@functools.partial(tree_law.jit, static_argnums=0)
def _law(rule, p, q, drafts, exists):
  return rule.law(p, q, drafts, exists)


def string_law(name, root):
  """Strings of one round by the algorithm as printed, all drafts listed."""
  paths = list(itertools.product(range(len(P)), repeat=DEPTH))
  weights = [Q[root, a] * Q[a, b] for a, b in paths]
  strings = collections.defaultdict(float)

  def extend(text, active, mass):
    drafts = tuple(path[len(text)] for path in active
                   if len(text) < DEPTH)
    law = emitted_law(name, (root, *text)[-1], drafts)
    for token, share in enumerate(law * mass):
      if token in drafts:
        extend(text + (token,),
               [path for path, d in zip(active, drafts) if d == token], share)
      else:
        strings[text + (token,)] += share

  for drawn in itertools.product(range(len(paths)), repeat=NUM_SEQUENCES):
    mass = np.prod([weights[i] for i in drawn])
    if mass > 0:
      extend((), [paths[i] for i in drawn], mass)
  return {s: mass for s, mass in strings.items() if mass > 0}


def mean_length(strings):
  return sum(len(string) * mass for string, mass in strings.items())


@pytest.mark.parametrize("name", RULES)
def test_joint_law_is_the_target(name):
  rounds = [string_law(name, root) for root in range(len(P))]
  for root in range(len(P)):
    np.testing.assert_allclose(
        tree_law.joint_law(rounds, root, NUM_TOKENS),
        tree_law.markov_law(P, root, NUM_TOKENS), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", RULES)
def test_walk_follows_the_active_set(name):
  system = dataclasses.replace(
      markov.system(verifiers.get(name), (NUM_SEQUENCES, 1), "iid"),
      walk=active_set.ActiveSetWalk(NUM_SEQUENCES))
  tree, verdict = markov.one_round(
      system, markov.params(), keys_lib.row_keys(0, NUM_ROWS), 0)
  tokens, path, count, last = map(
      np.asarray, (tree.tokens, verdict.path, verdict.count,
                   verdict.next_token))
  texts = np.take_along_axis(tokens, path, 1)
  counts = collections.Counter(
      (*text[1:n].tolist(), int(end))
      for text, n, end in zip(texts, count, last))
  law = string_law(name, 0)
  assert set(counts) <= set(law)
  assert chi_square.p_value([counts[s] for s in law],
                            list(law.values())) > 1e-4


def test_twins_in_play_are_worth_tokens():
  case = tree_law.Problem(
      verifiers.get("k_seq"), "iid",
      tuple(tree_lib.static_parents((NUM_SEQUENCES, 1)).tolist()),
      (True,) * (1 + 2 * NUM_SEQUENCES), markov.P_ROWS, markov.Q_ROWS)
  one_node = tree_law.emitted_laws(case)[0]
  assert mean_length(string_law("k_seq", 0)) > mean_length(one_node) + 0.02


def test_children_of_twins_are_pooled():
  tree = types.DraftTree(
      tokens=np.asarray([[9, 5, 5, 6, 1, 2, 3, 4, 4]], np.int32),
      parents=np.asarray([[-1, 0, 0, 0, 1, 2, 3, 4, 5]], np.int32),
      valid=np.ones((1, 9), bool), q=None, draw="iid", depth=3,
      max_children=3)
  assert active_set.pool(tree).tolist() == [[-1, 0, 0, 0, 1, 1, 3, 4, 5]]
  # An invalid node is nobody's twin.
  tree = tree.replace(valid=tree.valid & (np.arange(9) != 1))
  assert active_set.pool(tree).tolist() == [[-1, 0, 0, 0, 1, 2, 3, 4, 5]]
