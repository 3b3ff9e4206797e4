"""Token rules: how drafts are kept without changing what is sampled.

>>> from spec_jax import verifiers
>>> verifiers.info("recursive").draws
('iid', 'independent')
>>> round(verifiers.exact_acceptance(
...     "recursive", [.5, .3, .2], [.2, .3, .5], 2, "iid"), 6)
0.76
"""

from spec_jax.verifiers.acceptance_rate import Acceptance
from spec_jax.verifiers.acceptance_rate import acceptance
from spec_jax.verifiers.bias import exact_bias
from spec_jax.verifiers.enumeration import exact_acceptance
from spec_jax.verifiers.enumeration import exact_output_law
from spec_jax.verifiers.rules import get
from spec_jax.verifiers.rules import info
from spec_jax.verifiers.rules import names
from spec_jax.verifiers.rules import RuleInfo

__all__ = ["Acceptance", "RuleInfo", "acceptance", "exact_acceptance",
           "exact_bias", "exact_output_law", "get", "info", "names"]
