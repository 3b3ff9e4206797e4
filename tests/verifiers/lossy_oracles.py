"""The lossy rules as algorithms, every coin enumerated; no code of theirs."""

import functools

import numpy as np

from spec_jax.verifiers import enumeration
from theory import lossy as theory_lossy
from theory.oracles import chance as chance_lib

V = 5  # One vocabulary, so that compilations are shared.
KINDS = {"lin": "linear", "sq": "square", "exp": "power"}


def relaxed(p, q, delta, is_relative, table):
  """Drafts one after the other, as the published code walks through them."""

  def verify(chance, drafts):
    target, left, uniform = np.array(p), q, np.full(len(p), 1 / len(p))
    for x in drafts:
      near, backing, used = table[x], 0., False
      for m in range(1, len(near) + 1):
        mass = target[near[:m]].sum()
        if 1e-14 < mass <= (delta * target[x] if is_relative else delta):
          backing, used = mass, True
      drawn_with = 1. if left is None else left[x]
      if chance.flip(min(1., (target[x] + backing) / drawn_with)):
        return x
      cleared = list(near) if used else []
      if left is None:
        target[[x, *cleared]] = 0
      else:
        taken = left.copy()
        taken[cleared] = 0
        target = np.maximum(target - taken, 0)
        left = np.where(np.arange(len(p)) == x, 0, left)
        left = left / left.sum() if left.sum() > 0 else left
      total = target.sum()
      target = target / total if total > 1e-12 else uniform
    return chance.draw(target)

  return verify


def likeliest(p, accepted, rest):
  def verify(chance, drafts):
    best = max((x for x in drafts if x in accepted), default=None,
               key=lambda x: p[x])  # max takes the first of equals.
    return chance.draw(rest) if best is None else best
  return verify


def program_of(name, hyper, p, q):
  """The algorithm of a configured rule, without a line of its code."""
  top = np.eye(V)[np.argmax(p)]
  if name == "relaxed":
    return relaxed(p, q, hyper["delta"], hyper.get("is_relative"),
                          hyper["neighbours"].table)
  if name == "top_k_acceptance":
    floor = sorted(p)[-hyper["k"]]
    return likeliest(p, {x for x in range(V) if p[x] >= floor > 0
                                or p[x] > floor}, p)
  if name == "distance_acceptance":
    far = hyper["epsilon"]
    return likeliest(
        p, {x for x in range(V) if abs(x - list(p).index(max(p))) <= far}, p)
  entropy = -sum(m * np.log(m) for m in p if m > 0)
  if name == "threshold":
    floor = min(hyper["intercept"] - hyper["slope"] * entropy, max(p))
    return likeliest(
        p, {x for x in range(V) if p[x] >= floor and p[x] > 0}, p)
  floor = theory_lossy.typical_threshold(
      p, hyper.get("epsilon", .09), hyper.get("delta", .3))
  accepted = {x for x in range(V) if p[x] > floor}
  kept = np.where([x in accepted for x in range(V)], p, 0)
  rests = {"greedy": top, "target": p,
           "truncated": kept / kept.sum() if accepted else top}
  return likeliest(p, accepted, rests[hyper.get("otherwise", "greedy")])


def law(name, hyper, p, q, num_drafts, draw):
  if name == "lenience" and draw != "top_k":
    back = {kind: key for key, kind in KINDS.items()}
    return theory_lossy.lenient(
        p, q, hyper["epsilon"], back[hyper.get("kind", "linear")])[1]
  mass = np.zeros(V)
  for drafts, weight in zip(*enumeration.draft_tuples(q, num_drafts, draw)):
    if name == "lenience":
      return law(name, hyper, p, np.eye(V)[drafts[0]], 1, "iid")
    verify = program_of(name, hyper, p, None if draw == "top_k" else q)
    program = functools.partial(verify, drafts=drafts.tolist())
    for token, chance in chance_lib.outcomes(program).items():
      mass[token] += weight * chance
  return mass
