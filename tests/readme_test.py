"""READMEs list what is registered, and their links lead somewhere."""

import pathlib
import re

import pytest

from spec_jax import systems

_ROOT = pathlib.Path(__file__).parents[1]
_PAGES = ("README.md", "experiments/results/README.md")


def _read(page):
  return (_ROOT / page).read_text(encoding="utf-8")


def test_table_of_systems_is_that_of_the_registry():
  text = _read("README.md")
  shown = text.split("<!-- systems.table() -->\n")[1].split("\n<!-- end -->")[0]
  assert shown == systems.table()


def _anchors(page):
  headings = re.findall(r"^#+ (.*)$", _read(page), re.MULTILINE)
  return {re.sub(r"[^a-z0-9 _-]", "", heading.lower()).replace(" ", "-")
          for heading in headings}


@pytest.mark.parametrize("page", _PAGES)
def test_links_lead_to_files_and_headings(page):
  links = re.findall(r"\]\(([^)\s]+)\)", _read(page))
  for link in links:
    name, _, anchor = link.partition("#")
    if "://" in link:
      continue
    path = (_ROOT / page).parent / name
    assert path.exists(), (page, link)
    if anchor:
      assert anchor in _anchors(path), (page, link)
  assert links
