"""Names for systems and rules; found by name, described as data."""

from collections.abc import Callable
from collections.abc import Mapping
import dataclasses
import difflib
from typing import Any


class UnknownName(ValueError):
  """A name that was not registered; the message offers the nearest."""


@dataclasses.dataclass(frozen=True)
class Paper:
  """Where a method comes from.

  Attributes:
    title: of the paper.
    authors: first author and "et al.", or all.
    year: of the first public version.
    arxiv: identifier, or "" if there is none.
    venue: where it appeared, or "".
  """

  title: str
  authors: str
  year: int
  arxiv: str = ""
  venue: str = ""

  def bibtex(self, key: str) -> str:
    """The reference as a BibTeX entry."""
    fields = [("title", self.title), ("author", self.authors),
              ("year", str(self.year))]
    if self.arxiv:
      fields += [("eprint", self.arxiv), ("archivePrefix", "arXiv")]
    if self.venue:
      fields.append(("booktitle", self.venue))
    body = ",\n".join(f"  {name} = {{{value}}}" for name, value in fields)
    return f"@misc{{{key},\n{body}\n}}"


@dataclasses.dataclass(frozen=True)
class Entry:
  """A registered method.

  Attributes:
    name: the key.
    build: makes the value; keyword arguments are the hyper-parameters.
    family: the folder it lives in.
    papers: the sources.
    exact: whether the output law equals the target's; where the system brings
      a target of its own, that one's.
    drafter: the key of the drafter's parameters in a bundle; a tuple of keys
      if they are several, by key; or None.
    summary: one line, the first of the builder's docstring.
    extra: hyper-parameters that somebody set -> further keys of the drafter's
      parameters, beside those of `drafter`; they come by key then. None if
      there never are any.
    own_target: of a system that does not decode the bundle's target but one of
      its own: the bundle's parameters by name -> the same with that target
      under "target". None of all others.
  """

  name: str
  build: Callable[..., Any]
  family: str
  papers: tuple[Paper, ...]
  exact: bool
  drafter: str | tuple[str, ...] | None
  summary: str
  extra: Callable[[Mapping[str, Any]], tuple[str, ...]] | None = None
  own_target: Callable[[Any], Any] | None = None

  def drafter_keys(self, hyper: Mapping[str, Any]
                   ) -> str | tuple[str, ...] | None:
    """What `drafter` is with these hyper-parameters."""
    extra = self.extra(hyper) if self.extra else ()
    if not extra:
      return self.drafter
    own = self.drafter or ()
    return ((own,) if isinstance(own, str) else own) + extra


class Registry:
  """A table of entries by name."""

  def __init__(self, kind: str):
    self._kind = kind
    self._entries: dict[str, Any] = {}

  def add(self, name: str, entry: Any) -> None:
    """Raises ValueError if the name is taken."""
    if name in self._entries:
      raise ValueError(f"{self._kind} {name!r} is registered twice.")
    self._entries[name] = entry

  def names(self) -> tuple[str, ...]:
    return tuple(sorted(self._entries))

  def __getitem__(self, name: str) -> Any:
    if name not in self._entries:
      raise UnknownName(unknown(self._kind, name, self.names()))
    return self._entries[name]


def unknown(kind: str, name: str, known) -> str:
  """The message for a name that is not among the known ones."""
  return (f"unknown {kind} {name!r}.{hint(name, known)}"
          f" Known: {', '.join(sorted(known))}.")


def hint(name: str, known) -> str:
  """A sentence that offers the known names nearest to one, after a space.

  Empty where nothing is near, or what was given is no text at all.
  """
  near = difflib.get_close_matches(name, known, n=3, cutoff=0.4) if (
      isinstance(name, str)) else ()
  return f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
