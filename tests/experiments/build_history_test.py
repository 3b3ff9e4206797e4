"""From prompts to a history that hierarchy_drafting reads."""

from experiments import build_history
import spec_jax
from spec_jax.stores import history


def test_builds_and_drafts(tiny, tmp_path, capsys):
  prompts = tmp_path / "prompts.txt"
  prompts.write_text("def area(radius):")
  out = tmp_path / "out" / "history.npz"
  assert build_history.main([
      f"--bundle={tiny}", f"--prompts={prompts}", "--max_new_tokens=9",
      f"--out={out}"]) == 0
  assert "phrases behind" in capsys.readouterr().out
  bundle = spec_jax.load_bundle(tiny)
  found = history.load(out, 4, bundle.target.vocab_size)
  assert found.phrases
  system, _ = spec_jax.build(
      "hierarchy_drafting", bundle, history=str(out))
  assert system.drafter.open_store().history.phrases == found.phrases


def test_prompts_are_asked_for(tiny, capsys):
  assert build_history.main([f"--bundle={tiny}"]) == 2
  assert "--prompts is empty" in capsys.readouterr().err
