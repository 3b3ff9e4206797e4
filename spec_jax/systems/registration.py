"""`@register`: how a system file makes itself known."""

from collections.abc import Callable
from collections.abc import Mapping
import dataclasses
import functools
import inspect
from typing import Any

from spec_jax.caches import dense
from spec_jax.core import registry as registry_lib
from spec_jax.core import system as system_lib
from spec_jax.core import types
from spec_jax.verifiers import block
from spec_jax.verifiers import joint
from spec_jax.verifiers import matching
from spec_jax.verifiers import walk as walk_lib
from spec_jax.verifiers.lossy import walk as lossy_walk

REGISTRY = registry_lib.Registry("system")


@dataclasses.dataclass(frozen=True)
class Parts:
  """What a builder may compose from: models without their parameters.

  Attributes:
    target: the target model.
    models: further models by name, as the bundle ships them.
    end_of_text: token id that ends a row, or None.
    heads: hyper-parameters of trained parts by name, as the bundle ships them.
  """

  target: Any
  models: dict[str, Any]
  end_of_text: int | None = None
  heads: Mapping[str, Mapping[str, Any]] = dataclasses.field(
      default_factory=dict)

  def model(self, name: str) -> Any:
    """Raises ValueError if the bundle has no such model."""
    if name not in self.models:
      none = "no draft models; --hf_draft=FOLDER gives one to --hf"
      raise ValueError(
          f"this system drafts with the model {name!r}, the bundle has"
          f" {sorted(self.models) or none}.")
    return self.models[name]

  def head(self, name: str) -> dict[str, Any]:
    """Raises ValueError if the bundle has no such trained part."""
    if name not in self.heads:
      raise ValueError(
          f"this system needs the trained part {name!r}, the bundle has"
          f" {sorted(self.heads) or 'none'}; `python -m experiments.train"
          f" --system={name} --models=BUNDLE` trains it.")
    return dict(self.heads[name])


def register(name: str, *, papers: tuple[registry_lib.Paper, ...],
             family: str, exact: bool = True,
             drafter: str | tuple[str, ...] | None = None,
             extra: Callable[
                 [Mapping[str, Any]], tuple[str, ...]] | None = None,
             own_target: Callable[[Any], Any] | None = None):
  """Registers a builder `(parts, **hyper-parameters) -> System`.

  Args:
    name: the public name.
    papers: the sources, the one the file is named after first.
    family: the folder below `systems`.
    exact: whether the output law equals the target's. If so, building it with
      a lossy rule raises `IncompatibleParts`.
    drafter: which of the bundle's parameters go to the drafter; of several it
      gets a dictionary.
    extra: which more with some hyper-parameters, see `core.registry.Entry`.
    own_target: of a system whose training changed the target too: a pure
      function, see `core.registry.Entry`. Such a system is exact for that
      target, and everything compares it with plain decoding of it.
  """

  def wrap(build):
    @functools.wraps(build)
    def checked(*args, **hyper):
      system = build(*args, **hyper)
      for part, found in (("rule", system.verifier), ("walk", system.walk)):
        if exact and not getattr(found, "exact", True):
          raise system_lib.IncompatibleParts(
              f"system {name!r} is registered as exact, its {part} {found!r} is"
              " not; register it with exact=False.")
      return system

    REGISTRY.add(name, registry_lib.Entry(
        name=name, build=checked, family=family, papers=papers, exact=exact,
        drafter=drafter, summary=inspect.getdoc(build).splitlines()[0],
        extra=extra, own_target=own_target))
    return checked

  return wrap


def compose(name: str, parts: Parts, drafter: Any, verifier: Any,
            walk: Any = None) -> system_lib.System:
  """A system with the default cache; a `walk` of None is the top-down one."""
  descend = walk or (
      walk_lib.walk if verifier.exact else lossy_walk.walk)
  return system_lib.System(
      name=name, target=parts.target, drafter=drafter, verifier=verifier,
      make_cache=dense.empty, walk=descend, end_of_text=parts.end_of_text)


def compose_chain(name: str, parts: Parts, drafter: Any, draw: str
                  ) -> system_lib.System:
  """A system of chains that are drawn as `draw` says, with the rule for that.

  Tokens drawn at random from the draft's law ("iid") are verified as a block,
  which keeps no fewer than token by token; those that were not ("top_k"), or
  with the noise of the target's own draw ("coupled"), are matched with it.
  """
  if draw in types.RANDOM_DRAWS:
    return compose(
        name, parts, drafter, block.BlockVerification(), joint.walk)
  return compose(name, parts, drafter, matching.SampleAndMatch())
