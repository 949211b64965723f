"""How much a reader must open: the files that one file needs, and how long functions are.

Types, docstrings and boolean arguments are checked by ruff, import contracts by import-linter.
"""

import ast
from pathlib import Path

import pytest

import lora_scratch

PACKAGE = Path(lora_scratch.__file__).parent
SCRIPTS = PACKAGE.parent / "scripts"
LONGEST = 50  # lines of a function
MOST_FILES = {"layers/lora.py": 1, "evaluation/predict.py": 12, "adapter/inject.py": 14, "training/step.py": 20}


def imported(path, package):
    """The files that `path` imports when it is imported: for `from ..layers import X`, the file that defines X."""
    place = (*path.relative_to(package).parent.parts,)
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.level:
            module = (*place[: len(place) - node.level + 1], *(node.module.split(".") if node.module else ()))
            yield from (resolved(package.joinpath(*module), alias.name, package) for alias in node.names)


def resolved(place, name, package):
    """The file that a name imported from the module or package `place` comes from."""
    if place.with_suffix(".py").exists():
        return place.with_suffix(".py")
    if (place / f"{name}.py").exists() and not exports(place / "__init__.py", name):
        return place / f"{name}.py"
    module = exports(place / "__init__.py", name)
    return resolved(place / module, name, package) if module else place / "__init__.py"


def exports(init, name):
    """The module from which an `__init__` exports `name`, if it does."""
    for node in ast.parse(init.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and any((alias.asname or alias.name) == name for alias in node.names):
            return node.module
    return None


def closure(path, package):
    """The file and all that it needs, directly or not."""
    seen, todo = {path}, [path]
    while todo:
        new = set(imported(todo.pop(), package)) - seen
        seen |= new
        todo += new
    return seen


@pytest.mark.parametrize("name", MOST_FILES)
def test_a_core_file_needs_few_others(name):
    """Imports inside functions and for type checkers alone do not count."""
    files = sorted(str(path.relative_to(PACKAGE)) for path in closure(PACKAGE / name, PACKAGE))
    assert len(files) <= MOST_FILES[name], files


def test_closure_check_can_fail(tmp_path):
    """The twin: a file behind a package's export, and a file behind that one, are counted; a lazy import is not."""
    package = tmp_path / "package"
    (package / "low").mkdir(parents=True)
    (package / "low" / "__init__.py").write_text("from .deep import thing as thing\n")
    (package / "low" / "deep.py").write_text("from ..base import other\n")
    (package / "base.py").write_text("")
    (package / "unused.py").write_text("")
    (package / "top.py").write_text("from .low import thing\n\ndef f():\n    from .unused import x\n")
    assert {path.name for path in closure(package / "top.py", package)} == {"top.py", "deep.py", "base.py"}


def too_long(source):
    """The functions with more lines than LONGEST."""
    functions = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef))
    return [node.name for node in functions if node.end_lineno - node.lineno + 1 > LONGEST]


def test_no_function_is_long():
    """Of the package and of the scripts."""
    files = [*PACKAGE.rglob("*.py"), *SCRIPTS.rglob("*.py")]
    found = {str(path): too_long(path.read_text(encoding="utf-8")) for path in files}
    assert {path: names for path, names in found.items() if names} == {}


def test_length_check_can_fail():
    """The twin."""
    assert too_long("def long():\n" + "    x = 1\n" * LONGEST) == ["long"]
