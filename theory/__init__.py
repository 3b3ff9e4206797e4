"""The best acceptance that any exact rule can reach; nothing of `spec_jax`.

`optimal_acceptance` is a formula for real vocabularies, NumPy or JAX;
`optimal_acceptance_lp` solves the transport program that it must equal.

>>> import theory
>>> p, q = [.5, .3, .2], [.2, .3, .5]
>>> round(float(theory.optimal_acceptance(p, q, num_drafts=2)), 6)
0.86
>>> found = theory.optimal_acceptance_lp(p, q, num_drafts=2, draw="iid")
>>> round(found.value, 6), found.plan.shape
(0.86, (6, 3))
"""

from theory.optimal import given_acceptance
from theory.optimal import optimal_acceptance
from theory.problems import DRAWS
from theory.transport import draft_sets
from theory.transport import optimal_acceptance_lp
from theory.transport import Transport

__all__ = ["DRAWS", "Transport", "draft_sets", "given_acceptance",
           "optimal_acceptance", "optimal_acceptance_lp"]
