"""Matrix products whose sums are kept in float32, forward and backward.

The factors are of the narrower of two types: that of the model's arithmetic and
that of its weights. So weights in 16 bits may serve a model that computes
everything but its products in 32.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp


def matmul(x: jax.Array, kernel: jax.Array, num_in: int) -> jax.Array:
  """Contracts the last `num_in` axes of `x` with the first of `kernel`.

  With 16-bit factors all three products (values, and both gradients) take
  16-bit factors and sum in float32. Left to the derivative rules of JAX, the
  backward products would mix 16-bit with 32-bit factors, which no CPU or
  accelerator has a fast path for.

  Args:
    x: `[..., in]`.
    kernel: `[in, out]`; both may have several axes. The wider of the two is
      rounded to the other's type.
    num_in: how many axes `in` has.

  Returns:
    `[..., out]` in the dtype of `x`.
  """
  short = _narrower(x.dtype, kernel.dtype)
  return _matmul(x.astype(short), kernel.astype(short), num_in).astype(x.dtype)


def logits(x: jax.Array, table: jax.Array) -> jax.Array:
  """`[..., E]` and the rows of `table[V, E]` -> `f32[..., V]`."""
  short = _narrower(x.dtype, table.dtype)
  return _dot_rows(x.astype(short), table.astype(short), (x.ndim - 1,), (1,))


def narrowed(params: Any, dtype: jnp.dtype) -> Any:
  """Parameters whose matrices are of `dtype`, for products in it.

  Vectors (norms, biases) stay as they are, and so does the arithmetic of the
  model around its products, if its own dtype is wider.

  Raises:
    ValueError: a type whose range activations may leave.
  """
  if jnp.finfo(dtype).maxexp < jnp.finfo(jnp.float32).maxexp:
    raise ValueError(f"weights in {jnp.dtype(dtype).name}: activations are"
                     " rounded to the type of the weights, whose range must be"
                     " that of float32; bfloat16 has it.")
  # Biases of several heads have several axes.
  is_factor = lambda path, a: a.ndim > 1 and (
      getattr(path[-1], "key", None) != "bias")
  return jax.tree.map_with_path(
      lambda path, a: a.astype(dtype) if is_factor(path, a) else a, params)


def precision(dtype: jnp.dtype, params: Any) -> float:
  """Relative rounding error of products in a model that computes in `dtype`."""
  types = {jnp.result_type(leaf) for leaf in jax.tree.leaves(params)}
  return max(float(jnp.finfo(found).eps) for found in types | {jnp.dtype(dtype)}
             if jnp.issubdtype(found, jnp.floating))


def _narrower(first, second):
  """The type of fewer bits; of two alike the first."""
  return min(first, second, key=lambda dtype: jnp.finfo(dtype).bits)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _matmul(x, kernel, num_in):
  axes = tuple(range(x.ndim - num_in, x.ndim))
  return _dot_rows(x, kernel, axes, tuple(range(num_in)))


def _dot_rows(x, kernel, x_axes, kernel_axes):
  """`_dot`; on a CPU never of a single 16-bit row.

  XLA takes that for a matrix times a vector, which it computes in a loop of
  its own: two to three times as slow as its product of two rows.
  """
  rows = x.ndim - len(x_axes)
  is_alone = rows > 0 and math.prod(x.shape[:rows]) == 1
  if not (is_alone and _is_short(x) and jax.default_backend() == "cpu"):
    return _dot(x, kernel, x_axes, kernel_axes)
  twice = jnp.concatenate([x, x], rows - 1)
  found = _dot(twice, kernel, x_axes, kernel_axes)
  return jax.lax.slice_in_dim(found, 0, 1, axis=rows - 1)


def _is_short(a):
  return jnp.finfo(a.dtype).bits < 32


def _dot(a, b, a_axes, b_axes):
  return jax.lax.dot_general(
      a, b, ((a_axes, b_axes), ((), ())),
      preferred_element_type=jnp.float32 if _is_short(a) else a.dtype)


def _forward(x, kernel, num_in):
  return _matmul(x, kernel, num_in), (x, kernel)


def _backward(num_in, saved, grad):
  x, kernel = saved
  grad = grad.astype(x.dtype)
  num_out, num_rows = kernel.ndim - num_in, x.ndim - num_in
  out_of_grad = tuple(range(grad.ndim - num_out, grad.ndim))
  out_of_kernel = tuple(range(num_in, kernel.ndim))
  rows = tuple(range(num_rows))
  return (_dot(grad, kernel, out_of_grad, out_of_kernel).astype(x.dtype),
          _dot(x, grad, rows, rows).astype(kernel.dtype))


_matmul.defvjp(_forward, _backward)
