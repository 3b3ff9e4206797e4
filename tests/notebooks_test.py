"""Every notebook runs, and is committed with its outputs."""

import nbformat
import pytest

from tests import notebooks


@pytest.mark.parametrize("path", notebooks.paths(), ids=lambda p: p.stem)
def test_notebook_runs(path):
  executed = notebooks.execute(path, is_smoke=True)
  assert [cell for cell in executed.cells if cell.cell_type == "code"]


@pytest.mark.parametrize("path", notebooks.paths(), ids=lambda p: p.stem)
def test_notebook_has_outputs(path):
  notebook = nbformat.read(path, as_version=4)
  code = [cell for cell in notebook.cells if cell.cell_type == "code"]
  assert any(cell.outputs for cell in code)
  assert all(cell.execution_count for cell in code if cell.source.strip())


def test_there_are_notebooks():
  assert notebooks.paths()
