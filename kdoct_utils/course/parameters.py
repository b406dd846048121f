"""The parameters that notebooks declare: read from their cells, and values checked against them.

papermill only logs a parameter that a notebook does not know; here it is refused, with the valid names.
"""

import ast
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from kdoct_utils.datasets import DataOptions
from kdoct_utils.profiles import PARAMETERS, check_parameter
from kdoct_utils.runs import RunError, read_json

TYPES = {"int": int, "float": float, "bool": bool, "str": str}
COMMON_PARAMETERS = ("profile", "dataset", "data_root", "run_dir", "seed")  # set by options of their own


def read_notebook(path: Path) -> dict:
    """A notebook file as JSON. Raises RunError if it is none."""
    notebook = read_json(path)
    if not isinstance(notebook.get("cells"), list):
        raise RunError(f"{path} is not a notebook: it has no cells")
    return notebook


def declared_parameters(notebook: Path) -> dict[str, object]:
    """Name and type of each parameter in the notebook's cell tagged "parameters".

    A parameter of ``PARAMETERS`` has its range with its type; one whose default is None may be None.
    Raises RunError where the cell has a parameter without a plain type.
    """
    cells = read_notebook(notebook)["cells"]
    tagged = ["".join(cell["source"]) for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
    types = {}
    for statement in ast.parse(tagged[0] if tagged else "").body:
        target = statement.targets[0] if isinstance(statement, ast.Assign) else getattr(statement, "target", None)
        if not isinstance(target, ast.Name):
            continue
        name, annotation = target.id, getattr(statement, "annotation", None)
        kind = TYPES.get(ast.unparse(annotation)) if annotation else None
        if kind is None:
            raise RunError(
                f"{notebook.name}: parameter {name!r} needs a plain type; write `{name}: type = value  # comment` "
                f"with a type out of {', '.join(TYPES)}"
            )
        known = PARAMETERS.get(name)
        kind = known if known is not None and known.__origin__ is kind else kind
        types[name] = kind | None if ast.unparse(statement.value) == "None" else kind
    return types


def parse_assignments(assignments: Iterable[str]) -> dict[str, str]:
    """["alpha=0.5", "temperature=2"] as a dict of strings. Raises RunError for other forms and repeated names."""
    values: dict[str, str] = {}
    for assignment in assignments:
        name, sign, value = (part.strip() for part in assignment.partition("="))
        if not sign or not name.isidentifier():
            raise RunError(f"-p takes name=value, not {assignment!r}")
        if name in values:
            raise RunError(f"parameter {name!r} is given twice")
        values[name] = value
    return values


def option_types() -> dict[str, object]:
    """Name and type of each field of DataOptions, with its range where it has one."""
    return {name: PARAMETERS.get(name, kind) for name, kind in DataOptions.types().items()}


def settable_parameters(notebooks: Sequence[Path], given: Iterable[str]) -> dict[str, object]:
    """Name and type of all that -p can set: what the notebooks declare, and the fields of DataOptions.

    Raises RunError if ``given`` names another one, or one that has an option of its own.
    """
    declared = {name: kind for path in notebooks for name, kind in declared_parameters(path).items()}
    own = {name: kind for name, kind in declared.items() if name not in COMMON_PARAMETERS}
    options = option_types()
    for name in given:
        if name in COMMON_PARAMETERS:
            raise RunError(f"{name} is set by --{name.replace('_', '-')}, not by -p")
        if name not in own | options:
            raise RunError(
                f"no notebook of this run has a parameter {name!r}; valid names: {', '.join(sorted(own)) or 'none'}; "
                f"of the dataset: {', '.join(options)}"
            )
    return own | options


def plan_parameters(
    notebooks: Sequence[Path], common: Mapping[str, object], given: Mapping[str, object]
) -> tuple[dict[str, dict[str, object]], dict[str, object]]:
    """What each notebook is given, by its name, and the dataset options among the given parameters.

    A notebook gets those of the common and the given parameters that it declares, cast to its types.
    Raises RunError for a parameter that none declares or that has an option of its own; ValueError, with the range, for
    a value that does not fit.
    """
    settable_parameters(notebooks, given)
    values, plan = {**common, **given}, {}
    for path in notebooks:
        declared = {name: kind for name, kind in declared_parameters(path).items() if name in values}
        plan[path.name] = {name: check_parameter(name, values[name], kind) for name, kind in declared.items()}
    kinds = option_types()
    return plan, {name: check_parameter(name, value, kinds[name]) for name, value in given.items() if name in kinds}
