"""Which child is the accepted one: what static trees are planned with.

A tree of a drafter is planned from the probability that the first, second, ...
child of a node is the one that is accepted (Sequoia, Sec. 3.1; Medusa, Sec.
2.3.3 by depth). It is measured here on text of the target: at each position
children are drawn from the draft's law, and the rule's own law says how likely
each of them is emitted.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from spec_jax.core import sampling as sampling_lib
from spec_jax.verifiers import matching
from spec_jax.verifiers import recursive

_CHUNK = 512


def rank_acceptance(model_logits, draft_logits, sampling: sampling_lib.Sampling,
                    num_children: int, seed: int = 0) -> np.ndarray:
  """Acceptance by rank, the mean over positions.

  At temperature 0 the children are the draft's most likely tokens and the
  target's argmax decides; above, they are drawn without replacement and
  recursive rejection decides.

  Args:
    model_logits: `f32[n, V]`, the target's.
    draft_logits: `f32[n, V]`, the draft's at the same positions.
    sampling: logits to law, for both.
    num_children: R.
    seed: of the draws.

  Returns:
    `f64[R]`, of sum at most 1.

  Raises:
    ValueError: if there is no position, or more children than tokens.
  """
  num, vocab_size = model_logits.shape
  if not num or not 1 <= num_children <= vocab_size:
    raise ValueError(
        f"{num} positions and num_children={num_children}, expected at least"
        f" one and 1 to {vocab_size} children.")
  total = np.zeros(num_children)
  for start in range(0, num, _CHUNK):
    keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), start),
                            len(model_logits[start:start + _CHUNK]))
    total += np.asarray(_sum(
        sampling, num_children, model_logits[start:start + _CHUNK],
        draft_logits[start:start + _CHUNK], keys), np.float64)
  return total / num


@functools.partial(jax.jit, static_argnums=(0, 1))
def _sum(sampling, num_children, model_logits, draft_logits, keys):
  def one(p_logits, q_logits, key):
    p, q = sampling.probs(p_logits), sampling.probs(q_logits)
    if sampling.is_greedy:
      tokens = jax.lax.top_k(q_logits, num_children)[1].astype(jnp.int32)
      exists, rule = jnp.ones(num_children, bool), matching.SampleAndMatch()
    else:
      noise = sampling_lib.clocks(key, q.shape[-1], q.dtype)
      tokens, exists = sampling_lib.first_k_to_ring(q, noise, num_children)
      rule = recursive.RecursiveWithoutReplacement()
    law = rule.law(p, q, tokens, exists)
    return jnp.where(exists, law[tokens], 0)
  return jax.vmap(one)(model_logits, draft_logits, keys).sum(0)
