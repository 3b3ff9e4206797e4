"""Joint rules: exact over trees and rounds, golden values, orderings."""

import collections
import dataclasses
import functools
import itertools

import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spec_jax import verifiers
from spec_jax.core import keys as keys_lib
from spec_jax.core import sampling as sampling_lib
from spec_jax.core import tree as tree_lib
from spec_jax.core import types
from spec_jax.verifiers import block
from spec_jax.verifiers import joint
from spec_jax.verifiers import traversal
from tests.exactness import golden
from tests.exactness import joint_law
from tests.exactness import markov
from tests.exactness import tree_law
from tests.exactness import trees_test

BLOCK = block.BlockVerification()
GREEDY_BLOCK = block.GreedyBlockVerification()
TRAVERSAL = {
    "iid": traversal.TraversalVerification(),
    "without_replacement": traversal.TraversalWithoutReplacement(),
}
RULES = [(BLOCK, draw) for draw in BLOCK.draws] + [
    (rule, draw) for draw, rule in TRAVERSAL.items()]
NUM_TOKENS = 4
P_ROWS, Q_ROWS = map(joint_law.padded_rows, (markov.P_ROWS, markov.Q_ROWS))


def problem(rule, draw, shape, p_rows=P_ROWS, q_rows=Q_ROWS):
  parents, valid = trees_test.SHAPES[shape]
  valid = (True,) * len(parents) if valid is None else map(bool, valid)
  return tree_law.Problem(rule, draw, parents, tuple(valid), p_rows, q_rows)


def output_error(case, num_tokens=NUM_TOKENS, dtype=np.float64):
  """Largest deviation of the law of the first tokens, over all roots."""
  rounds = joint_law.emitted_laws(case, dtype)
  return max(
      np.abs(tree_law.joint_law(rounds, root, num_tokens)
             - tree_law.markov_law(case.p_rows, root, num_tokens)).max()
      for root in range(case.vocab_size))


@pytest.mark.parametrize("shape", trees_test.SHAPES)
@pytest.mark.parametrize("rule,draw", RULES)
def test_text_follows_the_target_over_rounds(rule, draw, shape):
  if rule.max_drafts is None or shape.endswith("chain"):
    assert output_error(problem(rule, draw, shape)) <= 1e-12


_weights = st.lists(st.integers(0, 3), min_size=3, max_size=3).filter(any)
_peaked = st.lists(st.sampled_from([0., 1e-30, 1e-16, 1e-8, 1e-3, 1.]),
                   min_size=3, max_size=3).filter(lambda w: max(w) == 1)
_rows = st.lists(_weights | _peaked, min_size=3, max_size=3).map(
    lambda rows: joint_law.padded_rows(
        [np.asarray(row, float) / sum(row) for row in rows]))


@pytest.mark.parametrize("rule,draw,shape", [
    (BLOCK, "iid", "chain"), (TRAVERSAL["iid"], "iid", "depth first"),
    (TRAVERSAL["without_replacement"], "without_replacement", "ragged")])
@hypothesis.given(p_rows=_rows, q_rows=_rows)
@hypothesis.settings(deadline=None, max_examples=25, derandomize=True)
def test_text_follows_generated_targets(rule, draw, shape, p_rows, q_rows):
  case = problem(rule, draw, shape, p_rows, q_rows)
  assert output_error(case, 3) <= 1e-12
  assert output_error(case, 3, np.float32) <= 1e-5


class UnscaledResidual(block.BlockVerification):
  """Planted bug: the correction comes from (p - q)+, as token by token."""

  def next_law(self, p, q, mass, drafts, is_draft):
    return super().next_law(p, q, jnp.ones_like(mass), drafts, is_draft)


class TokenTests(block.BlockVerification):
  """Planted bug: each token is tested alone, the last that passes is kept."""

  def masses(self, p, q, row):
    entry, _ = super().masses(p, q, row)
    before = jnp.maximum(row.parents, 0)
    ratio = jax.vmap(lambda n, token: jnp.minimum(1, p[n, token] / q[n, token])
                     )(before, row.tokens).at[0].set(1)
    return entry, jnp.where(row.valid, ratio, 0)


@pytest.mark.parametrize("bug", [UnscaledResidual(), TokenTests()])
def test_enumeration_sees_a_tokenwise_block(bug):
  assert output_error(problem(bug, "iid", "chain")) > 1e-3


def golden_problem(case, rule, draw, branching):
  """The golden laws; the token before the text is the last of the padding."""
  p_rows, q_rows = ([*map(list, joint_law.padded_rows(case[key]))]
                    for key in ("P", "Q"))
  for rows, key in ((p_rows, "p0"), (q_rows, "q0")):
    rows[-1] = golden.padded(case[key], joint_law.VOCAB)
  normal = lambda rows: tuple(
      tuple(np.asarray(row) / sum(row)) for row in rows)
  parents = tuple(tree_lib.static_parents(tuple(branching)).tolist())
  return tree_law.Problem(rule, draw, parents, (True,) * len(parents),
                          normal(p_rows), normal(q_rows))


def check_golden(case, expected):
  kept = joint_law.depth_law(case, joint_law.VOCAB - 1)
  np.testing.assert_allclose(kept, expected["hist"], rtol=0, atol=1e-9)
  np.testing.assert_allclose(
      kept @ np.arange(len(kept)), expected["expected_accepted"], rtol=0,
      atol=1e-9)


@pytest.mark.parametrize("case", golden.table()["chain"],
                         ids=lambda case: case["id"])
def test_chains_equal_golden(case):
  for rule, key in ((BLOCK, "block"), (GREEDY_BLOCK, "greedy_block")):
    check_golden(golden_problem(case, rule, "iid", [1] * case["gamma"]),
                 case[key])


@pytest.mark.parametrize("case", golden.table()["tree"],
                         ids=lambda case: case["id"])
def test_trees_equal_golden(case):
  draw = "iid" if case["with_replacement"] else "without_replacement"
  check_golden(
      golden_problem(case, TRAVERSAL[draw], draw, case["branching"]),
      case["traversal"])


def expected_kept(p_rows, q_rows, root, length):
  """Kept drafts of token rejection, of a block, and the most of any rule.

  Sums over all drafted strings: kept to at least i with the product of the
  ratios, each clamped; with the running product, clamped as it grows; and with
  that product clamped at the end alone.
  """
  sums = np.zeros(3)
  for string in itertools.product(range(len(p_rows)), repeat=length):
    ratios, before = [], root
    for token in string:
      p, q = p_rows[before][token], q_rows[before][token]
      ratios.append(p / q if q else np.nan)
      before = token
    if np.isnan(ratios).any():
      continue
    chance = np.prod([q_rows[a][b] for a, b in zip((root, *string), string)])
    block_mass = 1.
    for i, ratio in enumerate(ratios, 1):
      block_mass = min(1, block_mass * ratio)
      sums += chance * np.asarray([
          np.minimum(ratios[:i], 1).prod(), block_mass,
          min(1, np.prod(ratios[:i]))])
  return sums


@hypothesis.given(p_rows=_rows, q_rows=_rows)
@hypothesis.settings(deadline=None, max_examples=25, derandomize=True)
def test_block_keeps_at_least_what_rejection_keeps(p_rows, q_rows):
  found = [
      joint_law.depth_law(problem(rule, "iid", "chain", p_rows, q_rows), 0)
      @ np.arange(4) for rule in (BLOCK, GREEDY_BLOCK)]
  token, *known = expected_kept(p_rows, q_rows, 0, 3)
  np.testing.assert_allclose(found, known, rtol=0, atol=1e-12)
  assert token <= found[0] + 1e-12 and found[0] <= found[1] + 1e-12


def test_traversal_of_chains_is_block_verification():
  for draw, rule in TRAVERSAL.items():
    for shape in ("chain", "short chain"):
      for root in range(3):
        *_, left = joint_law.kept_laws(problem(rule, draw, shape), root)
        *_, right = joint_law.kept_laws(problem(BLOCK, draw, shape), root)
        np.testing.assert_allclose(left, right, rtol=0, atol=1e-14)


@pytest.mark.parametrize("draw,name", [
    ("iid", "recursive"),
    ("without_replacement", "recursive_without_replacement")])
def test_traversal_of_one_level_is_recursive_rejection(draw, name):
  ours = joint_law.emitted_laws(problem(TRAVERSAL[draw], draw, "fork"))
  token_rule = problem(verifiers.get(name), draw, "fork")
  for left, right in zip(ours, tree_law.emitted_laws(token_rule)):
    for string in left | right:
      assert abs(left.get(string, 0) - right.get(string, 0)) <= 1e-14


class Forgetful(block.GreedyBlockVerification):
  """Planted bug: what a block asks of the next rounds is not handed on."""

  def settle(self, p, q, row, carry, node, token):
    return carry


@functools.partial(jax.jit, static_argnums=0)
def _block_round(rule, p_rows, q_rows, drafts, carry):
  """Laws `f[A, N, V]` of all chains `i[A, N]`, and the state after each."""

  def one(tokens):
    num_nodes = tokens.shape[0]
    row = types.DraftTree(
        tokens, jnp.arange(-1, num_nodes - 1, dtype=jnp.int32),
        jnp.ones(num_nodes, bool), None, "iid", num_nodes - 1, 1)
    p, q = p_rows[tokens], q_rows[tokens]
    law = rule.joint_law(rule.target(p, q, row, carry), q, row)
    settle = lambda node, token: rule.settle(p, q, row, carry, node, token)
    over = jax.vmap(jax.vmap(settle, (None, 0)), (0, None))
    return law, over(*(jnp.arange(n, dtype=jnp.int32) for n in p.shape))

  return jax.vmap(one)(drafts)


def _at(tree, index):
  return jax.tree.map(lambda a: a[index], tree)


def carried_joint(rule, p_rows, q_rows, root, num_tokens):
  """Law `[V] * num_tokens` of a text, round after round with the state."""
  vocab_size = len(p_rows)
  p_rows, q_rows = np.asarray(p_rows), np.asarray(q_rows)
  chains = np.asarray(list(itertools.product(
      range(vocab_size), repeat=rule.length)), np.int32)
  joint = np.zeros((vocab_size,) * num_tokens)

  def extend(text, carry, mass):
    last = np.full((len(chains), 1), (root, *text)[-1], np.int32)
    drafts = np.concatenate([last, chains], 1)
    weights = q_rows[drafts[:, :-1], drafts[:, 1:]].prod(1)
    laws, carries = jax.device_get(_block_round(
        rule, p_rows, q_rows, drafts, carry))
    laws = laws * weights[:, None, None]
    shares, places = collections.defaultdict(float), {}
    for place in zip(*np.nonzero(laws)):
      chain, node, token = place
      string = (*drafts[chain, 1:node + 1].tolist(), int(token))
      shares[string] += laws[place]
      # The state is a function of what was emitted, whatever was drafted.
      places[string] = place
    for string, share in shares.items():
      longer = text + string
      if len(longer) >= num_tokens:
        joint[longer[:num_tokens]] += mass * share
      else:
        extend(longer, _at(carries, places[string]), mass * share)

  with jax.enable_x64(True):
    extend((), _at(rule.init_state(1), 0), 1.0)
  return joint


@pytest.mark.parametrize("length,rows,num_tokens", [
    (3, (markov.P_ROWS, markov.Q_ROWS), 4),
    (2, (((1 / 3, 2 / 3),) * 2, ((2 / 3, 1 / 3),) * 2), 5),
    (4, (((.7, .3), (.2, .8)), ((.4, .6), (.9, .1))), 5),
    (1, (markov.P_ROWS, markov.Q_ROWS), 2)])
def test_greedy_blocks_follow_the_target_over_rounds(length, rows, num_tokens):
  rule = block.GreedyBlockVerification(length)
  truth = tree_law.markov_law(rows[0], 0, num_tokens)
  error = np.abs(carried_joint(rule, *rows, 0, num_tokens) - truth).max()
  assert error <= 1e-12
  if length > 1:
    forgetful = carried_joint(Forgetful(length), *rows, 0, num_tokens)
    assert np.abs(forgetful - truth).sum() > 0.02


def test_greedy_block_needs_its_state():
  p, q = (1 / 3, 2 / 3), (2 / 3, 1 / 3)
  truth = tree_law.markov_law([p] * 2, 0, 3)
  found = carried_joint(Forgetful(2), [p] * 2, [q] * 2, 0, 3)
  assert np.abs(found - truth).sum() / 2 > 0.1


def test_greedy_blocks_decode_the_target():
  """Sampled through the whole decoder, where the state is carried for real."""
  law = tree_law.markov_law(markov.P_ROWS, 0, 3)
  p_value = lambda rule: trees_test.joint_p_value(
      sampled(rule, "iid", (1, 1, 1)), markov.params(), law)
  assert p_value(block.GreedyBlockVerification(3)) > trees_test.SIGNIFICANCE
  assert p_value(Forgetful(3)) < 1e-10


def test_a_block_longer_than_its_state_is_refused():
  system = sampled(block.GreedyBlockVerification(2), "iid", (1, 1, 1))
  with pytest.raises(ValueError, match="at most length=2 drafts.* depth=3"):
    markov.decode(system, markov.params(), 1, 2)
  with pytest.raises(ValueError, match="length=0, expected at least 1"):
    block.GreedyBlockVerification(0)


def sampled(rule, draw, branching):
  system = markov.system(rule, branching, draw)
  return dataclasses.replace(system, walk=joint.walk)


@pytest.mark.parametrize("rule,draw,branching", [
    (BLOCK, "iid", (1, 1, 1)), (TRAVERSAL["iid"], "iid", (2, 1)),
    (TRAVERSAL["without_replacement"], "without_replacement", (2, 2))])
def test_walk_samples_the_enumerated_law(rule, draw, branching):
  """Which tokens, and where the round stops; verdicts are well-formed."""
  parents = tuple(tree_lib.static_parents(branching).tolist())
  case = tree_law.Problem(rule, draw, parents, (True,) * len(parents), P_ROWS,
                          Q_ROWS)
  law = joint_law.emitted_laws(case)[0]
  found = trees_test.strings_p_value(sampled(rule, draw, branching), law)
  assert found > trees_test.SIGNIFICANCE


def test_a_broken_law_fails_its_row():
  tree = tree_lib.chain(
      jnp.zeros((3,), jnp.int32), jnp.ones((3, 2), jnp.int32),
      jnp.full((3,), 2, jnp.int32), "iid", jnp.full((3, 2, 3), 1 / 3))
  logits = jnp.zeros((3, 3, 3)).at[0, 1, 0].set(jnp.nan)
  logits = logits.at[1, 0, 2].set(jnp.nan)
  ctx = types.Context(
      jnp.zeros((3, 4), jnp.int32), jnp.ones((3,), jnp.int32),
      keys_lib.row_keys(0, 3), None, None)
  judge = jax.jit(joint.walk, static_argnums=(0, 1))
  verdict = judge(BLOCK, sampling_lib.Sampling(), tree, logits, ctx)
  assert [1 in verdict.path[0], 0 in verdict.path[1]] == [True, True]
  assert (verdict.count == jnp.asarray([2, 1, 3])).all()


def test_every_node_has_its_own_past():
  sampling = sampling_lib.Sampling(repetition_penalty=2.)
  tokens = jnp.asarray([[5, 1, 2, 1, 3]], jnp.int32)
  parents = jnp.asarray([[-1, 0, 0, 2, 1]], jnp.int32)
  tree = types.DraftTree(
      tokens, parents, jnp.ones((1, 5), bool), None, "iid", 2, 2)
  ctx = types.Context(jnp.asarray([[4, 5, 0]], jnp.int32),
                      jnp.asarray([2], jnp.int32), None, None, None)
  logits = jax.random.normal(jax.random.key(0), (1, 5, 6))
  pasts = [{4, 5}, {4, 5, 1}, {4, 5, 2}, {4, 5, 2, 1}, {4, 5, 1, 3}]
  seen = np.asarray([[[t in past for t in range(6)] for past in pasts]])
  laws = jax.jit(joint.node_laws, static_argnums=0)
  np.testing.assert_allclose(
      laws(sampling, tree, logits, ctx),
      jax.jit(sampling.probs)(logits, seen), rtol=1e-6)


def test_blocks_take_chains_only():
  with pytest.raises(ValueError, match="max_children=2; expected 1"):
    BLOCK.law(jnp.ones(2) / 2, jnp.ones(2) / 2, jnp.arange(2),
              jnp.ones(2, bool))
