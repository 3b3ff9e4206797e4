"""Verifiers written from the papers, to judge other implementations by.

Each rule is the paper's sequential algorithm, coins and all; `chance` follows
every path its coins can take and returns the exact law of what it emits. NumPy
and SciPy, float64, for vocabularies of a few tokens.

>>> from theory.oracles import chance, drafting, sequential
>>> import numpy as np
>>> p, q = np.array([.5, .3, .2]), np.array([.2, .3, .5])
>>> rule = sequential.recursive(p, q, 2)
>>> law, accepted = chance.output(rule, drafting.tuples(drafting.iid, q, 2), 3)
>>> law.round(6), round(accepted, 6)
(array([0.5, 0.3, 0.2]), 0.76)
"""
