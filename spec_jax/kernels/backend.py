"""Who computes: a Pallas kernel for the platform at hand, or XLA."""

from collections.abc import Callable
from typing import Any

import jax

# "auto": the kernel on a TPU or a Hopper GPU, XLA elsewhere and wherever a
# kernel does not take the shape. "pallas": the same, also where a caller keeps
# its kernel from "auto", and on a CPU the kernel is interpreted (for tests).
# "xla": never a kernel.
BACKENDS = ("auto", "pallas", "xla")


def check(backend: str) -> str:
  """`backend` itself; raises ValueError if there is no such one."""
  if backend not in BACKENDS:
    raise ValueError(f"backend={backend!r}, expected one of {BACKENDS}.")
  return backend


def dispatch(backend: str, xla: Callable[..., Any], *args: Any,
             tpu: Callable[..., Any] | None = None,
             gpu: Callable[..., Any] | None = None,
             interpreted: Callable[..., Any] | None = None) -> Any:
  """Calls one of several equal functions, chosen by the platform.

  The choice is made when the program is lowered, not when it is traced, so
  that one traced program can be lowered for several platforms.

  Args:
    backend: one of `BACKENDS`.
    xla: what any platform can compute.
    *args: arrays.
    tpu: for TPUs (Mosaic); None where it does not take these shapes.
    gpu: for Hopper GPUs (Mosaic GPU); None likewise.
    interpreted: for CPUs, used by "pallas" only; None likewise.
  """
  check(backend)
  is_on_cpu = jax.default_backend() == "cpu"
  if backend == "auto":
    if is_on_cpu:
      return xla(*args)  # Without tracing kernels that cannot run.
    interpreted = None
  if not is_on_cpu and not has_hopper():  # A CPU may lower for any GPU.
    gpu = None
  branches = {"tpu": tpu, "cuda": gpu, "cpu": interpreted}
  branches = {name: fn for name, fn in branches.items() if fn is not None}
  if backend == "xla" or not branches:
    return xla(*args)
  return jax.lax.platform_dependent(*args, default=xla, **branches)


def has_hopper() -> bool:
  """Whether the default device has the warp-group products of `sm_90a`."""
  if jax.default_backend() != "gpu":
    return False
  capability = getattr(jax.devices()[0], "compute_capability", "")
  return str(capability).split(".")[0] == "9"
