"""The exact law of what a joint rule emits over trees of drafts.

As `tree_law`, but the rule decides once per tree: all assignments of tokens to
the nodes are listed, and each leaves `rule.joint_law` over the last kept node
and the token after it. One size of tree and vocabulary serves every problem, so
a rule is compiled once.
"""

import collections
import functools

import jax
import numpy as np

from spec_jax.core import types
from tests.exactness import tree_law

NUM_NODES = 7
VOCAB = 4
_CHUNK = 256  # Trees judged at a time.


def padded_rows(rows) -> tuple[tuple[float, ...], ...]:
  """`[VOCAB, VOCAB]`: tokens that never occur, after which it is as after 0."""
  rows = np.asarray(rows, np.float64)
  full = np.zeros((VOCAB, VOCAB))
  full[:, :rows.shape[1]] = rows[0]
  full[:len(rows), :rows.shape[1]] = rows
  return tuple(map(tuple, full / full.sum(1, keepdims=True)))


def path(parents, node: int) -> list[int]:
  """The nodes from the root to a node, the root left out."""
  if node <= 0:
    return []
  return path(parents, parents[node]) + [node]


def kept_laws(problem: tree_law.Problem, root: int, dtype=np.float64
              ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Trees `i[A, N]`, weights `f[A]` and the joint law `f[A, N, V]` of each."""
  tokens, valid, weights = tree_law.draft_trees(problem, root)
  return tokens, weights, judged(
      problem.rule, problem.parents, problem.p_rows, problem.q_rows, tokens,
      valid, dtype)


def judged(rule, parents, p_rows, q_rows, tokens, valid, dtype=np.float64
           ) -> np.ndarray:
  """The joint law `f[A, N, V]` over trees with tokens and validity `[A, N]`."""
  num_trees, num_nodes = tokens.shape
  extra = (0, -num_trees % _CHUNK), (0, NUM_NODES - num_nodes)
  chunks = lambda a: np.pad(a, extra).reshape(-1, _CHUNK, NUM_NODES)
  parents = np.pad(np.asarray(parents, np.int32), extra[1])
  rows = (np.asarray(rows, dtype) for rows in (p_rows, q_rows))
  with jax.enable_x64(True):
    judge = functools.partial(_judge, rule, parents, *rows)
    laws = [np.asarray(judge(*part), np.float64)
            for part in zip(chunks(tokens.astype(np.int32)), chunks(valid))]
  return np.concatenate(laws)[:num_trees, :num_nodes]


@functools.partial(tree_law.jit, static_argnums=0)
def _judge(rule, parents, p_rows, q_rows, tokens, valid):
  most = 3 if rule.max_drafts is None else rule.max_drafts

  def one(tokens, valid):
    row = types.DraftTree(tokens, parents, valid, None, rule.draws[0],
                          NUM_NODES, most)
    return rule.joint_law(p_rows[tokens], q_rows[tokens], row)

  return jax.vmap(one)(tokens, valid)


def emitted_laws(problem: tree_law.Problem, dtype=np.float64
                 ) -> list[dict[tuple[int, ...], float]]:
  """By root: the probability of each string that one round may emit."""
  return [strings(problem.parents, *kept_laws(problem, root, dtype))
          for root in range(problem.vocab_size)]


def strings(parents, tokens, weights, laws) -> dict[tuple[int, ...], float]:
  """The same of the trees below one root; arguments as from `kept_laws`."""
  found = collections.defaultdict(float)
  for node in range(len(parents)):
    drafts = tokens[:, path(parents, node)]
    table = np.zeros((VOCAB,) * (drafts.shape[1] + 1))
    last = np.broadcast_to(np.arange(VOCAB), (len(tokens), VOCAB))
    np.add.at(table, (*drafts.T[:, :, None], last),
              weights[:, None] * laws[:, node])
    for string in zip(*np.nonzero(table)):
      found[tuple(map(int, string))] += table[string]
  return dict(found)


def depth_law(problem: tree_law.Problem, root: int) -> np.ndarray:
  """Probability of each number of kept drafts in one round."""
  _, weights, laws = kept_laws(problem, root)
  depths = [len(path(problem.parents, n)) for n in range(len(problem.parents))]
  return np.bincount(depths, weights=weights @ laws.sum(-1))
