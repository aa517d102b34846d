"""Configurations written as Python, as mmdetection stores them, read as data: nothing is run."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from typing import NamedTuple

_LONGEST_TEXT, _LONGEST, _DEEPEST = 2_000_000, 10_000, 60
_LARGEST = 1e12
_SUMS: dict[type[ast.operator], Callable[..., object]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_SIGNS: dict[type[ast.unaryop], Callable[..., object]] = {
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
    ast.Not: operator.not_,
}


class PythonConfig(NamedTuple):
    """``values`` by name, and ``skipped``, the lines (from 1) of what was not read."""

    values: dict[str, object]
    skipped: tuple[int, ...]


class _UnknownError(Exception):
    """An expression that is no data."""


def read_python_config(text: str) -> PythonConfig:
    """The values a Python text gives to names; ValueError if it is no Python, or too long."""
    if len(text) > _LONGEST_TEXT:
        raise ValueError(f"a config of {len(text)} characters: expected {_LONGEST_TEXT} at most")
    try:
        body = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError("the config is no Python text") from error
    # Literals, ``dict(...)``, lists, tuples, names bound further up and arithmetic of numbers. An
    # entry of a dict that is anything else (a call, an import, a condition) is left out of it; any
    # other such value leaves its name out.
    reader = _Reader()
    for statement in body:
        reader.take(statement)
    return PythonConfig(reader.names, tuple(sorted(reader.skipped)))


class _Reader:
    """Evaluates data; ``names`` are those bound so far."""

    def __init__(self) -> None:
        self.names: dict[str, object] = {}
        self.skipped: set[int] = set()

    def take(self, statement: ast.stmt) -> None:
        """Bind what an assignment binds; what any other statement binds is not known after it."""
        targets = statement.targets if isinstance(statement, ast.Assign) else []
        if isinstance(statement, ast.AnnAssign) and statement.value is not None:
            targets = [statement.target]
        if targets and all(isinstance(target, ast.Name) for target in targets):
            assert isinstance(statement, ast.Assign | ast.AnnAssign) and statement.value is not None
            try:
                value = self.value(statement.value, 0)
            except _UnknownError:
                self._forget(statement)
                return
            self.names |= {target.id: value for target in targets if isinstance(target, ast.Name)}
        elif not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)):
            self._forget(statement)

    def _forget(self, statement: ast.stmt) -> None:
        self.skipped.add(statement.lineno)
        for node in ast.walk(statement):
            if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
                self.names.pop(node.id, None)
            elif isinstance(node, ast.Subscript | ast.Attribute) and not isinstance(
                node.ctx, ast.Load
            ):  # model['neck'] = ...: model is no longer what it was
                inner: ast.AST = node
                while isinstance(inner, ast.Subscript | ast.Attribute):
                    inner = inner.value
                if isinstance(inner, ast.Name):
                    self.names.pop(inner.id, None)

    def value(self, node: ast.expr, depth: int) -> object:
        """The value of an expression; raises if it is no data."""
        if depth > _DEEPEST:
            raise _UnknownError
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, ast.Name) and node.id in self.names:
            return self.names[node.id]
        if isinstance(node, ast.Tuple | ast.List):
            return self._sequence(node, depth)
        if isinstance(node, ast.Dict):
            return self._entries(list(zip(node.keys, node.values, strict=True)), depth)
        if isinstance(node, ast.Call):
            return self._dict_call(node, depth)
        if isinstance(node, ast.UnaryOp) and type(node.op) in _SIGNS:
            return _computed(_SIGNS[type(node.op)], self.value(node.operand, depth + 1))
        if isinstance(node, ast.BinOp) and type(node.op) in _SUMS:
            sides = (self.value(side, depth + 1) for side in (node.left, node.right))
            return _computed(_SUMS[type(node.op)], *sides)
        if isinstance(node, ast.Subscript):
            whole, key = self.value(node.value, depth + 1), self.value(node.slice, depth + 1)
            return _computed(operator.getitem, whole, key, plain=False)
        raise _UnknownError

    def _sequence(self, node: ast.Tuple | ast.List, depth: int) -> object:
        items: list[object] = []
        for item in node.elts:
            inner = item.value if isinstance(item, ast.Starred) else item
            value = self.value(inner, depth + 1)
            if not isinstance(item, ast.Starred):
                items.append(value)
            elif isinstance(value, list | tuple):
                items += value
            else:
                raise _UnknownError
            if len(items) > _LONGEST:
                raise _UnknownError
        return tuple(items) if isinstance(node, ast.Tuple) else items

    def _dict_call(self, node: ast.Call, depth: int) -> dict[object, object]:
        if not isinstance(node.func, ast.Name) or node.func.id != "dict":
            raise _UnknownError
        found: dict[object, object] = {}
        for argument in node.args:
            base = self.value(argument, depth + 1)
            if not isinstance(base, Mapping):
                raise _UnknownError
            found |= base
        words: list[tuple[ast.expr | None, ast.expr]] = [
            (ast.Constant(word.arg) if word.arg is not None else None, word.value)
            for word in node.keywords
        ]
        return found | self._entries(words, depth)

    def _entries(
        self, pairs: list[tuple[ast.expr | None, ast.expr]], depth: int
    ) -> dict[object, object]:
        found: dict[object, object] = {}
        for key, node in pairs:
            try:
                value = self.value(node, depth + 1)
                if key is not None:
                    found[self.value(key, depth + 1)] = value
                elif isinstance(value, Mapping):
                    found |= value
                else:
                    raise _UnknownError
            except (_UnknownError, TypeError):  # a list is no key either
                self.skipped.add(node.lineno)
        return found


def _computed(function: Callable[..., object], *values: object, plain: bool = True) -> object:
    """A result of small numbers; two sequences may be joined."""
    numbers = all(isinstance(v, int | float) and abs(v) < _LARGEST for v in values)
    joined = (
        function is operator.add
        and len({type(v) for v in values}) == 1
        and all(isinstance(v, list | tuple | str) and len(v) < _LONGEST for v in values)
    )
    if plain and not numbers and not joined:
        raise _UnknownError
    try:
        return function(*values)
    except (TypeError, ValueError, ArithmeticError, LookupError) as error:
        raise _UnknownError from error
