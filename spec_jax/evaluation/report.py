"""Result cards, tables and the files they go to.

A card holds what is needed to repeat and to judge a run: flags, versions,
device, dtype, prompts, seeds, counts, clock, baseline and optimum.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import json
import os
import pathlib
import platform
import subprocess
from typing import Any

import flax
import jax
import numpy as np

_ROOT = pathlib.Path(__file__).parents[2]
_PROBE = ".can_write"


def environment() -> dict[str, Any]:
  """Where and with what a number was measured."""
  devices = jax.devices()
  return {
      "python": platform.python_version(),
      "jax": jax.__version__,
      "flax": flax.__version__,
      "numpy": np.__version__,
      "platform": platform.platform(),
      "backend": jax.default_backend(),
      "device": devices[0].device_kind,
      "num_devices": len(devices),
      "num_cpus": os.cpu_count(),
      "matmul_precision": str(jax.config.jax_default_matmul_precision),
      "git": git_sha(),
  }


def git_sha() -> str | None:
  """Commit of the working tree, "+changes" if it has any; None without one."""
  if not (_ROOT / ".git").exists():
    return None
  try:
    sha = _git("rev-parse", "HEAD")
    return sha + ("+changes" if _git("status", "--porcelain") else "")
  except (OSError, subprocess.SubprocessError):
    return None


def _git(*arguments):
  done = subprocess.run(
      ("git", "-C", str(_ROOT)) + arguments, capture_output=True, text=True,
      check=True, timeout=10)
  return done.stdout.strip()


def make_folder(path: str | os.PathLike) -> pathlib.Path:
  """Makes a folder and proves that files can be written there.

  Called before the work, so that a long run does not fail at its end.

  Raises:
    ValueError: naming the path and the reason.
  """
  if not os.fspath(path):
    raise ValueError("the name of the folder is empty (--out), expected one;"
                     " '.' is the current folder.")
  folder = pathlib.Path(path)
  try:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _PROBE).write_text("")
    (folder / _PROBE).unlink()
  except OSError as error:
    raise _cannot_write(folder, error, "a writable folder (--out)") from error
  return folder


def write_bytes(path: pathlib.Path, data: bytes) -> None:
  """Writes a file whole or not at all.

  Raises:
    ValueError: naming the path and the reason (no space, no permission).
  """
  scratch = path.with_name(path.name + ".tmp")
  try:
    with scratch.open("wb") as file:
      file.write(data)
      file.flush()
      os.fsync(file.fileno())
    scratch.replace(path)
  except OSError as error:
    try:
      scratch.unlink(missing_ok=True)
    except OSError:
      pass  # The folder itself may be what is broken.
    raise _cannot_write(path, error, "room for a result (--out)") from error


def _cannot_write(path, error, expected):
  reason = error.strerror or str(error)
  return ValueError(
      f"{path}: cannot be written: {reason}; expected {expected}.")


def write_json(path: pathlib.Path, value: Any) -> None:
  """See `write_bytes`; NumPy numbers are allowed, NaN is not."""
  write_bytes(path, (to_json(value) + "\n").encode())


def to_json(value: Any) -> str:
  """Raises ValueError for NaN and infinity, which JSON does not have."""
  return json.dumps(value, indent=1, default=_plain, allow_nan=False)


def write_text(path: pathlib.Path, text: str) -> None:
  """See `write_bytes`."""
  write_bytes(path, text.encode())


def _plain(value):
  if isinstance(value, np.generic | np.ndarray):
    return value.tolist()
  if isinstance(value, os.PathLike):
    return str(value)
  raise TypeError(f"{value!r} is no JSON value.")


def card(flags: Mapping[str, Any], **sections: Any) -> dict[str, Any]:
  """A result card: environment and flags, then the sections as given."""
  return {"environment": environment(), "flags": dict(flags), **sections}


def markdown(rows: Sequence[Mapping[str, str]]) -> str:
  """Rows with the same keys as an aligned markdown table.

  The first column is text and stands left, the others stand right.
  """
  if not rows:
    return ""
  columns = list(rows[0])
  lines = [columns] + [[str(row[c]) for c in columns] for row in rows]
  widths = [max(3, *(len(line[i]) for line in lines))
            for i in range(len(columns))]
  rule = [("-" * w if i == 0 else "-" * (w - 1) + ":")
          for i, w in enumerate(widths)]
  align = lambda line: [cell.ljust(w) if i == 0 else cell.rjust(w)
                        for i, (cell, w) in enumerate(zip(line, widths))]
  body = [align(lines[0]), rule] + [align(line) for line in lines[1:]]
  return "\n".join("| " + " | ".join(line) + " |" for line in body) + "\n"


def number(value: float | None, digits: int = 2, suffix: str = "") -> str:
  """A number for a table; "-" where there is none."""
  return "-" if value is None else f"{value:.{digits}f}{suffix}"
