"""The public face: prompts in, text out, mistakes named."""

import jax.numpy as jnp
import numpy as np
import pytest

import spec_jax
from spec_jax import api
from spec_jax.core import types
from tests import toy


def _generate(prompts, **kwargs):
  system, params = spec_jax.build("autoregressive", toy.bundle())
  return spec_jax.generate(system, params, prompts, max_new_tokens=4, **kwargs)


def test_rows_leave_the_prompt_out():
  result = _generate([[1, 2, 3], [4]])
  assert [len(row) for row in result.tokens] == [4, 4]
  assert result.text is None
  assert result.status == [types.Status.BUDGET] * 2
  assert result.stats.emitted == 8


def test_names_are_unique_and_public():
  for name in spec_jax.__all__:
    assert getattr(spec_jax, name) is not None
  assert "speculative_sampling" in spec_jax.systems.names()


def test_unknown_system_offers_near_names():
  with pytest.raises(spec_jax.UnknownName, match="mean 'specinfer'"):
    spec_jax.build("specinfr", toy.bundle())


def test_unknown_hyper_parameter_names_the_known():
  with pytest.raises(ValueError, match="of specinfer 'deph'.*branching"):
    spec_jax.build("specinfer", toy.bundle(), deph=3)


NAN = float("nan")


@pytest.mark.parametrize("name, hyper, message", [
    ("specinfer", {"branching": (9,) * 5},
     r"branching=\(9, 9, 9, 9, 9\): a tree of 66430 nodes, expected at most"),
    ("mcsd", {"branching": (10 ** 9,) * 3},
     r"a tree of 10{8}10{8}10{8}1 nodes"),
    ("dyspec", {"budget": 10 ** 6}, "budget=1000000: a tree of 1000000 nodes"),
    ("sequoia", {"budget": 10 ** 6}, "budget=1000000: a tree of 1000000 nodes"),
    ("speculative_sampling", {"depth": 10 ** 6}, "'speculative_sampling' drafts"
     " depth=1000000 tokens in a row, a tree of at least 1000001 nodes"),
    ("speculative_sampling", {"depth": 0}, "^depth=0, expected at least 1.$"),
    ("speculative_sampling", {"controller": "treshold"},
     "controller='treshold', expected one of .* Did you mean 'threshold'"),
    ("mcsd", {"draw": "topk"}, "draw='topk', .* Did you mean 'top_k'"),
    ("dyspec", {"draft_temperature": NAN}, "draft_temperature=nan, expected a"),
    ("dyspec", {"draft_temperature": 1e-9}, "temperature=1e-09 of the draft"),
    ("speculative_sampling", {"draft_cost": NAN}, "draft_cost=nan, expected a"),
    ("opt_tree", {"min_gain": NAN}, "min_gain=nan, expected a number"),
    ("sequoia", {"acceptance": (.5, NAN)}, r"acceptance=.*nan\), expected a"),
    ("sequoia", {"target_costs": ((8, NAN),)}, "target_costs=.*nan.*expected"),
])
def test_hyper_parameters_that_are_none(name, hyper, message):
  with pytest.raises(ValueError, match=message):
    spec_jax.build(name, toy.bundle(), **hyper)


def test_missing_draft_model_is_named():
  bundle = toy.bundle()
  alone = toy.ToyBundle(bundle.target, {}, bundle.params)
  with pytest.raises(ValueError, match="'draft', the bundle has no draft"):
    spec_jax.build("specinfer", alone)


@pytest.mark.parametrize("prompts, message", [
    ([], "no prompts were given"),
    ([[1], []], "prompt 1 is empty"),
    ([[1] * 253], "prompt 0 has 253 tokens, with max_new_tokens=4 that is 257,"
                  " over the model's 256 positions"),
    (["text"], "neither the system nor the call has a tokenizer"),
    ("text", "prompts='text' is one text, expected a list of texts"),
    (["text", [1]], "prompt 0 is a text, prompt 1 is not"),
    ([[1], "text"], "prompt 1 is a text, prompt 0 is not"),
    ([1, 2], "prompt 0 is 1, expected a list of token ids"),
    ([[1], [2, -1]], "prompt 1 has -1 as token 1, expected a whole number from"
                     f" 0 to {toy.config().vocab_size - 1}"),
    ([[10 ** 6]], "prompt 0 has 1000000 as token 0"),
    ([np.array([2 ** 40])], f"prompt 0 has {2 ** 40} as token 0"),
    ([[1, 2.5]], "prompt 0 has 2.5 as token 1"),
    ([np.array([1., 2.])], "prompt 0 has 1.0 as token 0"),
    ([[True]], "prompt 0 has True as token 0"),
    ([[[1]]], r"prompt 0 has \[1\] as token 0"),
])
def test_bad_prompts(prompts, message):
  with pytest.raises(ValueError, match=message):
    _generate(prompts)


@pytest.mark.parametrize("temperature", [-0.5, float("nan"), float("inf")])
def test_bad_temperature(temperature):
  with pytest.raises(ValueError, match="temperature=.*expected >= 0"):
    _generate([[1]], temperature=temperature)


def test_no_new_tokens():
  with pytest.raises(ValueError, match="max_new_tokens=0, expected >= 1"):
    api.make_prompts([[1]], 16, 0)


@pytest.mark.parametrize("budget", [4.5, True, "4"])
def test_new_tokens_are_whole(budget):
  with pytest.raises(ValueError, match=f"max_new_tokens={budget!r}, expected"):
    api.make_prompts([[1]], 16, budget)


def test_prompts_may_be_arrays():
  for prompts in (np.array([[1, 2], [3, 4]]), jnp.array([[1, 2], [3, 4]]),
                  [np.array([1, 2], np.uint16), (np.int64(3), 4)]):
    found = api.make_prompts(prompts, 16, 1, 5)
    assert found.tokens.tolist() == [[1, 2], [3, 4]]


def test_citation_and_table():
  assert "2211.17192" in spec_jax.citation("speculative_sampling")
  table = spec_jax.systems.table()
  assert all(f"`{name}`" in table for name in spec_jax.systems.names())
