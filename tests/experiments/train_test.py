"""The training program: mistakes are named before any work is done."""

import pytest

from experiments import train


@pytest.mark.parametrize("arguments, message", [
    (["--bundle=huge"], "huge"),
    (["--checkpoint_every=0"], "checkpoint_every"),
    (["--corpus=/nowhere", "--out={tmp}"], "no readable *.py file"),
    (["--out={file}/below"], "a writable folder (--out)"),
    (["surplus"], "unexpected argument 'surplus'"),
])
def test_bad_flags(arguments, message, tmp_path, capsys):
  file = tmp_path / "file"
  file.write_text("")
  arguments = [a.format(tmp=tmp_path, file=file) for a in arguments]
  assert train.main(arguments) == 2
  assert message in capsys.readouterr().err


def test_help_tells_what_it_writes(capsys):
  assert train.main(["--help"]) == 0
  assert "load_bundle" in capsys.readouterr().out
