"""Lists as texts: 4,2,1 or JSON, and published tree shapes by their names."""

import json
import math
from typing import Any

from spec_jax.trees import shapes


def parse(text: str, default: tuple) -> tuple:
  """A list that may stand where `default` does.

  Args:
    text: `4,2,1`, a JSON list, which may hold lists, or, where the default is a
      tree shape, a name in `shapes.PUBLISHED`.
    default: says what is expected: a tree shape (lists of whole numbers) is
      also taken with one number a level; numbers are whole where all of its
      are, and floats where all are; an empty one says nothing.

  Raises:
    ValueError: saying what was expected.
  """
  if is_shape(default) and text in shapes.PUBLISHED:
    return shapes.PUBLISHED[text]
  found = read(text)
  if found is None or default and not _is_like(found, default):
    raise ValueError(expected(default))
  is_fractional = {type(leaf) for leaf in _leaves(default)} == {float}
  return _floats(found) if is_fractional else found


def _is_like(found: tuple, default: tuple) -> bool:
  """Whether numbers stand in as many lists, and are whole where they must."""
  if _all_whole(default) and not _all_whole(found):
    return False
  if is_shape(default):
    return set() < _depths(found) <= {1, 2}
  # Rows, such as pairs, are as long as the default's.
  is_flat = _depths(default) == {1}
  return _depths(found) == _depths(default) and (
      is_flat or {*map(len, found)} <= {*map(len, default)})


def read(text: str) -> tuple | None:
  """A list of finite numbers or of such lists; None if the text is none."""
  try:
    if text.startswith("["):
      found = _tuples(json.loads(text))
    else:
      found = tuple(map(number, text.split(",")))
  except ValueError:
    return None
  # JSON has truth values too, and Python's reader takes NaN.
  ok = all(type(leaf) in (int, float) and math.isfinite(leaf)
           for leaf in _leaves(found))
  return found if ok else None


def number(text: str) -> int | float:
  """A whole number if it is one. Raises ValueError if it is no number."""
  try:
    return int(text)
  except ValueError:
    return float(text)


def is_shape(default: tuple) -> bool:
  """Whether it is a tree shape that lists the children of every node."""
  return _depths(default) == {2} and _all_whole(default)


def expected(default: tuple) -> str:
  """What a text may be."""
  if is_shape(default):
    return (f"expected a tree shape: {', '.join(shapes.PUBLISHED)}, or by level"
            " the children of each node, such as 4,2,1 or [[4],[2,1,0,0]]")
  if not default:
    return "expected a list such as 4,2,1 or [[2,0.5],[4,0.7]]"
  shown = json.dumps(default, separators=(",", ":"))
  flat = _depths(default) == {1}
  return f"expected a list such as {shown[1:-1] if flat else shown}"


def _tuples(value):
  return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _floats(value):
  return (tuple(map(_floats, value)) if isinstance(value, tuple)
          else float(value))


def _leaves(value) -> list[Any]:
  if not isinstance(value, tuple):
    return [value]
  return [leaf for part in value for leaf in _leaves(part)]


def _depths(value) -> frozenset[int]:
  """In how many lists its numbers stand."""
  if not isinstance(value, tuple):
    return frozenset({0})
  return frozenset(1 + depth for part in value for depth in _depths(part))


def _all_whole(value):
  return all(isinstance(leaf, int) for leaf in _leaves(value))
