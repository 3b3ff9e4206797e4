"""Lists as texts: what --set takes, and what it says about all else."""

import json

import pytest

from experiments import common
from experiments import generate
import spec_jax
from spec_jax.trees import sequoia
from spec_jax.trees import shapes

PAIRS = ((.95, 3), (.8, 5))


def parsed(text, default):
  return common.parse(f"key={text}", text, default, "it")


@pytest.mark.parametrize("name", shapes.PUBLISHED)
def test_shapes_by_name(name):
  default = shapes.PUBLISHED["eagle"]
  assert parsed(name, default) == shapes.PUBLISHED[name]
  assert parsed(json.dumps(shapes.PUBLISHED[name]), default) == (
      shapes.PUBLISHED[name])


@pytest.mark.parametrize("text,default,wanted", [
    ("[[4],[1,0,0,0]]", shapes.PUBLISHED["eagle"], ((4,), (1, 0, 0, 0))),
    (" [ [4], [1, 0, 0, 0] ] ", shapes.PUBLISHED["eagle"],
     ((4,), (1, 0, 0, 0))),
    ("4,2,1", shapes.PUBLISHED["eagle"], (4, 2, 1)),
    ("[4,[1,0,0,0]]", shapes.PUBLISHED["eagle"], (4, (1, 0, 0, 0))),
    ("4,2", (1, 1, 1), (4, 2)), ("[4, 2]", (1, 1, 1), (4, 2)),
    (".7,1", sequoia.ACCEPTANCE, (.7, 1.)),
    ("[0.7,0]", sequoia.ACCEPTANCE, (.7, 0.)),
    ("[[2,0.5],[4,1]]", (), ((2, .5), (4, 1))), ("1,2", (), (1, 2)),
    ("[[0.9,3],[-1.0,10]]", PAIRS, ((.9, 3), (-1., 10))),
    ("0,2", None, (0, 2)), ("[2]", None, (2,)), ("[]", None, ()),
    ("7", None, 7), (".5", None, .5), ("ucb", None, "ucb"),
    ("a,b", None, "a,b"), ("[a]", None, "[a]")])
def test_lists(text, default, wanted):
  found = parsed(text, default)
  assert found == wanted and repr(found) == repr(wanted)


@pytest.mark.parametrize("text", [
    "eagel", "", "[]", "[[]]", "[[4]", "[[[4]]]", "[[4],[1.5,0,0,0]]",
    '[["4"]]', "[true]", "[null]", "{}", "4;2"])
def test_what_is_no_shape_is_told_what_one_is(text):
  with pytest.raises(ValueError) as caught:
    parsed(text, shapes.PUBLISHED["eagle"])
  message = str(caught.value)
  assert message.startswith(f"--set key={text}: {text!r} does not fit it")
  assert "mc_sim_7b_63" in message and "[[4],[2,1,0,0]]" in message


@pytest.mark.parametrize("text,default,message", [
    ("[[3],[1,1,1]]", (1, 2), "a list such as 1,2"),
    ("eagle", (1, 2), "a list such as 1,2"), ("3.0", (1, 2), "such as 1,2"),
    ("1,,2", (1, 2), "such as 1,2"), ("0.5,x", (.5, .25), "such as 0.5,0.25"),
    ("0.5,nan", (.5, .25), "such as 0.5,0.25"), ("a", (), "[[2,0.5],[4,0.7]]"),
    ("[[1,NaN]]", (), "[[2,0.5],[4,0.7]]"),
    ("1,2", PAIRS, "such as [[0.95,3],[0.8,5]]"),
    ("[[1],[2]]", PAIRS, "such as [[0.95,3],[0.8,5]]")])
def test_other_lists_that_do_not_fit(text, default, message):
  with pytest.raises(ValueError) as caught:
    parsed(text, default)
  assert "expected " in str(caught.value) and message in str(caught.value)


@pytest.mark.parametrize("system,options,wanted", [
    ("medusa_1", ["branching=[[4],[1,0,0,0]]"],
     {"branching": [[4], [1, 0, 0, 0]]}),
    ("sequoia", ["acceptance=0.6,0.2", "depth=3", "draft_cost=0.1",
                 "target_costs=[[2,1.0],[4,1.1],[8,3]]"],
     {"acceptance": [.6, .2], "target_costs": [[2, 1.], [4, 1.1], [8, 3]]})])
def test_generate_writes_with_lists(tiny, tmp_path, capsys, system, options,
                                    wanted):
  assert generate.main([
      f"--bundle={tiny}", "--max_new_tokens=4", "--prompt=def area(r):",
      f"--system={system}", f"--out={tmp_path}",
      *[f"--set={option}" for option in options]]) == 0
  assert f"[{system}: 4 tokens in" in capsys.readouterr().err
  card = json.loads((tmp_path / "card.json").read_text())
  assert wanted.items() <= card["hyper_parameters"].items()


@pytest.mark.parametrize("system,option,message", [
    ("medusa_1", "branching=[[4],[1,0]]",
     "level 1 lists 2 numbers of children, expected one for each of its 4"),
    ("medusa_1", "branching=mc_sim_7b_64", "expected a tree shape: mc_sim"),
    ("eagle_1", "branching=[[0]]", "expected at least one level and at least"),
    ("sequoia", "target_costs=1,2", "target_costs=(1, 2): 1 is not a number"),
    ("draft_and_verify", "skip_attention=1", "expected a list of layers")])
def test_generate_names_lists_that_make_no_system(
    tiny, capsys, system, option, message):
  assert generate.main([f"--bundle={tiny}", f"--system={system}",
                        f"--set={option}", "--prompt=a"]) == 2
  assert message in capsys.readouterr().err


def test_published_shapes_reach_the_drafter(tiny):
  bundle = spec_jax.load_bundle(tiny)
  for text, wanted in (("eagle", shapes.PUBLISHED["eagle"]),
                       ("2,1", (2, 1))):
    (choice,), _ = common.choose(bundle, ["eagle_1"], [f"branching={text}"])
    assert choice.system.drafter.branching == wanted
  (chain,), _ = common.choose(
      bundle, ["eagle_1"], ["branching=[[1],[1]]", "controller=ucb"])
  assert chain.system.drafter.depth == 2
