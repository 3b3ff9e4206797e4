"""Compiles before the watch starts, several programs at a time.

XLA compiles outside of the interpreter's lock, so threads share the work. What
is timed must not start before all of them have ended.
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from concurrent import futures
import contextlib
import os
from typing import Any

_MOST_THREADS = 4  # Each compilation holds some hundred MiB.


def num_threads() -> int:
  """How many functions run at a time."""
  return min(_MOST_THREADS, os.cpu_count() or 1)


@contextlib.contextmanager
def beside(fns: Sequence[Callable[[], Any]]
           ) -> Iterator[list[futures.Future]]:
  """Calls functions in threads while the body of the `with` goes on.

  The block ends when all have ended; the first error of any is raised there,
  and what has not begun by then is left out.

  Args:
    fns: called in this order, a few at a time.
  """
  pool = futures.ThreadPoolExecutor(num_threads())
  try:
    tasks = [pool.submit(fn) for fn in fns]
    yield tasks
    for task in futures.as_completed(tasks):
      task.result()
  finally:
    pool.shutdown(cancel_futures=True)


def together(fns: Sequence[Callable[[], Any]]) -> list[Any]:
  """What the functions give, in their order; called in threads."""
  with beside(fns) as tasks:
    pass
  return [task.result() for task in tasks]
