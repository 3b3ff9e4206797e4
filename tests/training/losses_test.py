"""Losses against their definitions; distillation reaches its teacher."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spec_jax.models import contract
from spec_jax.training import losses
from spec_jax.training import optimizers
from tests import toy


def test_definitions():
  p_logits = jax.random.normal(jax.random.key(0), (2, 3, 5))
  q_logits = jax.random.normal(jax.random.key(1), (2, 3, 5))
  p, q = (np.asarray(jax.nn.softmax(x), np.float64)
          for x in (p_logits, q_logits))
  kl = (p * np.log(p / q)).sum(-1).mean()
  np.testing.assert_allclose(losses.forward_kl(p_logits, q_logits), kl,
                             rtol=1e-5)
  overlap = np.minimum(p, q).sum(-1).mean()
  np.testing.assert_allclose(losses.total_variation(p_logits, q_logits),
                             1 - overlap, rtol=1e-5)
  agree = (p.argmax(-1) == q.argmax(-1)).mean()
  np.testing.assert_allclose(losses.agreement(p_logits, q_logits), agree,
                             rtol=1e-6)


def test_rejection_is_the_mean_over_temperatures():
  p_logits = jax.random.normal(jax.random.key(0), (2, 3, 5))
  q_logits = jax.random.normal(jax.random.key(1), (2, 3, 5))
  overlaps = [
      np.minimum(*(np.asarray(jax.nn.softmax(x / t), np.float64)
                   for x in (p_logits, q_logits))).sum(-1).mean()
      for t in (0.25, 2.0)]
  np.testing.assert_allclose(
      losses.rejection(p_logits, q_logits, (0.25, 2.0)),
      1 - np.mean(overlaps), rtol=1e-5)


def test_rejection_accepts_more_where_a_draft_cannot_imitate():
  # One law for all contexts: the nearest by the forward KL is their mean.
  p_logits = 3 * jax.random.normal(jax.random.key(0), (1, 4, 8))
  mean = jnp.log(jax.nn.softmax(p_logits).mean((0, 1)))
  spread = lambda q: jnp.broadcast_to(q, p_logits.shape)
  grad = jax.grad(lambda q: losses.forward_kl(p_logits, spread(q)))(mean)
  np.testing.assert_allclose(grad, 0, atol=1e-6)
  turned_down = jax.jit(
      lambda q: losses.rejection(p_logits, spread(q), (1.0,)))
  slope, q_logits = jax.jit(jax.grad(turned_down)), mean
  for _ in range(300):
    q_logits -= 2.0 * slope(q_logits)
  assert turned_down(q_logits) < turned_down(mean) - 0.05


def test_next_token_shifts_by_one():
  tokens = jnp.asarray([[1, 2, 0]])
  logits = 50.0 * jax.nn.one_hot(jnp.asarray([[2, 0, 1]]), 3)
  assert float(losses.next_token(logits, tokens)) < 1e-6


def test_gradient_of_forward_kl_is_soft_cross_entropy():
  p_logits = jax.random.normal(jax.random.key(0), (2, 3, 5))
  q_logits = jax.random.normal(jax.random.key(1), (2, 3, 5))
  soft = lambda q: -(jax.nn.softmax(p_logits)
                     * jax.nn.log_softmax(q)).sum(-1).mean()
  chex.assert_trees_all_close(
      jax.grad(losses.forward_kl, argnums=1)(p_logits, q_logits),
      jax.grad(soft)(q_logits), atol=1e-6)


def test_tokens_that_no_law_has_cost_nothing():
  p_logits = jax.random.normal(jax.random.key(0), (2, 3, 5))
  q_logits = jax.random.normal(jax.random.key(1), (2, 3, 5))
  pad = lambda a: jnp.pad(
      a, ((0, 0), (0, 0), (0, 2)), constant_values=-jnp.inf)
  value, grad = jax.value_and_grad(losses.forward_kl, argnums=1)(
      pad(p_logits), pad(q_logits))
  np.testing.assert_allclose(
      value, losses.forward_kl(p_logits, q_logits), rtol=1e-6)
  assert np.isfinite(grad).all() and not np.abs(grad[..., 5:]).any()


def test_muon_touches_kernels_and_adam_the_rest():
  model = contract.decoder_model(toy.config())
  params = model.init(jax.random.key(0))
  optimizer = optimizers.muon(1e-2, 20, warmup=1)
  state = optimizer.init(params)
  grads = jax.tree.map(jnp.ones_like, params)
  _, state = optimizer.update(grads, state, params)
  updates, _ = optimizer.update(grads, state, params)
  moved = jax.tree.map(lambda u: bool(jnp.abs(u).max() > 0), updates)
  assert all(jax.tree.leaves(moved))
  # Orthogonalised rank-one gradients: the update has (about) rank one.
  kernel = np.asarray(updates["layers_0"]["mlp"]["down"]["kernel"])
  values = np.linalg.svd(kernel, compute_uv=False)
  assert values[1] < 0.05 * values[0]


@pytest.mark.parametrize("name", ["glide", "chimera", *toy.FEATURE_NETS])
def test_muon_knows_the_kernels_of_nets(name):
  params = {k: v for k, v in toy.head_params()[name].items()
            if k != "token_ids"}
  jax.eval_shape(optimizers.muon(1e-2, 20).init, params)


def test_muon_names_a_kernel_whose_inputs_it_does_not_know():
  params = {"mixer": {"kernel": jnp.ones((2, 3, 4))}}
  with pytest.raises(ValueError, match=r"'mixer'.*\(2, 3, 4\).*expected two"):
    optimizers.muon(1e-2, 20).init(params)
