"""Published systems, one file each, found by name.

>>> from spec_jax import systems
>>> "specinfer" in systems.names()
True
>>> systems.info("specinfer").family
'classic'
"""

import dataclasses
import importlib
import inspect
import math
import pkgutil

import jax

from spec_jax.core import registry as registry_lib
from spec_jax.core import types
from spec_jax.systems import registration


def _discover() -> None:
  """Imports every module below this package, so that each registers."""
  for module in pkgutil.walk_packages(__path__, __name__ + "."):
    importlib.import_module(module.name)


def names() -> tuple[str, ...]:
  """All registered names, sorted."""
  return registration.REGISTRY.names()


def info(name: str) -> registry_lib.Entry:
  """What is known of a system: papers, family, exactness, summary.

  Raises:
    UnknownName: offering the nearest names.
  """
  return registration.REGISTRY[name]


def hyper_parameters(name: str) -> dict[str, object]:
  """The keyword arguments of a system's builder with their defaults."""
  parameters = inspect.signature(info(name).build).parameters.values()
  return {p.name: p.default for p in parameters
          if p.kind is inspect.Parameter.KEYWORD_ONLY}


def build(name: str, bundle, **hyper):
  """Composes a system from a bundle.

  Args:
    name: as registered.
    bundle: a `models.bundle.Bundle`.
    **hyper: hyper-parameters of the system; see `hyper_parameters(name)`.

  Returns:
    The `System` and its `Params`; the target in these is the system's own
    where it brings one, see `bundle_of`.

  Raises:
    UnknownName: if there is no such system.
    ValueError: for a hyper-parameter it does not have, or one that is NaN.
    IncompatibleParts: if the parts do not fit.
  """
  entry = info(name)
  known = hyper_parameters(name)
  for key in hyper:
    if key not in known:
      raise ValueError(registry_lib.unknown(
          f"hyper-parameter of {name}", key, known or ("none",)))
    _refuse_nan(key, hyper[key])
  parts = registration.Parts(bundle.target, bundle.models, bundle.end_of_text,
                             bundle.heads)
  system = dataclasses.replace(
      entry.build(parts, **hyper), tokenizer=bundle.tokenizer)
  params = bundle_of(name, bundle).params
  return system, types.Params(
      params["target"], _drafter_params(entry.drafter_keys(hyper), params))


def _refuse_nan(key, value):
  """Raises ValueError: NaN passes every check that only asks for too little."""
  if any(isinstance(part, float) and math.isnan(part)
         for part in jax.tree.leaves(value)):
    raise ValueError(f"{key}={value}, expected a number.")


def bundle_of(name: str, bundle):
  """The bundle with the target that a system decodes.

  That is the bundle itself, unless the system brings a target of its own. What
  plain decoding of this bundle writes is what the system has to write.

  Raises:
    UnknownName: if there is no such system.
    ValueError: the bundle lacks what the system's own target is made of.
  """
  adapt_fn = info(name).own_target
  if adapt_fn is None:
    return bundle
  return dataclasses.replace(bundle, params=adapt_fn(bundle.params))


def _drafter_params(keys, params):
  if keys is None:
    return None
  if isinstance(keys, str):
    return params[keys]
  return {key: params[key] for key in keys}


def citation(name: str) -> str:
  """BibTeX of what a system is made of."""
  return "\n\n".join(
      paper.bibtex(name if i == 0 else f"{name}_{i + 1}")
      for i, paper in enumerate(info(name).papers))


def table() -> str:
  """All systems as a markdown table: name, family, exact, year, paper."""
  rows = ["| system | family | exact | year | paper |",
          "|---|---|---|---|---|"]
  for name in names():
    entry = info(name)
    paper = entry.papers[0]
    link = (f"[{paper.title}](https://arxiv.org/abs/{paper.arxiv})"
            if paper.arxiv else paper.title)
    exact = "yes" if entry.exact else "no"
    exact += ", for its own target" if entry.own_target else ""
    rows.append(
        f"| `{name}` | {entry.family} | {exact} | {paper.year} | {link} |")
  return "\n".join(rows)


_discover()
