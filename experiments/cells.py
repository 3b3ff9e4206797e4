"""Cells of a long run: measured once, written at once, found again."""

from collections.abc import Callable
from collections.abc import Mapping
import hashlib
import json
import pathlib
import traceback
from typing import Any

import jax
import jax.numpy as jnp
from tqdm import auto as tqdm

from spec_jax.evaluation import report

_MAPS = pathlib.Path("/proc/self/maps")
_MOST_MAPS = 20_000


def fingerprint(bundle, params: Any = None) -> str:
  """Changes with any weight, shape, configuration or dtype.

  Args:
    bundle: the models.
    params: those that matter, such as one system's; by default all.
  """
  leaves = jax.tree_util.tree_leaves_with_path(
      bundle.params if params is None else params)
  sums = [[jax.tree_util.keystr(path), list(x.shape),
           float(jnp.abs(x).sum(dtype=jnp.float32)), float(x.ravel()[0])]
          for path, x in leaves]
  configs = repr([bundle.target, sorted(bundle.models.items(), key=str)])
  text = configs + json.dumps(sums)
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def stable_environment() -> dict[str, Any]:
  """The environment without the commit: not every commit voids all rows."""
  found = report.environment()
  del found["git"]
  return found


def path_of(folder: pathlib.Path, stem: str, key: Mapping[str, Any]
            ) -> pathlib.Path:
  """Readable, and different for different keys."""
  text = json.dumps(key, sort_keys=True)
  digest = hashlib.sha256(text.encode()).hexdigest()[:12]
  return folder / f"{stem}-{digest}.json"


def finish(path: pathlib.Path, key: Mapping[str, Any],
           measure_fn: Callable[[], Any]) -> dict[str, Any]:
  """The row of a cell, from its file or measured now and written at once.

  A row holds "key" and either "result" or "error"; one with an error is
  measured anew.

  Args:
    path: of the cell, see `path_of`.
    key: everything that decides its numbers.
    measure_fn: returns the result; whatever it raises voids this row only.
  """
  found = read(path)
  if found is not None and "error" not in found:
    return found
  row = {"key": dict(key), "git": report.git_sha()}
  try:
    row["result"] = json.loads(report.to_json(measure_fn()))
  except Exception as error:  # pylint: disable=broad-exception-caught
    row["error"] = f"{type(error).__name__}: {error}"
    row["traceback"] = traceback.format_exc()
    tqdm.tqdm.write(f"void: {path.stem}: {row['error']}")
  report.write_json(path, row)
  drop_programs_in_time()
  return json.loads(path.read_text())


def drop_programs_in_time(most_maps: int = _MOST_MAPS) -> None:
  """Forgets all compiled programs if they are many.

  Each keeps several memory maps, of which Linux grants a process 65,530; the
  compiler dies of one too many, and a long run with it.
  """
  if not _MAPS.exists():
    return
  with _MAPS.open("rb") as lines:
    if sum(1 for _ in lines) > most_maps:
      jax.clear_caches()


def read(path: pathlib.Path) -> dict[str, Any] | None:
  """The row in a file; None if there is none or it is not whole."""
  try:
    return json.loads(path.read_text())
  except (OSError, json.JSONDecodeError):
    return None
