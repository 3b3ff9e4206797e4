"""Layers in a scan compute what layers written out compute."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import layer_loops
from spec_jax.caches import dense
from spec_jax.models import contract
from tests import toy


def test_scanned_layers_read_their_own_weights_and_cache():
  model = contract.decoder_model(toy.config(num_layers=3))
  params = model.init(jax.random.key(0))
  text = jax.random.randint(jax.random.key(1), (2, 7), 1, toy.VOCAB)
  tokens, rest = text[:, :5], text[:, 5:]
  positions = lambda first, x: first + jnp.broadcast_to(
      jnp.arange(x.shape[1], dtype=jnp.int32), x.shape)
  masks = [jnp.broadcast_to(jnp.tril(jnp.ones((n, n), bool)), (2, n, n))
           for n in (5, 2)]
  cache = dense.empty(model, 2, 8)
  out = model.forward(params, tokens, positions(0, tokens), masks[0], cache)
  cache = cache.commit(out.fresh, positions(0, tokens), jnp.full((2,), 5))
  arguments = rest, positions(5, rest), masks[1], cache
  np.testing.assert_allclose(
      layer_loops.scanned(
          model, params, layer_loops.stacked(params, cache), *arguments),
      layer_loops.written_out(model, params, *arguments), atol=1e-5)


def test_both_are_timed_and_compiled(tiny, tmp_path, capsys):
  out = tmp_path / "out"
  assert layer_loops.main([f"--bundle={tiny}", "--num_tokens=1,3",
                           "--repeats=2", f"--out={out}"]) == 0
  card = json.loads((out / "layer_loops.json").read_text())
  assert [row["num_tokens"] for row in card["rows"]] == [1, 3]
  for row in card["rows"]:
    assert row["difference"] < 1e-4
    assert set(row["seconds"]) == set(row["compilation"]) == {
        "written out", "scanned"}
    assert min(row["seconds"].values()) > 0
  assert "compilation, s" in capsys.readouterr().out


def test_layers_that_differ_are_refused():
  with pytest.raises(ValueError, match="different windows"):
    layer_loops.check(toy.config(windows=(0, 4)))


def test_bad_flags(tiny, tmp_path, capsys):
  assert layer_loops.main([f"--bundle={tiny}", "--num_tokens=0",
                           f"--out={tmp_path}"]) == 2
  assert "--num_tokens=[0]" in capsys.readouterr().err
