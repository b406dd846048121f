"""The parameters that a notebook declares, and values checked against them.

papermill only logs a parameter that a notebook does not know; here it is refused, with the valid names.
"""

from __future__ import annotations

import ast
import logging
from pathlib import Path

from kdoct_utils.profiles import PARAMETERS, check_parameter
from kdoct_utils.runs import RunError

TYPES = {"int": int, "float": float, "bool": bool, "str": str, "list": list, "tuple": tuple, "dict": dict}


def declared_parameters(notebook: Path) -> dict[str, object]:
    """Name and type of each parameter in the notebook's cell tagged "parameters", as papermill reads them.

    A parameter of ``PARAMETERS`` has its range with its type; one whose default is None may be None.
    Raises RunError where the cell has a parameter that papermill would overlook, or one without a plain type.
    """
    import nbformat
    import papermill

    logger = logging.getLogger("papermill")
    before, level = logger.level, logging.ERROR  # its warnings become the error below
    logger.setLevel(level)
    try:
        found = papermill.inspect_notebook(str(notebook))
    finally:
        logger.setLevel(before)
    cells = [cell for cell in nbformat.read(notebook, as_version=4).cells if cell.cell_type == "code"]
    tagged = [cell.source for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    for name in _assigned_names(tagged[0] if tagged else ""):
        if name not in found:
            raise RunError(
                f"{notebook.name}: papermill cannot read the parameter {name!r}; write "
                f"`{name}: type = value  # comment` with a plain type and no second = in the line"
            )
    types = {}
    for name, parameter in found.items():
        type_name = parameter["inferred_type_name"].split("[")[0].strip()
        if type_name not in TYPES:
            raise RunError(f"{notebook.name}: parameter {name!r} needs a type out of {', '.join(TYPES)}")
        kind, known = TYPES[type_name], PARAMETERS.get(name)
        kind = known if known is not None and known.__origin__ is kind else kind
        types[name] = kind | None if parameter["default"] == "None" else kind
    return types


def _assigned_names(source: str) -> list[str]:
    names = []
    for statement in ast.parse(source).body:
        targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
        names += [target.id for target in targets if isinstance(target, ast.Name)]
    return names


def parse_assignments(assignments: list[str]) -> dict[str, str]:
    """["alpha=0.5", "temperature=2"] as a dict of strings. Raises RunError for other forms and repeated names."""
    values: dict[str, str] = {}
    for assignment in assignments:
        name, sign, value = assignment.partition("=")
        if not sign or not name.strip().isidentifier():
            raise RunError(f"-p takes name=value, not {assignment!r}")
        if name.strip() in values:
            raise RunError(f"parameter {name.strip()!r} is given twice")
        values[name.strip()] = value.strip()
    return values


def cast(name: str, value: object, kind: object) -> object:
    """``value`` as the declared type, within its range. Text, as the command line gives it, is read as that type.

    Raises RunError if it does not fit: 1.5 is no int, "maybe" is no bool, 2 is no alpha.
    """
    if kind in (list, tuple, dict):
        try:
            value = ast.literal_eval(value) if isinstance(value, str) else value
        except (ValueError, SyntaxError):
            pass  # refused below
        value = kind(value) if isinstance(value, (list, tuple)) and kind is not dict else value
        if isinstance(value, str):
            raise RunError(f"parameter {name!r} takes {kind.__name__}, not {value!r}")
    try:
        return check_parameter(name, value, kind)
    except ValueError as error:
        raise RunError(str(error)) from None


def share_parameters(given: dict[str, object], declared: dict[str, dict[str, object]]) -> dict[str, dict[str, object]]:
    """For each notebook, those of ``given`` that it declares, cast to its types.

    declared: notebook name -> {parameter: type}. Raises RunError for a parameter that no notebook declares.
    """
    valid = sorted({name for types in declared.values() for name in types})
    for name in given:
        if name not in valid:
            names = ", ".join(valid) or "none"
            raise RunError(f"no notebook of this run has a parameter {name!r}; valid names: {names}")
    return {
        notebook: {name: cast(name, value, types[name]) for name, value in given.items() if name in types}
        for notebook, types in declared.items()
    }
