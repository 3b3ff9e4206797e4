"""Matrix products whose sums are kept in float32, forward and backward."""

import functools

import jax
import jax.numpy as jnp


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def matmul(x: jax.Array, kernel: jax.Array, num_in: int) -> jax.Array:
  """Contracts the last `num_in` axes of `x` with the first of `kernel`.

  With 16-bit operands all three products (values, and both gradients) take
  16-bit factors and sum in float32. Left to the derivative rules of JAX, the
  backward products would mix 16-bit with 32-bit factors, which no CPU or
  accelerator has a fast path for.

  Args:
    x: `[..., in]`.
    kernel: `[in, out]`, of the dtype of `x`; both may have several axes.
    num_in: how many axes `in` has.

  Returns:
    `[..., out]` in the dtype of `x`.
  """
  axes = tuple(range(x.ndim - num_in, x.ndim))
  return _dot(x, kernel, axes, tuple(range(num_in))).astype(x.dtype)


def _dot(a, b, a_axes, b_axes):
  is_short = jnp.finfo(a.dtype).bits < 32
  return jax.lax.dot_general(
      a, b, ((a_axes, b_axes), ((), ())),
      preferred_element_type=jnp.float32 if is_short else a.dtype)


def _forward(x, kernel, num_in):
  return matmul(x, kernel, num_in), (x, kernel)


def _backward(num_in, saved, grad):
  x, kernel = saved
  num_out, num_rows = kernel.ndim - num_in, x.ndim - num_in
  out_of_grad = tuple(range(grad.ndim - num_out, grad.ndim))
  out_of_kernel = tuple(range(num_in, kernel.ndim))
  rows = tuple(range(num_rows))
  return (_dot(grad, kernel, out_of_grad, out_of_kernel).astype(x.dtype),
          _dot(x, grad, rows, rows).astype(kernel.dtype))


matmul.defvjp(_forward, _backward)
