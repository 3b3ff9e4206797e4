"""How much memory this process has held at most."""

import resource
import sys


def peak_bytes() -> int:
  """Most bytes of main memory that the process held at once, so far.

  Memory of an accelerator does not count, nor do other processes. Source:
  getrusage(2), which counts in kilobytes on Linux and in bytes on macOS.
  """
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return peak if sys.platform == "darwin" else 1024 * peak
