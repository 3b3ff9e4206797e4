"""Evidence that nothing was lost: equal texts where they must be equal, equal
laws where only the law can be.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from experiments import common
from experiments import comparison
from spec_jax import verifiers
from spec_jax.core import keys as keys_lib
from spec_jax.core import sampling as sampling_lib
from spec_jax.core import types
from spec_jax.evaluation import ahead
from spec_jax.evaluation import equality
from spec_jax.evaluation import workload as workload_lib
from spec_jax.executors import decoding
from spec_jax.verifiers import matching

# Draft and target laws that disagree, agree, and disagree strongly.
TOY_LAWS = (
    ((.5, .3, .15, .05), (.1, .2, .3, .4)),
    ((.25, .25, .25, .25), (.25, .25, .25, .25)),
    ((.02, .9, .05, .03), (.7, .1, .1, .1)),
)
_LAW_TOLERANCE = 1e-12
_REJECT_BELOW = 1e-4
_TOP = 8  # First tokens after which the second is tested as well.
_MIN_EXPECTED = 5.0
_TAIL = 8  # Prompt tokens of the law test; the law is any prompt's.


@dataclasses.dataclass(frozen=True)
class Check:
  """One line of the proof; `name` of the system or rule."""

  title: str
  name: str
  passed: bool
  detail: str


def greedy_texts(results: Mapping[str, comparison.Result]) -> list[Check]:
  """Every exact system's greedy text against plain decoding of its target."""
  checks = []
  for name, result in results.items():
    if name == result.choice.baseline or not result.choice.exact:
      continue
    expected = _texts(results[result.choice.baseline].first)
    found = equality.first_difference(
        expected, _texts(result.first), result.choice.system.target,
        result.choice.params.target)
    detail = (_all_equal(result.first) if found is None else found.explain())
    checks.append(Check("greedy text equals autoregressive", name,
                        found is None or found.is_near_tie, detail))
  return checks


def coupled_texts(results: Mapping[str, comparison.Result],
                  work: workload_lib.Workload) -> list[Check]:
  """Sampled texts of the systems that share the baseline's noise."""
  checks = []
  for name, result in results.items():
    is_coupled = isinstance(result.choice.system.verifier,
                            matching.SampleAndMatch)
    if name == result.choice.baseline or not is_coupled:
      continue
    expected = _texts(results[result.choice.baseline].first)
    found = equality.first_difference(expected, _texts(result.first))
    if found is None:
      passed, detail = True, _all_equal(result.first)
    else:
      passed, detail = _explain_sampled(
          found, expected[found.row], result, work)
    checks.append(Check("sampled text, same seed, equals autoregressive",
                        name, passed, detail))
  return checks


def _texts(done: workload_lib.Pass) -> list[list[int]]:
  return [prompt + row for prompt, row in zip(done.prompts, done.rows)]


def _all_equal(done: workload_lib.Pass) -> str:
  return (f"{sum(map(len, done.rows))} tokens of {len(done.rows)} texts equal")


def _explain_sampled(found, text, result, work):
  """Whether rounding may have turned the noisy argmax at a difference."""
  if found.expected is None or found.actual is None or any(
      len(c.turns) > 1 for c in work.conversations):
    return False, found.explain()
  model = result.choice.system.target
  logits = model.score(
      result.choice.params.target,
      jnp.asarray([text[:found.position]], jnp.int32)).logits[0, -1]
  law = spec_law(logits, result.temperature)
  key = keys_lib.at(keys_lib.row_keys(work.seed, 1, found.row)[0],
                    found.position, types.Role.EMIT)
  noise = sampling_lib.clocks(key, law.size, law.dtype)
  noisy = np.asarray(jnp.log(law) - jnp.log(noise), np.float64)
  gap = abs(noisy[found.expected] - noisy[found.actual])
  rounding = equality.rounding(
      model, result.choice.params.target, np.asarray(logits))
  is_tie = bool(gap <= rounding / result.temperature)
  return is_tie, (f"{found.explain()} With the noise of that position the two"
                  f" are {gap:.3g} apart: {equality.VERDICTS[is_tie]}.")


def spec_law(logits: jax.Array, temperature: float) -> jax.Array:
  """The law that decoding samples from."""
  return sampling_lib.Sampling(temperature).probs(logits)


def enumerated_laws() -> list[Check]:
  """Each rule's output law, all drafts summed out in float64."""
  return ahead.together([functools.partial(_enumerated_law, name)
                         for name in verifiers.names()])


def _enumerated_law(name):
  rule = verifiers.info(name)
  num_drafts = min(2, rule.max_drafts or 2)
  draws = [draw for draw in rule.draws if draw in types.DRAWS[:-1]]
  error = max(
      np.abs(verifiers.exact_output_law(name, p, q, num_drafts, draw)
             - np.asarray(p)).max()
      for p, q in TOY_LAWS for draw in draws)
  detail = (f"largest error {error:.1e} over {len(TOY_LAWS)} laws, drafts"
            f" {', '.join(draws)}")
  if not rule.exact:
    detail = f"not exact, and says so; {detail}"
  return Check("output law, enumerated", name,
               error <= _LAW_TOLERANCE or not rule.exact, detail)


def sampled_laws(choices: Sequence[common.Choice], temperature: float,
                 work: workload_lib.Workload, num_rows: int) -> list[Check]:
  """Chi-square of the first two tokens of many rows, on the real models."""
  prompt = work.encode(work.conversations[0], 0)[-_TAIL:]
  checks, laws = [], {}
  for choice in choices:
    is_coupled = isinstance(choice.system.verifier, matching.SampleAndMatch)
    if is_coupled or not choice.exact or not choice.system.drafter.depth:
      continue
    if choice.baseline not in laws:
      laws[choice.baseline] = two_token_law(choice, temperature, prompt)
    top, expected = laws[choice.baseline]
    counts = np.zeros_like(expected)
    for row in _first_two(choice, temperature, prompt, work, num_rows):
      counts[_cell(row, top, choice.system.target.vocab_size)] += 1
    p, cells = p_value(counts, expected)
    checks.append(Check(
        "first two tokens, chi-square", choice.name, p >= _REJECT_BELOW,
        f"p = {p:.3f} over {cells} cells, {num_rows} rows"))
  return checks


def _first_two(choice, temperature, prompt, work, num_rows):
  """One or two tokens of each row, by the programs that race.

  Row by row, in the shapes of the workload: a row says alone what it says in a
  batch, and nothing has to be compiled. The prefill draws nothing, so rows
  share it.
  """
  system, params, executor = (
      choice.at(temperature), choice.params, choice.executor)
  like, _ = next(workload_lib.first_turns(work))
  tokens = np.zeros((1, like.tokens.shape[1]), np.int32)
  tokens[0, :len(prompt)] = prompt
  prompts = decoding.Prompts(
      jnp.asarray(tokens), jnp.asarray([len(prompt)], jnp.int32))
  keys = keys_lib.row_keys(work.seed + 1, num_rows)
  state = executor.start(
      system, params, prompts, keys[:1], 2,
      decoding.capacity_for(prompts, work.max_new_tokens))
  for row in range(num_rows):
    own = _copy(state).replace(keys=keys[row:row + 1])  # Rounds consume it.
    done, _ = executor.rounds(
        system, params, own, decoding.zero_counts(system, 1))
    yield np.asarray(done.tokens)[0, len(prompt):int(done.length[0])].tolist()


@jax.jit
def _copy(state):
  return jax.tree.map(jnp.copy, state)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _laws_at(model, temperature, params, rows, place):
  """`f[B, V]`: the laws of what follows token `place` of `i32[B, T]`."""
  logits = model.score(params, rows).logits
  return spec_law(logits[:, place], temperature)


def two_token_law(choice, temperature, prompt):
  """The likeliest first tokens, and the law of `_cell`s."""
  size = len(prompt)
  # One shape for both calls; what stands behind `place` is not seen from it.
  rows = np.tile(np.asarray([*prompt, 0], np.int32), (_TOP, 1))
  laws_at = lambda place: np.asarray(_laws_at(
      choice.system.target, temperature, choice.params.target, rows, place),
                                     np.float64)
  first = laws_at(size - 1)[0]
  top = np.argsort(-first)[:_TOP]
  rows[:len(top), size] = top
  second = laws_at(size)[:len(top)]
  end = choice.system.end_of_text
  if end is not None:  # Nothing follows the end; its cell is the first token.
    second[top == end] = np.eye(first.size)[end]
  joint = first[top, None] * second
  rest = first.copy()
  rest[top] = 0
  return top.tolist(), np.concatenate([joint.ravel(), rest])


def _cell(row, top, vocab_size):
  """Index of (first, second) for a likely first token, else of the first."""
  if row[0] not in top:
    return len(top) * vocab_size + row[0]
  return top.index(row[0]) * vocab_size + row[-1]


def p_value(counts: np.ndarray, law: np.ndarray) -> tuple[float, int]:
  """Pearson's test; the p-value and the number of cells.

  Outcomes are joined, likeliest first, until every cell expects enough; that
  depends on the law alone, so the test stays valid.
  """
  order = np.argsort(-law, kind="stable")
  counts, expected = counts[order], law[order] / law.sum() * counts.sum()
  if counts[expected == 0].any():
    return 0.0, 0
  ends, mass = [], 0.0
  for i, value in enumerate(expected):
    mass += value
    if mass >= _MIN_EXPECTED:
      ends.append(i)
      mass = 0.0
  if len(ends) < 2:
    return 1.0, len(ends)
  # What is left at the end joins the last cell.
  starts = [0] + [end + 1 for end in ends[:-1]]
  cells = np.add.reduceat(counts, starts), np.add.reduceat(expected, starts)
  return float(stats.chisquare(*cells).pvalue), len(ends)
