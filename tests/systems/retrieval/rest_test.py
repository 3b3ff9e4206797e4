"""REST on a small corpus: what is retrieved, kept and accepted."""

import collections

import jax.numpy as jnp
import numpy as np
import pytest

from spec_jax import systems
from spec_jax.core import keys as keys_lib
from spec_jax.core import tree as tree_lib
from spec_jax.core import types
from spec_jax.drafters import retrieval
from spec_jax.executors import hosted
from spec_jax.stores import datastore as datastore_lib
from spec_jax.systems.retrieval import rest
from tests import rounds
from tests import toy

V = 16


def scan(tokens, text, longest, shortest, depth):
  """Counts of all prefixes of what follows the longest suffix that occurs."""
  for size in range(min(longest, len(text)), shortest - 1, -1):
    counts = collections.Counter()
    for start in range(len(tokens) - size + 1):
      if tokens[start:start + size] == text[-size:]:
        counts[()] += 1
        tail = tokens[start + size:start + size + depth]
        tail = tail[:tail.index(0)] if 0 in tail else tail
        counts.update(tuple(tail[:i + 1]) for i in range(len(tail)))
    if counts:
      del counts[()]
      return size, counts
  return 0, collections.Counter()


@pytest.fixture(scope="module")
def corpus():
  rng = np.random.default_rng(0)
  tokens = rng.integers(1, 5, 2000)
  tokens[::50] = 0
  return tokens.tolist()


@pytest.fixture(scope="module")
def folder(corpus, tmp_path_factory):
  path = tmp_path_factory.mktemp("store")
  datastore_lib.write(path, np.asarray(corpus, np.uint16), V, 0)
  return str(path)


def test_kept_are_the_most_frequent_prefixes_of_the_longest_match(
    corpus, folder):
  store = datastore_lib.open_store(folder)
  retrieve = retrieval.Retrieval(budget=12, depth=4, longest=6)
  rng = np.random.default_rng(1)
  for _ in range(40):
    text = rng.integers(1, 5, 9).tolist()
    found = retrieve.draft(store, text)
    size, counts = scan(corpus, text, 6, 2, 4)
    assert found.score == size
    kept = dict(zip(found.paths(), found.weights))
    assert all(counts[path] == weight for path, weight in kept.items())
    assert all(path[:-1] in kept for path in kept if len(path) > 1)
    assert sorted(kept.values()) == sorted(
        sorted(counts.values(), reverse=True)[:12])


def test_no_match_drafts_nothing(folder):
  store = datastore_lib.open_store(folder)
  assert not len(retrieval.Retrieval().draft(store, [9, 10, 11]))


def test_tree_of_the_system_is_well_formed_and_a_known_text_accepted(
    tmp_path):
  text = np.random.default_rng(0).permutation(V - 1) + 1
  datastore_lib.write(tmp_path, np.asarray([*text, 0], np.uint16), V, 0)
  table = np.zeros((V, V), np.float32)
  table[text[:-1], text[1:]] = 9
  system = rounds.compose(
      rest.Rest(V, str(tmp_path), retrieval.Retrieval(budget=16, depth=5)),
      rounds.TableModel(V))
  decoded = hosted.Hosted().run(
      system, types.Params(jnp.asarray(table)),
      rounds.prompts_of([text[:2].tolist()]), keys_lib.row_keys(0, 1), 12)
  assert decoded.tokens[0, :14].tolist() == text[:14].tolist()
  assert decoded.counts.target_calls.tolist() == [2]
  session = system.drafter.open_session(
      system.drafter.open_store(), [text[:2], text[:4]])
  hosted_draft = session.draft((), np.asarray([True, True]))
  tree, _ = system.drafter.propose(
      None, (), types.Context(
          jnp.asarray([text[:4]] * 2), jnp.asarray([2, 4]), None, None, None),
      None, hosted_draft)
  tree_lib.check(tree, budget=17)
  assert tree.tokens[:, 1].tolist() == [text[2], text[4]]


def test_a_missing_datastore_is_asked_for():
  with pytest.raises(ValueError, match="rest retrieves from a datastore, none"
                     ".*experiments.build_datastore"):
    systems.build("rest", toy.bundle())
  with pytest.raises(ValueError, match="vocabulary of 12 tokens, the target"
                     " one of 16"):
    rest.Rest(V, toy.datastore(), retrieval.Retrieval())
