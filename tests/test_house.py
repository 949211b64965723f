"""How the code reads, held by the syntax tree: short functions, typed and documented, and no import in a circle."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import lora_scratch

PACKAGE = Path(lora_scratch.__file__).parent
LONGEST = 60


def functions(tree):
    """Every function of a file with its qualified name, and whether it is public: neither it nor its class is private."""

    def walk(node, prefix, public):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                shown = public and (not child.name.startswith("_") or child.name in ("__init__", "__call__"))
                if not isinstance(child, ast.ClassDef):
                    yield f"{prefix}{child.name}", child, shown
                    shown = False  # what is inside a function is its own affair
                yield from walk(child, f"{prefix}{child.name}.", shown)

    yield from walk(tree, "", True)


def untyped(function):
    """The arguments without a type, and `return` where the result has none."""
    arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    arguments += [extra for extra in (function.args.vararg, function.args.kwarg) if extra]
    missing = [a.arg for a in arguments if a.annotation is None and a.arg not in ("self", "cls")]
    return missing + (["return"] if function.returns is None else [])


def complaints(source):
    """What a file does against the house style."""
    tree = ast.parse(source)
    if ast.get_docstring(tree) is None and source.strip():
        yield "the file has no docstring"
    for name, function, public in functions(tree):
        length = function.end_lineno - function.lineno + 1
        if length > LONGEST:
            yield f"{name} has {length} lines"
        if untyped(function):
            yield f"{name} does not type {', '.join(untyped(function))}"
        overload = any(isinstance(d, ast.Name) and d.id == "overload" for d in function.decorator_list)
        if public and not function.name.startswith("__") and not overload and ast.get_docstring(function) is None:
            yield f"{name} has no docstring"
        for argument, default in zip(function.args.args[::-1], function.args.defaults[::-1], strict=False):
            if isinstance(default, ast.Constant) and isinstance(default.value, bool):
                yield f"{name} takes the boolean {argument.arg} by position"
        defaults = [*function.args.defaults, *filter(None, function.args.kw_defaults)]
        if any(isinstance(default, ast.List | ast.Dict | ast.Set) for default in defaults):
            yield f"{name} has a default that can change"


def imports(path, tree, modules):
    """The modules of the package that a file imports when it is imported itself."""
    parts = (path.parent if path.name == "__init__.py" else path.with_suffix("")).relative_to(PACKAGE.parent).parts
    package = parts if path.name == "__init__.py" else parts[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            source = ".".join((*package[: len(package) - node.level + 1], *([node.module] if node.module else [])))
            for alias in node.names:
                yield f"{source}.{alias.name}" if f"{source}.{alias.name}" in modules else source


FILES = sorted(PACKAGE.rglob("*.py"))
SCRIPTS = sorted((PACKAGE.parent / "scripts").glob("*.py"))


@pytest.mark.parametrize("path", FILES + SCRIPTS, ids=lambda path: str(path.relative_to(PACKAGE.parent)))
def test_file_keeps_to_the_house_style(path):
    """Functions of at most 60 lines, everything typed, what is public documented, no boolean by position."""
    assert list(complaints(path.read_text(encoding="utf-8"))) == []


def test_modules_import_each_other_in_no_circle():
    """There is an order in which each file only needs those before it. (A room's __init__ comes after its files.)"""
    names = {p: ".".join(p.with_suffix("").relative_to(PACKAGE.parent).parts).removesuffix(".__init__") for p in FILES}
    graph = {
        name: set(imports(path, ast.parse(path.read_text(encoding="utf-8")), set(names.values())))
        for path, name in names.items()
    }
    list(TopologicalSorter(graph).static_order())
    assert "lora_scratch.layers" in graph["lora_scratch.adapter.inject"]


BAD = (
    '''
def visible(a, *, b: int = 1) -> None:
    """Untyped a."""

def bare(a: int) -> int:
    return a

class Thing:
    """Documented."""

    def switch(self, on: bool = True, names: list = []) -> None:
        """By position, and shared between calls."""

def long() -> None:
    """Long."""
'''
    + "    x = 1\n" * 60
)


def test_house_check_can_fail():
    """The twin: a file with every fault is told each of them."""
    assert list(complaints(BAD)) == [
        "the file has no docstring",
        "visible does not type a",
        "bare has no docstring",
        "Thing.switch takes the boolean on by position",
        "Thing.switch has a default that can change",
        "long has 62 lines",
    ]


def test_circle_check_can_fail():
    """The twin: two files that need each other are a circle."""
    with pytest.raises(CycleError):
        list(TopologicalSorter({"a": {"b"}, "b": {"a"}}).static_order())
