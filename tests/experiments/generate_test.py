"""One text, continued: from wherever the prompt comes, or a clear error."""

import dataclasses
import io
import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from experiments import demo
from experiments import generate
from spec_jax.kernels import tree_attention_tpu
from spec_jax.kernels import verify_tpu
from spec_jax.models import checkpoint
from tests import toy

# Of the tiny checkpoints the one that has a tokenizer.
_HF = pathlib.Path(__file__).parents[1] / "data" / "hf" / "qwen3"


@pytest.fixture
def call(tiny):
  return lambda *flags: generate.main(
      [f"--bundle={tiny}", "--max_new_tokens=4", *flags])


def test_prompt_flag_streams_text_and_writes_a_card(call, tmp_path, capsys):
  assert call("--prompt=def area(r):", f"--out={tmp_path}") == 0
  shown = capsys.readouterr()
  assert shown.out.startswith("def area(r):") and len(shown.out) > 13
  assert "[speculative_sampling: 4 tokens in" in shown.err
  card = json.loads((tmp_path / "card.json").read_text())
  assert card["results"][0]["counts"]["emitted"] == 4
  assert card["results"][0]["status"] == "BUDGET"
  assert "stopped by: budget]" in shown.err


def test_file_and_standard_input_give_the_same(call, tmp_path, capsys,
                                               monkeypatch):
  path = tmp_path / "prompt.txt"
  path.write_text("def area(r):")
  assert call(f"--prompt_file={path}", "--system=autoregressive") == 0
  from_file = capsys.readouterr().out
  monkeypatch.setattr("sys.stdin", io.StringIO("def area(r):"))
  assert call("--system=autoregressive") == 0
  assert capsys.readouterr().out == from_file


def test_too_long_is_an_error_unless_truncated(call, capsys):
  long = "--prompt=" + "def area " * 200
  assert call(long) == 2
  assert "pass --truncate to keep the last ones" in capsys.readouterr().err
  assert call(long, "--truncate") == 0
  assert "tokens were left out (--truncate)" in capsys.readouterr().err


def test_kernels_for_attention_and_verification_write_the_same(
    tiny, capsys, monkeypatch):
  calls = []

  def spy_on(module, name):
    fn = getattr(module, name)
    monkeypatch.setattr(
        module, name,
        lambda *args, **kwargs: calls.append(name) or fn(*args, **kwargs))

  def text(backend):
    assert generate.main([
        f"--bundle={tiny}", "--system=mcsd", "--prompt=def area(r):",
        "--temperature=0.8", "--max_new_tokens=6", f"--backend={backend}"]) == 0
    return capsys.readouterr().out

  spy_on(tree_attention_tpu, "attend")
  spy_on(verify_tpu, "walk")
  wanted = text("xla")
  assert not calls
  assert text("pallas") == wanted
  assert set(calls) == {"attend", "walk"}


@pytest.mark.parametrize("flags,message", [
    (["--prompt="], "the prompt is empty"),
    (["--prompt= \n"], "the prompt is empty"),
    (["--prompt=a", "--prompt_file=b"], "were both given"),
    (["--prompt=a", "--temperature=0,1"], "--temperature=0.0,1.0: expected"),
    (["--prompt=a", "--system=mcsd,rsd_c"], "--system=mcsd,rsd_c: expected"),
    (["--prompt=a", "--temperature=nan"], "temperature=nan, expected >= 0"),
    (["--prompt=a", "--temperature=1e-39"], "0 (greedy) or at least 1e-06"),
    (["--prompt=a", "--out="], "--out is empty, expected a path"),
    (["--prompt=a", "--seed=-1"], "flag --seed=-1: -1 is not an integer in"),
    (["--prompt=a", "--top_p=0"], "top_p=0.0, expected in (0, 1]"),
    (["--prompt=a", "--max_new_tokens=0"], "max_new_tokens=0, expected"),
    (["--prompt=a", "--system=autoregresive"], "Did you mean 'autoregressive'"),
    (["--prompt=a", "--hf=/no/such/folder"], "/no/such/folder"),
    (["--prompt_file=/no/such"], "/no/such: cannot be read")])
def test_bad_flags(call, capsys, flags, message):
  assert call(*flags) == 2
  assert message in capsys.readouterr().err


@pytest.mark.parametrize("flags", [
    ["--system=prompt_lookup"], [f"--hf_draft={_HF}"]])
def test_hugging_face_folders_continue_as_their_logits_say(flags, capsys):
  prompt = "def area(r):"
  assert generate.main([f"--hf={_HF}", f"--prompt={prompt}",
                        "--max_new_tokens=6", *flags]) == 0
  model, params, tokenizer = checkpoint.load_hf(_HF)
  tokens = toy.greedy_reference(model, params, tokenizer.encode(prompt), 6)
  assert capsys.readouterr().out == tokenizer.decode(tokens) + "\n"


def test_without_a_draft_model_the_flag_for_one_is_named(capsys):
  assert generate.main([f"--hf={_HF}", "--prompt=def"]) == 2
  message = capsys.readouterr().err
  assert "no draft models" in message and "--hf_draft=FOLDER" in message


def heads_for(folder, width):
  """Medusa's heads that end in the output head of a target of any words."""
  folder.mkdir()
  (folder / "config.json").write_text(json.dumps(
      {"medusa_num_heads": 2, "medusa_num_layers": 1, "version": "2"}))
  block = {"weight": np.zeros((width, width), np.float32),
           "bias": np.zeros(width, np.float32)}
  safetensors.numpy.save_file(
      {f"{head}.0.linear.{name}": value for head in range(2)
       for name, value in block.items()},
      folder / "medusa_lm_head.safetensors")
  return folder


def test_a_published_draft_beside_a_published_target(tmp_path, capsys):
  flags = [f"--hf={_HF}", "--prompt=def area(r):", "--max_new_tokens=8"]
  assert generate.main([*flags, "--system=autoregressive"]) == 0
  plain = capsys.readouterr().out
  folder = heads_for(tmp_path / "medusa", width=32)
  drafts = [f"--draft_head={folder}", "--system=medusa_1"]
  assert generate.main([*flags, *drafts]) == 0
  shown = capsys.readouterr()
  assert shown.out == plain
  assert f"{folder}: a draft for --system=medusa_1\n" in shown.err
  # Nothing was asked to be cut: the published tree has more levels than these.
  assert "[medusa_1: 8 tokens in" in shown.err and " of 0 " not in shown.err


def test_a_published_draft_beside_a_bundle(call, capsys):
  """It takes the place of the bundle's own; the sizes are the same."""
  flags = ["--prompt=def area(r):", "--temperature=0.7"]
  assert call(*flags, "--system=autoregressive") == 0
  plain = capsys.readouterr().out
  folder = _HF.parents[1] / "heads" / "medusa_b"
  assert call(*flags, f"--draft_head={folder}", "--system=medusa_1") == 0
  shown = capsys.readouterr()
  assert shown.out == plain and "--system=medusa_1" in shown.err


@pytest.mark.parametrize("name, message", [
    ("heads/medusa_a", "misshapen 0.0.linear.weight: expected shape (32, 32)"),
    ("heads/speculator", "emb_dim=16, the target's features have 32"),
    ("eagle/eagle_1", "vocab_size=40 (the target has 96)"),
    ("hf/llama2", "no draft of a kind known here"),
    ("nothing", "expected a folder with config.json")])
def test_a_draft_of_another_target_is_named(name, message, capsys):
  folder = _HF.parents[1] / name
  assert generate.main([
      f"--hf={_HF}", f"--draft_head={folder}", "--prompt=def",
      "--system=medusa_1"]) == 2
  error = capsys.readouterr().err
  assert error.startswith("error: ") and message in error
  assert str(folder) in error


def test_draft_of_another_vocabulary(tmp_path, capsys):
  draft = shutil.copytree(_HF, tmp_path / "draft")
  raw = json.loads((draft / "tokenizer.json").read_text())
  ids = raw["model"]["vocab"]
  ids["c"], ids["s"] = ids["s"], ids["c"]
  (draft / "tokenizer.json").write_text(json.dumps(raw))
  assert generate.main(
      [f"--hf={_HF}", f"--hf_draft={draft}", "--prompt=def"]) == 2
  assert ("differ first at id 9: 'c' in the target (64 tokens), 's' in the"
          " draft (64 tokens)") in capsys.readouterr().err


def nan_bundle(monkeypatch, module):
  """Lets a program load models whose target knows no number."""
  load = module.common.load_models

  def broken(values):
    bundle = load(values)
    target = jax.tree.map(lambda a: jnp.full_like(a, jnp.nan),
                          bundle.params["target"])
    return dataclasses.replace(
        bundle, params=bundle.params | {"target": target})

  monkeypatch.setattr(module.common, "load_models", broken)


def test_logits_that_are_nan_are_told(call, tmp_path, capsys, monkeypatch):
  nan_bundle(monkeypatch, generate)
  assert call("--prompt=def", f"--out={tmp_path}") == 1
  message = capsys.readouterr().err
  assert "stopped by: nan logits]" in message
  assert ": the target's logits are NaN after 0 new tokens" in message
  card = json.loads((tmp_path / "card.json").read_text())
  assert card["results"][0]["status"] == "NAN_LOGITS"


def test_the_demo_stops_at_logits_that_are_nan(tiny, tmp_path, capsys,
                                               monkeypatch):
  nan_bundle(monkeypatch, demo)
  assert demo.main([f"--bundle={tiny}", f"--out={tmp_path}", "--prompts=",
                    "--max_new_tokens=4", "--system=speculative_sampling"]) == 1
  shown = capsys.readouterr()
  assert "stopped by: nan logits ---" in shown.out
  assert "the target's logits are NaN after 0 new tokens" in shown.err


def test_full_disk(call, tmp_path, capsys, monkeypatch):
  def full(descriptor):
    raise OSError(28, "No space left on device")
  monkeypatch.setattr("os.fsync", full)
  assert call("--prompt=a", f"--out={tmp_path}") == 2
  message = capsys.readouterr().err
  assert "card.json: cannot be written: No space left on device" in message
  assert not list(tmp_path.iterdir())
