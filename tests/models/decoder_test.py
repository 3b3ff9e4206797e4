"""The decoder's arguments: taps, gates, embeddings, in-flight keys, dtypes."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spec_jax.caches import dense
from spec_jax.models import config as config_lib
from spec_jax.models import contract
from spec_jax.models import prefill
from tests import toy

TOKENS = jnp.asarray([[3, 1, 4, 1, 5, 9, 2, 6], [2, 7, 1, 8, 2, 8, 1, 8]])
WINDOWED = {"windows": (3, 0), "attn_softcap": 5.0}


def _model(dtype=jnp.float32, **overrides):
  model = contract.decoder_model(toy.config(**overrides), dtype)
  return model, model.init(jax.random.key(0))


def _all_see_all_before(length):
  mask = jnp.tril(jnp.ones((length, length), bool))
  return jnp.broadcast_to(mask[None], (2, length, length))


def _positions(start, stop):
  return jnp.broadcast_to(jnp.arange(start, stop)[None], (2, stop - start))


def test_taps_are_the_residual_stream():
  model, params = _model()
  out = model.score(params, TOKENS, taps=(0, 1, 2, "final"))
  embedded = params["embedding"][TOKENS] * model.config.embed_scale
  chex.assert_trees_all_close(out.taps[0], embedded, atol=1e-6)
  wide = np.asarray(out.taps[2], np.float64)
  normed = wide / np.sqrt((wide ** 2).mean(-1, keepdims=True) + 1e-5)
  chex.assert_trees_all_close(
      out.taps["final"], normed.astype(np.float32), atol=1e-5)
  logits = jnp.einsum("bte,ve->btv", out.taps["final"], params["head"])
  chex.assert_trees_all_close(out.logits, logits, atol=1e-5)
  assert set(model.score(params, TOKENS, taps=(1,)).taps) == {1}


def test_embeddings_as_input_equal_tokens():
  model, params = _model()
  out = model.score(params, TOKENS, taps=(0,))
  again = model.forward(
      params, jnp.zeros_like(TOKENS), _positions(0, 8),
      _all_see_all_before(8), embeds=out.taps[0])
  chex.assert_trees_all_close(out.logits, again.logits, atol=1e-6)


@pytest.mark.parametrize("gates", [
    ((True, True), (True, True)), ((True, False), (False, True)),
    ((False, False), (True, True)), ((False, False), (False, False))])
def test_closed_gates_equal_silenced_sublayers(gates):
  model, params = _model()
  gated = jax.jit(lambda g: model.score(params, TOKENS, gates=g).logits)(
      jnp.asarray(gates))
  silenced = jax.tree.map(lambda x: x, params)
  for layer, is_open in enumerate(gates):
    for (part, linear), keep in zip((("attn", "out"), ("mlp", "down")),
                                    is_open):
      if not keep:
        kernel = silenced[f"layers_{layer}"][part][linear]
        kernel["kernel"] = jnp.zeros_like(kernel["kernel"])
  chex.assert_trees_all_close(
      gated, model.score(silenced, TOKENS).logits, atol=1e-6)


def test_gates_of_each_row_equal_those_of_a_batch_of_one():
  model, params = _model()
  gates = jnp.asarray([[[True, False], [False, True]],
                       [[False, True], [True, True]]])
  score = jax.jit(lambda t, g: model.score(params, t, gates=g).logits)
  together = score(TOKENS, gates)
  for row in range(2):
    alone = score(TOKENS[row:row + 1], gates[row])
    chex.assert_trees_all_close(together[row:row + 1], alone, atol=1e-5)


def test_layers_one_by_one_equal_the_whole():
  model, params = _model(**WINDOWED)
  cache = prefill.absorb(model, params, dense.empty(model, 2, 12),
                         TOKENS[:, :5], jnp.asarray([5, 5]))
  rest, positions = TOKENS[:, 5:], _positions(5, 8)
  mask = _all_see_all_before(3)
  whole = model.forward(params, rest, positions, mask, cache,
                        taps=(0, 1, 2))
  x = whole.taps[0]
  for layer in range(2):
    x = model.run_layer(params, layer, x, positions, mask, cache)
    chex.assert_trees_all_close(x, whole.taps[layer + 1], atol=1e-5)
  chex.assert_trees_all_close(
      model.read_out(params, x), whole.logits, atol=1e-4)


@pytest.mark.parametrize("overrides", [{}, WINDOWED], ids=["plain", "window"])
@pytest.mark.parametrize("split", [(2, 5), (1, 2), (4, 7)])
def test_cache_then_in_flight_then_fresh_equals_one_pass(overrides, split):
  model, params = _model(**overrides)
  first, second = split
  whole = model.score(params, TOKENS).logits
  cache = dense.empty(model, 2, 12)
  cache = prefill.absorb(model, params, cache, TOKENS[:, :first],
                         jnp.full((2,), first))
  causal = _all_see_all_before(8)
  flying = model.forward(
      params, TOKENS[:, first:second], _positions(first, second),
      causal[:, first:second, first:second], cache)
  rest = model.forward(
      params, TOKENS[:, second:], _positions(second, 8),
      causal[:, second:, first:], cache, past=flying.fresh)
  chex.assert_trees_all_close(
      jnp.concatenate([flying.logits, rest.logits], axis=1),
      whole[:, first:], atol=1e-5)


def test_a_tree_node_sees_its_ancestors_only():
  """Two branches in one pass equal the two texts apart."""
  model, params = _model()
  cache = prefill.absorb(model, params, dense.empty(model, 2, 12),
                         TOKENS[:, :4], jnp.full((2,), 4))
  nodes = TOKENS[:, 4:7]  # root, and two children of the root
  mask = jnp.asarray([[1, 0, 0], [1, 1, 0], [1, 0, 1]], bool)
  positions = jnp.asarray([[4, 5, 5]] * 2)
  out = model.forward(params, nodes, positions,
                      jnp.broadcast_to(mask[None], (2, 3, 3)), cache)
  for node, order in ((1, [0, 1, 2, 3, 4, 5]), (2, [0, 1, 2, 3, 4, 6])):
    alone = model.score(params, TOKENS[:, jnp.asarray(order)]).logits
    chex.assert_trees_all_close(out.logits[:, node], alone[:, -1], atol=1e-5)


def test_window_hides_what_is_far():
  model, params = _model(num_layers=1, windows=(3,))
  changed = TOKENS.at[:, 0].set(0)
  before, after = (model.score(params, t).logits for t in (TOKENS, changed))
  assert float(jnp.abs(before[:, 2] - after[:, 2]).max()) > 1e-4
  chex.assert_trees_all_close(before[:, 3:], after[:, 3:], atol=1e-6)


def test_bfloat16_is_close_and_logits_are_float32():
  model, params = _model()
  half, _ = _model(jnp.bfloat16)
  logits = half.score(params, TOKENS).logits
  assert logits.dtype == jnp.float32
  reference = model.score(params, TOKENS).logits
  assert float(jnp.abs(logits - reference).max()) < 0.1 * float(
      jnp.abs(reference).max())


def test_padding_rows_have_no_probability():
  model, params = _model(real_vocab_size=10)
  logits = model.score(params, TOKENS).logits
  assert bool((logits[..., 10:] == -jnp.inf).all())
  assert bool(jnp.isfinite(logits[..., :10]).all())


def test_without_logits_the_head_is_left_out():
  model, params = _model()
  assert model.score(params, TOKENS, with_logits=False).logits is None


@pytest.mark.parametrize("fields, message", [
    ({"num_heads": 3, "num_kv_heads": 2}, "num_heads=3 is not a multiple"),
    ({"windows": (4,)}, "windows has 1 entries"),
    ({"norm": "batch"}, "norm='batch', expected one of"),
    ({"head_dim": 7}, "even head_dim, got 7"),
])
def test_impossible_configs(fields, message):
  with pytest.raises(ValueError, match=message):
    toy.config(**fields)


def test_config_counts_its_parameters():
  config = toy.config()
  model = contract.decoder_model(config)
  total = sum(x.size for x in jax.tree.leaves(model.init(jax.random.key(0))))
  assert config.num_params == total


def test_llama3_scaling_keeps_short_and_stretches_long_wavelengths():
  from spec_jax.models import attention
  scaling = config_lib.RopeScaling(8.0, 1.0, 4.0, 8192)
  plain = attention.rope_frequencies(128, 500000.0, None)
  scaled = attention.rope_frequencies(128, 500000.0, scaling)
  ratio = np.asarray(plain / scaled)
  assert ratio[0] == pytest.approx(1.0)
  assert ratio[-1] == pytest.approx(8.0)
  assert (np.diff(ratio) >= -1e-5).all()
