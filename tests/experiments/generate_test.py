"""One text, continued: from wherever the prompt comes, or a clear error."""

import io
import json
import pathlib
import shutil

import pytest

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
    tiny_384, capsys, monkeypatch):
  calls = []

  def spy_on(module, name):
    fn = getattr(module, name)
    monkeypatch.setattr(
        module, name,
        lambda *args, **kwargs: calls.append(name) or fn(*args, **kwargs))

  def text(backend):
    assert generate.main([
        f"--bundle={tiny_384}", "--system=mcsd", "--prompt=def area(r):",
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


def test_full_disk(call, tmp_path, capsys, monkeypatch):
  def full(descriptor):
    raise OSError(28, "No space left on device")
  monkeypatch.setattr("os.fsync", full)
  assert call("--prompt=a", f"--out={tmp_path}") == 2
  message = capsys.readouterr().err
  assert "card.json: cannot be written: No space left on device" in message
  assert not list(tmp_path.iterdir())
