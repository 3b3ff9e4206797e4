"""The optimum against golden values, all subsets, and its own laws."""

import functools

import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spec_jax.verifiers import enumeration
from tests.exactness import golden
import theory
from theory import optimal
from theory import submodular
from theory import successive

_NAMES = {"iid": "iid", "without_replacement": "wor", "greedy": "greedy"}
_DISTINCT = ("without_replacement", "greedy")
V = 5


def golden_cases():
  for case in golden.single_step():
    p, q, num_drafts = golden.problem(case)
    for draw, key in _NAMES.items():
      yield pytest.param(p, q, num_drafts, draw,
                         case["optimal"][key]["alpha_lp"],
                         id=f"{case['id']}_{draw}")
  for case in golden.table()["non_identical_drafts"]:
    yield pytest.param(case["p"], case["qs"], case["k"], "independent",
                       case["alpha_lp"], id=case["id"])


def subset_excess(p, q, num_drafts, draw):
  """`bool[2^V, V]` all sets and `p(H) - Q(H)` of each, tuple by tuple."""
  sets = (np.arange(1 << p.size)[:, None] >> np.arange(p.size)) & 1 == 1
  tuples, weights = enumeration.draft_tuples(q, num_drafts, draw)
  return sets, sets @ p - sets[:, tuples].all(-1) @ weights


def subset_excess_of_masses(p, q):
  """As `subset_excess`, for `f64[K, V]` independent drafts and more tokens."""
  sets = (np.arange(1 << p.size)[:, None] >> np.arange(p.size)) & 1 == 1
  return sets, sets @ p - (sets @ q.T).prod(1)


def random_laws(seed, *shape, concentration=.3):
  rng = np.random.default_rng(seed)
  laws = rng.dirichlet(np.full(shape[-1], concentration),
                       size=(2,) + shape[:-1])
  return laws[0], laws[1]


@st.composite
def problems(draw):
  """Small integer weights: ties, zeros and point masses abound."""
  weights = st.lists(st.integers(0, 3) | st.sampled_from((1e-9, 1e3)),
                     min_size=V, max_size=V).filter(any)
  law = weights.map(lambda w: np.asarray(w, float) / np.sum(w))
  num_drafts = draw(st.integers(1, 4))
  kind = draw(st.sampled_from(theory.DRAWS))
  p, q = draw(law), draw(law)
  if kind == "independent":
    q = np.stack([q] + [draw(law) for _ in range(num_drafts - 1)])
  if kind in _DISTINCT:
    num_drafts = min(num_drafts, int((q > 0).sum()))
  return p, q, num_drafts, kind


@pytest.mark.parametrize("p,q,num_drafts,draw,expected", golden_cases())
def test_golden(p, q, num_drafts, draw, expected):
  found = theory.optimal_acceptance(p, q, num_drafts, draw)
  np.testing.assert_allclose(found, expected, atol=1e-9)


@hypothesis.given(problem=problems())
@hypothesis.settings(deadline=None, max_examples=300, derandomize=True)
def test_equals_the_minimum_over_all_subsets(problem):
  p, q, num_drafts, draw = problem
  alpha, chosen = theory.optimal_acceptance(*problem, return_set=True)
  sets, excess = subset_excess(*problem)
  np.testing.assert_allclose(alpha, 1 + excess.min(), atol=1e-12)
  attained = excess[(sets == chosen).all(1)]
  np.testing.assert_allclose(attained, [alpha - 1], atol=1e-12)
  if num_drafts == 1:
    only = q if q.ndim == 1 else q[0]
    np.testing.assert_allclose(
        alpha, 1 - np.abs(p - only).sum() / 2, atol=1e-12)


@pytest.mark.parametrize("concentration", [.05, .3, 3.])
def test_orders(concentration):
  p, q = random_laws(1, 30, 18, concentration=concentration)
  q = (q + 1e-12) / (1 + 18e-12)
  counts = (1, 2, 3, 4, 7, 16)
  iid, distinct = (
      np.stack([theory.optimal_acceptance(p, q, k, draw) for k in counts])
      for draw in ("iid", "without_replacement"))
  for values in (iid, distinct):
    assert (np.diff(values, axis=0) >= -1e-12).all()
  assert (distinct >= iid - 1e-12).all() and (distinct <= 1).all()
  assert (distinct - iid).max() > 1e-3


def test_more_drafts_from_other_laws_never_hurt():
  p, _ = random_laws(2, 20, V)
  q = np.stack(random_laws(3, 20, V) + random_laws(4, 20, V), 1)
  values = [theory.optimal_acceptance(p, q[:, :k], k, "independent")
            for k in (1, 2, 3, 4)]
  assert (np.diff(values, axis=0) >= -1e-12).all()


def test_the_enclosure_equals_all_subsets():
  p, q = random_laws(9, 3, 6, 10)
  q = q[0]
  for p_ in np.concatenate([p.reshape(-1, 10), np.eye(10)[:1], q[:1]]):
    for num_drafts in (2, 6):
      value, chosen = submodular.minimise(p_, q[:num_drafts])
      sets, excess = subset_excess_of_masses(p_, q[:num_drafts])
      np.testing.assert_allclose(value, excess.min(), atol=1e-10)
      np.testing.assert_allclose(
          excess[(sets == chosen).all(1)], [value], atol=1e-14)


@pytest.mark.parametrize("size", [17, 64])
def test_equal_laws_of_their_own_are_one_law(size):
  p, q = random_laws(10, 3, size, concentration=1.)
  own = np.repeat(q[:, None], 3, 1)
  expected = theory.optimal_acceptance(p, q, 3)
  found, chosen = theory.optimal_acceptance(
      p, own, 3, "independent", return_set=True)
  np.testing.assert_allclose(found, expected, atol=1e-9)
  inside = [1 + p[i][c].sum() - q[i][c].sum() ** 3
            for i, c in enumerate(chosen)]
  np.testing.assert_allclose(inside, found, atol=1e-14)


@pytest.mark.parametrize("num_tokens", [64, 1000])
@pytest.mark.parametrize("share", [.5, .9, .99, 1.])
def test_differing_drafts_close_to_the_target(num_tokens, share):
  """An optimum near 1, where many sets are nearly as good."""
  rng = np.random.default_rng(num_tokens)
  p, *own = rng.dirichlet(np.full(num_tokens, .2), size=4)
  q = (1 - share) * np.stack(own) + share * p
  previous = 0.
  for num_drafts in (1, 2, 3):
    found, chosen = theory.optimal_acceptance(
        p, q[:num_drafts], num_drafts, "independent", return_set=True)
    value = 1 + p[chosen].sum() - q[:num_drafts, chosen].sum(1).prod()
    np.testing.assert_allclose(value, found, atol=1e-12)
    assert previous - 1e-9 <= found <= 1
    previous = found
  if share == 1:
    np.testing.assert_allclose(previous, 1, atol=1e-12)


def test_a_search_without_end_is_refused(monkeypatch):
  p, q = random_laws(11, 1, 64, concentration=1.)
  own = np.stack([q, np.roll(q, 1, -1), .5 * (p + q)], 1)
  monkeypatch.setattr(submodular, "MAX_BOXES", 1)
  with pytest.raises(RuntimeError, match="1 boxes do not prove the least"):
    theory.optimal_acceptance(p, own, 3, "independent")


def test_inside_jit_there_is_no_enclosure():
  fn = _jitted(2, "independent")
  with pytest.raises(ValueError, match="V=17, expected at most 16 tokens"):
    fn(jnp.zeros(17), jnp.zeros((2, 17)))


def _dtypes():
  yield pytest.param(np, np.float64, 1e-12, id="numpy")
  yield pytest.param(jnp, np.float32, 5e-6, id="jax")


@pytest.mark.parametrize("xp,dtype,atol", _dtypes())
@pytest.mark.parametrize("num_drafts", [2, 3, 8, 16])
def test_a_flat_law_drawn_without_replacement(xp, dtype, atol, num_drafts):
  # Of m tokens out of V, K distinct ones: m (m - 1) ... / (V (V - 1) ...).
  size = 2000
  m = np.arange(1, size + 1)[:, None] - np.arange(num_drafts)
  expected = (m.clip(0) / m[-1]).prod(1)
  found = successive.inside_prefixes(
      xp, xp.full(size, 1 / size, dtype), num_drafts)
  assert found.dtype == dtype
  np.testing.assert_allclose(found, expected, atol=atol)


def test_the_integral_equals_the_formula_for_pairs():
  _, q = random_laws(5, 20, 300)
  q = np.concatenate([q, np.roll(q, 7, -1) ** 3], 0)
  q = q / q.sum(-1, keepdims=True)
  np.testing.assert_allclose(
      successive._integrate(np, q, 2), successive._pairs(np, q), atol=1e-11)


@pytest.mark.parametrize("xp,dtype,atol", _dtypes())
@pytest.mark.parametrize("tiny", [1e-9, 1e-36])
def test_a_peaked_law_without_replacement(xp, dtype, atol, tiny):
  # The peak is drawn first but for `tiny`; then the others, 3 to 1 and 1 to 1.
  q = xp.asarray([1., 3 * tiny, tiny, tiny], dtype)
  inside = successive.inside_prefixes(xp, q / q.sum(), 3)
  np.testing.assert_allclose(inside, [0, 0, 3 / 5 * 1 / 2 + 1 / 5 * 3 / 4, 1],
                             atol=4 * tiny + atol)


@functools.cache
def _jitted(num_drafts, draw):
  return jax.jit(functools.partial(
      theory.optimal_acceptance, num_drafts=num_drafts, draw=draw,
      return_set=True))


@pytest.mark.parametrize("draw", theory.DRAWS)
@pytest.mark.parametrize("num_drafts", [1, 3])
def test_jit_equals_eager_and_a_batch_equals_its_rows(draw, num_drafts):
  p, q = random_laws(6, 4, 3, V, concentration=1.)
  if draw == "independent":
    q = np.stack([q, q[::-1], np.roll(q, 1, -1)][:num_drafts], -2)
  rows = [theory.optimal_acceptance(p[i], q[i], num_drafts, draw)
          for i in range(4)]
  eager, chosen = theory.optimal_acceptance(
      p, q, num_drafts, draw, return_set=True)
  np.testing.assert_allclose(eager, rows, atol=1e-14)
  fn = _jitted(num_drafts, draw)
  found, _ = fn(jnp.asarray(p, jnp.float32), jnp.asarray(q, jnp.float32))
  assert found.dtype == jnp.float32
  np.testing.assert_allclose(found, eager, atol=2e-6)
  with jax.enable_x64(True):
    found, found_set = fn(jnp.asarray(p), jnp.asarray(q))
    assert found.dtype == jnp.float64
    np.testing.assert_allclose(found, eager, atol=1e-13)
    np.testing.assert_array_equal(found_set, chosen)


@pytest.mark.parametrize("draw", _DISTINCT)
def test_inside_jit_no_more_are_drawn_than_there_are(draw):
  q = jnp.asarray([[.5, .5, 0, 0, 0], [0, 0, 0, 1, 0]], jnp.float32)
  p = jnp.asarray([[.1, .2, .3, .2, .2]] * 2, jnp.float32)
  alpha, chosen = _jitted(3, draw)(p, q)
  np.testing.assert_allclose(alpha, [.3, .2], atol=1e-6)
  np.testing.assert_array_equal(chosen, np.asarray(q) > 0)


def test_float32_at_a_real_vocabulary():
  p, q = random_laws(7, 1 << 16)
  for draw in ("iid", "greedy"):
    exact = theory.optimal_acceptance(p, q, 8, draw)
    found = theory.optimal_acceptance(
        jnp.asarray(p, jnp.float32), jnp.asarray(q, jnp.float32), 8, draw)
    np.testing.assert_allclose(found, exact, atol=5e-6)


_HALF = [.5, .5]
_WIDE = [1 / 17] * 17


@pytest.mark.parametrize("arguments,message", [
    ((_HALF, [1.], 1), "p has shape (2,), q (1,)"),
    (([], [], 1), "expected [..., V] with V at least 1"),
    ((_HALF, [_HALF], 2, "independent"), "expected q of shape (2, 2)"),
    ((_HALF, _HALF, 0), "num_drafts=0, expected an integer >= 1"),
    ((_HALF, _HALF, 2, "beam"), "draw='beam', expected one of"),
    (([.5, .6], _HALF, 2), "p sums to 1.1, expected 1"),
    (([_HALF] * 2, [_HALF, [.5, .4]], 2), "q sums to 0.9, expected 1"),
    ((_HALF, [1.5, -.5], 2), "q holds -0.5, expected finite"),
    (([np.nan, 1], _HALF, 2), "p holds nan, expected finite"),
    ((_HALF, [1., 0.], 2, "without_replacement"), "q has only 1 tokens"),
    ((_HALF, _HALF, 3, "greedy"), "q has only 2 tokens"),
    ((_WIDE, _WIDE, 17, "without_replacement"), "expected at most 16 drafts")])
def test_bad_arguments(arguments, message):
  with pytest.raises(ValueError) as error:
    optimal.optimal_acceptance(*arguments)
  assert message in str(error.value)


@pytest.mark.parametrize("num_drafts", [1, 2, 4])
def test_given_drafts_are_laws_of_one_token(num_drafts):
  """The same number as the search for independent drafts finds for them."""
  rng = np.random.default_rng(num_drafts)
  p, _ = random_laws(num_drafts, 20, V)
  drafts = rng.integers(V, size=(20, num_drafts))
  wanted = theory.optimal_acceptance(
      p, np.eye(V)[drafts], num_drafts, "independent")
  found = theory.given_acceptance(p, drafts)
  np.testing.assert_allclose(found, wanted, atol=1e-12)
  assert 0 < found.min() < found.max() <= 1


@pytest.mark.parametrize("p, drafts, message", [
    ([.5, .4], [0], "p"), ([.5, .5], [2], "from 0 to 2, expected token ids"),
    ([.5, .5], [-1], "from -1 to 0"), ([.5, .5], [[0]], r"shape \(1, 1\)"),
])
def test_mistakes_in_given_drafts_are_named(p, drafts, message):
  with pytest.raises(ValueError, match=message):
    theory.given_acceptance(p, drafts)
