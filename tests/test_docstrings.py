"""Full docstrings stand on what users call; all else has one line, and functions are short."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from mlx_rcnn.checkpoints.exported_function import ExportedFunction
from mlx_rcnn.inputs.tiff import TiffImage
from mlx_rcnn.outputs.detections import Detections
from mlx_rcnn.outputs.sahi import sahi_model
from test_package import ROOT, modules
from test_public_api import MODULES

# What users are handed, or import from the module that has it, as the docs tell.
HANDED = (Detections, ExportedFunction, TiffImage, sahi_model)

MOST_LINES = 49  # of a function, its docstring apart

# Flags in a row, to be divided.
LONGER = {
    ("mlx_rcnn/cli/flags/export.py", "add_export"),
    ("mlx_rcnn/cli/flags/train.py", "add_train"),
}

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def own_names(thing: object) -> Iterator[tuple[str, str]]:
    """(module, qualified name) of a function; of a class its own, its bases' and their members'."""
    if not inspect.isclass(thing):
        thing = inspect.unwrap(thing)  # type: ignore[arg-type]
        yield thing.__module__, thing.__qualname__
        return
    for cls in thing.__mro__:
        yield cls.__module__, cls.__qualname__
        for name in vars(cls):
            if not name.startswith("_") or name.endswith("__"):
                yield cls.__module__, f"{cls.__qualname__}.{name}"


def exported_names() -> set[tuple[str, str]]:
    """What the public modules list in ``__all__``, the members of its classes, and ``HANDED``."""
    listed = [getattr(module, name) for module in MODULES for name in module.__all__]
    things = [v for v in (*listed, *HANDED) if inspect.isclass(v) or inspect.isroutine(v)]
    return {name for thing in things for name in own_names(thing)}


def definitions(node: ast.AST, inside: str = "") -> Iterator[tuple[str, Definition]]:
    """Every function and class below a node by its qualified name."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Definition):
            yield inside + child.name, child
            rest = "." if isinstance(child, ast.ClassDef) else ".<locals>."
            yield from definitions(child, f"{inside}{child.name}{rest}")
        else:
            yield from definitions(child, inside)


def docstring_lines(node: Definition) -> int:
    """Lines of a definition's docstring; 0 without."""
    first = node.body[0]
    if ast.get_docstring(node) is None or first.end_lineno is None:
        return 0
    return first.end_lineno - first.lineno + 1


@cache
def every_definition() -> list[tuple[str, Path, str, Definition]]:
    """(module, file, qualified name, node) of every function and class of the package."""
    return [
        (module, path.relative_to(ROOT), name, node)
        for module, path in modules().items()
        for name, node in definitions(ast.parse(path.read_text()))
    ]


def test_internal_names_have_docstrings_of_one_line() -> None:
    exported = exported_names()
    long = [
        f"{path}:{node.lineno} {name}: {docstring_lines(node)} lines"
        for module, path, name, node in every_definition()
        if (module, name) not in exported and docstring_lines(node) > 1
    ]
    told = "what is not exported: a docstring of one line, facts as comments beside the code"
    assert not long, f"{told}\n" + "\n".join(long)


def test_functions_are_short() -> None:
    lengths = {
        (str(path), name): (node.end_lineno or 0) - node.lineno + 1 - docstring_lines(node)
        for _, path, name, node in every_definition()
        if not isinstance(node, ast.ClassDef)
    }
    long = {key: lines for key, lines in lengths.items() if lines > MOST_LINES}
    assert long.keys() == LONGER, f"of more than {MOST_LINES} lines beside the docstring: {long}"


def test_exported_functions_have_docstrings_of_their_own() -> None:
    # The rule above is one of exported names only if these are found where they are defined.
    known = {(module, name) for module, _, name, _ in every_definition()}
    here = {(m, n) for m, n in exported_names() if m.startswith("mlx_rcnn.") and "." not in n}
    assert len(here) > 100 and here <= known, here - known
