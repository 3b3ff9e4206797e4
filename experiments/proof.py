"""Evidence that nothing was lost: equal texts where they must be equal, equal
laws where only the law can be.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from experiments import common
from experiments import comparison
from spec_jax import api
from spec_jax import verifiers
from spec_jax.core import keys as keys_lib
from spec_jax.core import sampling as sampling_lib
from spec_jax.core import types
from spec_jax.evaluation import equality
from spec_jax.evaluation import workload as workload_lib
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
  scale = max(1.0, float(jnp.abs(logits).max())) / result.temperature
  is_tie = gap <= float(jnp.finfo(model.dtype).eps) ** 0.5 * scale
  verdict = "a near-tie that rounding can decide" if is_tie else (
      "more than rounding explains")
  return is_tie, (f"{found.explain()} With the noise of that position the two"
                  f" are {gap:.3g} apart: {verdict}.")


def spec_law(logits: jax.Array, temperature: float) -> jax.Array:
  """The law that decoding samples from."""
  return sampling_lib.Sampling(temperature).probs(logits)


def enumerated_laws() -> list[Check]:
  """Each rule's output law, all drafts summed out in float64."""
  checks = []
  for name in verifiers.names():
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
    checks.append(Check("output law, enumerated", name,
                        error <= _LAW_TOLERANCE or not rule.exact, detail))
  return checks


def sampled_laws(choices: Sequence[common.Choice], temperature: float,
                 prompt: Sequence[int], num_rows: int, seed: int
                 ) -> list[Check]:
  """Chi-square of the first two tokens of many rows, on the real models."""
  prompt = list(prompt)[-_TAIL:]
  checks, laws = [], {}
  for choice in choices:
    is_coupled = isinstance(choice.system.verifier, matching.SampleAndMatch)
    if is_coupled or not choice.exact or not choice.system.drafter.depth:
      continue
    if choice.baseline not in laws:
      laws[choice.baseline] = two_token_law(choice, temperature, prompt)
    top, expected = laws[choice.baseline]
    decoded = api.generate(
        choice.at(temperature), choice.params, [prompt] * num_rows,
        max_new_tokens=2, seed=seed + 1, executor=choice.executor,
        sampling=sampling_lib.Sampling(temperature))
    counts = np.zeros_like(expected)
    for row in decoded.tokens:
      counts[_cell(row, top, choice.system.target.vocab_size)] += 1
    p, cells = p_value(counts, expected)
    checks.append(Check(
        "first two tokens, chi-square", choice.name, p >= _REJECT_BELOW,
        f"p = {p:.3f} over {cells} cells, {num_rows} rows"))
  return checks


def two_token_law(choice, temperature, prompt):
  """The likeliest first tokens, and the law of `_cell`s."""
  score = lambda rows: spec_law(choice.system.target.score(
      choice.params.target, jnp.asarray(rows, jnp.int32)).logits[:, -1],
                                temperature)
  first = np.asarray(score([prompt])[0], np.float64)
  top = np.argsort(-first)[:_TOP]
  second = np.asarray(score([prompt + [int(t)] for t in top]), np.float64)
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
