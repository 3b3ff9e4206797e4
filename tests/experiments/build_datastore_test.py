"""From a folder of texts to a store that a system drafts from."""

from experiments import build_datastore
import spec_jax
from spec_jax.stores import datastore


def test_builds_and_drafts(tiny, tmp_path, capsys):
  corpus = tmp_path / "corpus"
  corpus.mkdir()
  texts = {"a.py": "for name in names:\n  print(name, sizes[name])\n",
           "b.py": "class Point:\n  def __init__(self, x, y):\n", "c.py": "",
           "d.txt": "left out"}
  for name, text in texts.items():
    (corpus / name).write_text(text)
  (corpus / "bad.py").write_bytes(b"\xff\xfe")
  flags = [f"--bundle={tiny}", f"--corpus={corpus}", "--noheldout",
           f"--out={tmp_path / 'store'}"]
  assert build_datastore.main(flags) == 0
  assert "4 documents" in capsys.readouterr().out
  assert build_datastore.main(flags) == 0  # It is there already.
  bundle = spec_jax.load_bundle(tiny)
  store = datastore.open_store(tmp_path / "store", bundle.target.vocab_size)
  ids = bundle.tokenizer.encode(texts["a.py"], add_special_tokens=False)
  places = store.find(ids[:4])
  rows, lengths = store.continuations(places, 4, 60, 5)
  assert rows[0, :lengths[0]].tolist() == ids[4:]
  system, params = spec_jax.build(
      "rest", bundle, datastore=str(tmp_path / "store"))
  plain = spec_jax.build("autoregressive", bundle)
  prompt = ["class Point:"]
  texts = [spec_jax.generate(*pair, prompt, max_new_tokens=6).text
           for pair in ((system, params), plain)]
  assert texts[0] == texts[1]


def test_nothing_to_read_is_an_error(tiny, tmp_path, capsys):
  assert build_datastore.main(
      [f"--bundle={tiny}", f"--corpus={tmp_path}",
       f"--out={tmp_path / 'store'}"]) == 2
  assert "no *.py file below" in capsys.readouterr().err
