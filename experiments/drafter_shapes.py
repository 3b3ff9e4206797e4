"""Chains and small trees of the same drafters, for `experiments.drafter_race`.

A drafter's own default is the tree of its paper, made for a GPU: about sixty
nodes. Where a node costs time, a chain or a tree of seven drafts is a better
choice, and the only fair one between drafters of different papers.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from absl import flags

from experiments import common
from spec_jax import systems
from spec_jax.models import bundle as bundle_lib

SHAPES = ("chain", "tree", "published")

_LEVELS = 4
_GROWN = MappingProxyType({
    "chain": {"budget": 6, "depth": 5, "top_k": 1},
    "tree": {"budget": 8, "depth": 5, "top_k": 2}})
_STATIC = MappingProxyType({
    "chain": {"branching": ((1,),) * _LEVELS},
    "tree": {"branching": ((3,), (2, 1, 0), (1, 0, 0))}})
# These draft a chain only.
_CHAIN = MappingProxyType({"chain": {}})

# By system, then by shape: hyper-parameters. The order is that of training:
# who begins with another's part follows it.
BY_SYSTEM: Mapping[str, Mapping[str, Mapping[str, Any]]] = MappingProxyType({
    "medusa_1": _STATIC,
    "medusa_2": _STATIC,
    "bpd": _CHAIN,
    "bpd_rescored": _CHAIN,
    "token_embedding_speculator": MappingProxyType({
        "chain": {"branching": (1, 1, 1), "candidates": 1},
        "tree": {"branching": (3, 1, 1), "candidates": 3}}),
    "hydra": _STATIC,
    "koala": _STATIC,
    "recurrent_drafter": MappingProxyType({
        "chain": {"width": 1, "depth": _LEVELS},
        "tree": {"width": 3, "depth": 2}}),
    "hydra_pp": _STATIC,
    "clover_2": _STATIC,
    "chimera": _STATIC,
    "kangaroo": _CHAIN,
    "eesd": _CHAIN,
    "glide": _CHAIN,
    "glide_cape": MappingProxyType({"tree": {"widths": (3, 2, 1)}}),
    "eagle_2": _GROWN,
    "eagle_1": _STATIC,
    "koala_eagle": _GROWN,
    "ada_eagle": _CHAIN,
    "fr_spec": _GROWN,
    "vocab_trim": _GROWN,
    "eagle_3": _GROWN,
    "jakiro": _GROWN,
    "gumiho": MappingProxyType({
        "chain": {"budget": 6, "depth": 5, "top_k": 1, "width": 1,
                  "borrowed": 0},
        "tree": {"budget": 8, "depth": 5, "top_k": 2, "width": 2,
                 "borrowed": 0}}),
    "coral": _GROWN,
    "fspad": _GROWN,
    "scylla": _GROWN,
    "falcon": _STATIC,
    "poss": _GROWN,
})

# Systems that decode with a part of another one, which trains it.
PARTS: Mapping[str, str] = MappingProxyType(
    {"eagle_1": "eagle_2", "glide_cape": "glide"})


def define(values: flags.FlagValues) -> None:
  """--shape; others than `SHAPES` are refused before a program begins."""
  flags.DEFINE_list("shape", ["chain", "tree"], "Of the drafts, one or more of"
                    f" {', '.join(SHAPES)}.", flag_values=values)
  flags.register_validator("shape", _are_known, flag_values=values)


def _are_known(given):
  for shape in given:
    if shape not in SHAPES:
      raise flags.ValidationError(
          f"--shape={shape}, expected some of {', '.join(SHAPES)}.")
  return True


def shapes_of(name: str) -> tuple[str, ...]:
  """The shapes a system knows."""
  known = BY_SYSTEM[name]
  return tuple(s for s in SHAPES if s in known or (
      s == "published" and known is not _CHAIN))


def hyper_parameters(name: str, shape: str) -> dict[str, Any]:
  """What a system is built with; nothing for its published default."""
  return dict(BY_SYSTEM[name].get(shape, {}))


def choose(bundle: bundle_lib.Bundle, name: str, shape: str) -> common.Choice:
  """A system that drafts in a shape; raises ValueError if it cannot be."""
  return build(bundle, name, hyper_parameters(name, shape))


def build(bundle: bundle_lib.Bundle, name: str, hyper: Mapping[str, Any]
          ) -> common.Choice:
  """A system with these hyper-parameters, nothing that the bundle tuned."""
  system, params = systems.build(name, bundle, **hyper)
  return common.Choice(name, system, params,
                       systems.hyper_parameters(name) | dict(hyper),
                       systems.info(name).exact, common.baseline_name(name))
