"""From a folder of texts to a dense store that dresd reads."""

from experiments import build_dense_store
import spec_jax
from spec_jax.stores import dense_store


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
  assert "no *.py file with text below" in capsys.readouterr().err
