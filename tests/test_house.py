"""The house, beyond the import contracts of `make lint`: one home for a name, and rooms are small."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "kdoct_utils"
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.py"))}
LONGEST_MODULE = 350


def dotted(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported(tree):
    """(module, name) of each ``from kdoct_utils... import name``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("kdoct_utils"):
            yield from ((node.module, alias.name) for alias in node.names)


def defined(tree):
    """The names that a module makes itself, at its top level; what it imports is no name of its own."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


def test_a_name_is_imported_from_where_it_is_made_and_never_an_underscore_name():
    modules = {dotted(path): defined(tree) for path, tree in TREES.items()}
    users = TREES | {path: ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "tests").rglob("*.py")}
    wrong = []
    for path, tree in users.items():
        for module, name in imported(tree):
            if f"{module}.{name}" in modules or name in modules[module]:
                continue
            wrong.append(f"{path.relative_to(ROOT)}: {name} is not made in {module}")
        private = [name for _, name in imported(tree) if name.startswith("_") and name != "__version__"]
        wrong += [f"{path.relative_to(ROOT)}: {name}" for name in private if path in TREES]
    assert wrong == []


def test_modules_fit_in_a_head():
    sizes = {path.relative_to(ROOT): len(path.read_text(encoding="utf-8").splitlines()) for path in TREES}
    assert {str(path): lines for path, lines in sizes.items() if lines > LONGEST_MODULE} == {}


def test_every_room_says_what_lives_there():
    for room in (path for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()):
        assert len(ast.get_docstring(TREES[room / "__init__.py"]).splitlines()) >= 3, room.name
