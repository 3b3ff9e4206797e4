"""How published files of draft heads make up the parameters of ours.

A layout says of which kind the heads are, their hyper-parameters, and of which
tensors every parameter is made, see `tensor_layout.Part`. Medusa's are in
`medusa_layout`, those of heads that read tokens in `recurrent_layout`.
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import re
from typing import Any

import numpy as np

from spec_jax.models import tensor_layout

Shapes = Mapping[str, tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class Layout:
  """What a file holds.

  Attributes:
    system: whose heads they are.
    hyper: their hyper-parameters.
    parts: of all parameters.
    ignored: pattern of tensors that belong to others, or to nothing.
    copies: tensors that may be there, -> which other one they repeat.
    tuned: hyper-parameters of the system that were published with the heads.
    token_map: the tensor that lists which of the target's tokens the rows of
      the output heads stand for; "" where they are all tokens.
  """

  system: str
  hyper: dict[str, Any]
  parts: list[tensor_layout.Part]
  ignored: str = ""
  copies: Mapping[str, str] = dataclasses.field(default_factory=dict)
  tuned: dict[str, Any] = dataclasses.field(default_factory=dict)
  token_map: str = ""


def part(path: tuple[str, ...], sources: Mapping[str, tuple[int, ...]],
         build: Callable[[Sequence[np.ndarray]], np.ndarray] = lambda x: x[0]
         ) -> tensor_layout.Part:
  """A parameter of the heads; by default a tensor as it is stored."""
  return tensor_layout.Part(("heads",) + path, sources, build)


def linear(path: str, name: str, num_in: int, num_out: int,
           is_bias: bool = True) -> Iterator[tensor_layout.Part]:
  """A linear map, which torch stores `[out, in]`."""
  yield part((path, "kernel"), {f"{name}.weight": (num_out, num_in)},
             lambda x: x[0].T)
  if is_bias:
    yield part((path, "bias"), {f"{name}.bias": (num_out,)})


def whole(config: Mapping[str, Any], key: str) -> int:
  """A number of config.json.

  Raises:
    KeyError: it is not there.
    ValueError: it is no whole number above 0.
  """
  if type(config[key]) is not int or config[key] < 1:
    raise ValueError(f"{key}={config[key]!r}, expected a whole number above 0.")
  return config[key]


def count(pattern: str, shapes: Shapes) -> int:
  """One more than the largest number that `pattern` finds in the names."""
  found = [re.fullmatch(pattern, name) for name in shapes]
  return 1 + max((int(m.group(1)) for m in found if m), default=-1)


def check_same(config: Mapping[str, Any], key: str, ours: int) -> None:
  """Raises ValueError if config.json states another size than the target's."""
  if config.get(key, ours) != ours:
    raise ValueError(f"{key}={config[key]!r}, the target has {ours}.")
