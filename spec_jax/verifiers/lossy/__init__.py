"""Rules that change what is sampled, and say by how much.

Every rule here has `exact = False`; `verifiers.exact_bias` gives the total
variation between what it emits and the target, by the rule's own law.

All are also relaxations of greedy decoding, where they need the target's
probabilities and not only its argmax: `lossy.walk` carries them through a tree
so. Under the plain walk they see a point mass at temperature 0 and only match.
"""
