"""Copies of the course's notebooks for nbval: smallest profile, and a last cell that tries every slider's ends.

Use: python tests/prepare_notebooks.py FOLDER
"""

import sys
from pathlib import Path

import nbformat
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
CHECK = "from kdoct_utils import widgets\n\nassert widgets.check_registered(), 'this notebook registered no slider'"


def prepare(folder: Path) -> list[Path]:
    """Write the copies; outputs are dropped, since the smallest profile has others."""
    written = []
    folder.mkdir(parents=True, exist_ok=True)
    for source in sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb")):
        parameters = {"profile": "smoke", "run_dir": str(folder.resolve() / "run")}
        notebook = parameterize_notebook(load_notebook_node(str(source)), parameters)
        notebook.cells.append(nbformat.v4.new_code_cell(CHECK))
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
        written.append(folder / source.name)
        nbformat.write(notebook, written[-1])
    return written


if __name__ == "__main__":
    if not prepare(Path(sys.argv[1])):
        sys.exit("there are no notebooks to test")
