"""Folders are the architecture: each has a front door, and Keras's private names have one room."""

import ast
import functools
import re
from pathlib import Path

import pytest

import keras_freeze

PACKAGE = Path(keras_freeze.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
FOLDERS = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))
# Of this folder the modules are the doors: each covers one part of Keras.
DOORS = {"demo", "keras_internals"}


def folder_of(path):
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else None


@functools.cache
def imported_modules(path):
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.append((node.lineno, node.module))
            found += [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
    return found


@functools.cache
def exported(folder):
    """Return the names that a folder's `__init__` has, modules among them."""
    tree = ast.parse((PACKAGE / folder / "__init__.py").read_text())
    imports = (node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom))
    return {alias.asname or alias.name for node in imports for alias in node.names}


def is_behind_the_door(module, folder):
    """Tell whether a module of a folder is named that its `__init__` doesn't export."""
    package, *rest = module.split(".")
    if package != "keras_freeze" or len(rest) < 2 or rest[0] != folder:
        return False
    return (PACKAGE / folder / f"{rest[1]}.py").exists() and rest[1] not in exported(folder)


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_is_entered_by_its_front_door(folder):
    if folder in DOORS:
        return
    around = [
        f"{path.relative_to(PACKAGE)}:{line} {module}"
        for path in MODULES
        if folder_of(path) != folder
        for line, module in imported_modules(path)
        if is_behind_the_door(module, folder)
    ]
    assert around == []


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_says_what_it_is_for(folder):
    text = ast.get_docstring(ast.parse((PACKAGE / folder / "__init__.py").read_text()))
    assert text is not None
    assert 2 <= text.count(".") <= 8


PRIVATE_MODULES = r"\.src\b|^tensorflow\.python"


def private_uses(path):
    """Yield the private names of others that a module uses: of Keras, TensorFlow or torch."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_"):
            owner = node.value.id if isinstance(node.value, ast.Name) else ""
            if ast.unparse(node) == "os._exit":  # which Python documents
                continue
            if not node.attr.startswith("__") and owner not in ("self", "cls"):
                yield node.lineno, ast.unparse(node)
        elif isinstance(node, ast.ImportFrom) and re.search(PRIVATE_MODULES, node.module or ""):
            yield node.lineno, node.module


def test_private_names_of_others_are_used_in_one_folder():
    found = [
        f"{path.relative_to(PACKAGE)}:{line} {use}"
        for path in MODULES
        if folder_of(path) != "keras_internals"
        for line, use in private_uses(path)
    ]
    assert found == []


# CPython's own; torch's, as old as torch; and one without which a feature warns and switches off.
NOT_LOOKED_UP = {"_getframe", "_version", "_registry"}


@pytest.mark.parametrize(
    "path", [p for p in MODULES if folder_of(p) == "keras_internals"], ids=lambda path: path.stem
)
def test_each_private_name_is_looked_up_where_it_is_used(path):
    nodes = list(ast.walk(ast.parse(path.read_text())))
    looked_up = {node.value for node in nodes if isinstance(node, ast.Constant)}
    own = {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
    used = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    private = {name for name in used if name.startswith("_") and not name.startswith("__")}
    assert private - own - looked_up - NOT_LOOKED_UP == set()


def test_the_map_for_contributors_has_every_folder_and_module():
    text = (PACKAGE.parent / "CONTRIBUTING.md").read_text()
    shown = set(re.findall(r"^\| `([a-z_]+(?:/|\.py))` \|", text, re.MULTILINE))
    modules = {path.name for path in PACKAGE.glob("[a-z]*.py")}
    assert shown == {f"{folder}/" for folder in FOLDERS} | modules
