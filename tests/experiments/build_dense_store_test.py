"""From a folder of texts to a dense store that dresd reads."""

from experiments import build_dense_store
import spec_jax
from spec_jax.stores import dense_build
from spec_jax.stores import dense_store
from spec_jax.training import hidden


def test_builds_and_drafts(tiny, tmp_path, capsys):
  corpus = tmp_path / "corpus"
  corpus.mkdir()
  for i in range(4):
    (corpus / f"{i}.py").write_text(
        "for name in names:\n  print(name, sizes[name])\n" * 3)
  flags = [f"--bundle={tiny}", f"--corpus={corpus}", "--noheldout",
           "--dims=6", "--length=32", f"--out={tmp_path / 'store'}"]
  assert build_dense_store.main(flags) == 0
  assert "keys of 6 dimensions, which keep" in capsys.readouterr().out
  bundle = spec_jax.load_bundle(tiny)
  store = dense_store.open_store(
      tmp_path / "store", bundle.target.vocab_size, 16)
  assert store.values.shape[1] == 20 and len(store.keys) > 50
  system, params = spec_jax.build(
      "dresd", bundle, dense_store=str(tmp_path / "store"))
  plain = spec_jax.build("autoregressive", bundle)
  texts = [spec_jax.generate(*pair, ["for name"], max_new_tokens=6).text
           for pair in ((system, params), plain)]
  assert texts[0] == texts[1]


def test_nothing_to_read_is_an_error(tiny, tmp_path, capsys):
  assert build_dense_store.main(
      [f"--bundle={tiny}", f"--corpus={tmp_path}",
       f"--out={tmp_path / 'store'}"]) == 2
  assert "no *.py file below" in capsys.readouterr().err


def test_an_interrupted_build_goes_on(tiny, tmp_path, monkeypatch, capsys):
  corpus = tmp_path / "corpus"
  corpus.mkdir()
  for i in range(9):
    (corpus / f"{i}.py").write_text(f"def area_{i}(radius):\n" * 40)
  flags = [f"--bundle={tiny}", f"--corpus={corpus}", "--noheldout",
           "--dims=6", "--length=16"]
  real, calls = hidden._batch, []
  monkeypatch.setattr(
      dense_build.build, "__defaults__",
      (*dense_build.build.__defaults__[:2], 100))

  def run(out, most):
    calls.clear()

    def counted(*args):
      calls.append(1)
      if len(calls) > most:
        raise KeyboardInterrupt
      return real(*args)
    monkeypatch.setattr(hidden, "_batch", counted)
    return build_dense_store.main([*flags, f"--out={tmp_path / out}"])

  assert run("whole", 10 ** 6) == 0
  total = len(calls)
  assert total > 6
  assert run("store", 4) == 130
  assert "interrupted" in capsys.readouterr().err
  assert run("store", 10 ** 6) == 0
  assert len(calls) <= total - 3  # What was noted was not read again.
  for path in (tmp_path / "whole").iterdir():
    assert path.read_bytes() == (tmp_path / "store" / path.name).read_bytes()
  monkeypatch.setattr(hidden, "_batch", None)
  assert build_dense_store.main([*flags, f"--out={tmp_path / 'store'}"]) == 0
  other = flags[:-1] + ["--length=8", f"--out={tmp_path / 'store'}"]
  assert build_dense_store.main(other) == 2
  assert "another plan (other: source)" in capsys.readouterr().err
