"""Executes the notebooks; `python -m tests.notebooks --write` keeps outputs.

With SPEC_JAX_SMOKE=1 a notebook decodes fewer tokens; every cell still runs.
"""

import argparse
import os
import pathlib

import nbclient
import nbformat

FOLDER = pathlib.Path(__file__).parent.parent / "notebooks"


def paths() -> list[pathlib.Path]:
  return sorted(FOLDER.glob("*.ipynb"))


def execute(path: pathlib.Path, is_smoke: bool) -> nbformat.NotebookNode:
  """Runs all cells in a fresh kernel; a failing cell raises."""
  notebook = nbformat.read(path, as_version=4)
  os.environ["SPEC_JAX_SMOKE"] = "1" if is_smoke else "0"
  client = nbclient.NotebookClient(
      notebook, timeout=600, kernel_name="python3",
      resources={"metadata": {"path": str(FOLDER.parent)}})
  return client.execute()


def without_progress(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
  """The same notebook; what its cells wrote to stderr is left out."""
  for cell in notebook.cells:
    if cell.cell_type == "code":
      cell.outputs = [output for output in cell.outputs
                      if output.get("name") != "stderr"]
  return notebook


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--write", action="store_true",
                      help="store the outputs in the notebooks")
  arguments = parser.parse_args()
  for path in paths():
    notebook = execute(path, is_smoke=False)
    if arguments.write:
      nbformat.write(without_progress(notebook), path)


if __name__ == "__main__":
  main()
