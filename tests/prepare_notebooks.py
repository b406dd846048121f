"""Copies of the course's notebooks and solutions for nbval, with the smallest profile.

Each notebook of the course gets a last cell that tries every slider's ends. In a solution each answer is checked by
its own cells.

Use: python tests/prepare_notebooks.py FOLDER
"""

import sys
from pathlib import Path

import nbformat
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
PLACES = (".", "more", "solutions")
CHECK = """from kdoct_utils.show.sliders import check_registered

assert check_registered() or {beside}, 'this notebook registered no slider'"""


def prepare(folder: Path) -> list[Path]:
    """Write the copies; outputs are dropped, since the smallest profile has others."""
    written = []
    for place in PLACES:
        (folder / place).mkdir(parents=True, exist_ok=True)
    for source in [path for place in PLACES for path in sorted((NOTEBOOKS / place).glob("[0-9][0-9]*_*.ipynb"))]:
        parameters = {"profile": "smoke", "run_dir": str(folder.resolve() / "run")}
        notebook = parameterize_notebook(load_notebook_node(str(source)), parameters)
        if source.parent.name != "solutions":
            notebook.cells.append(nbformat.v4.new_code_cell(CHECK.format(beside=source.parent.name == "more")))
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
        written.append(folder / source.relative_to(NOTEBOOKS))
        nbformat.write(notebook, written[-1])
    return written


if __name__ == "__main__":
    if not prepare(Path(sys.argv[1])):
        sys.exit("there are no notebooks to test")
