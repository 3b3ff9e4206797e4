"""The README lists what is registered."""

import pathlib

from spec_jax import systems

_README = pathlib.Path(__file__).parents[1] / "README.md"


def test_table_of_systems_is_that_of_the_registry():
  text = _README.read_text(encoding="utf-8")
  shown = text.split("<!-- systems.table() -->\n")[1].split("\n<!-- end -->")[0]
  assert shown == systems.table()
