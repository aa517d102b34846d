"""Stages of a network that the gradient computes again, in place of keeping what is inside them.

``mlx.core.checkpoint`` is not enough where the host reads a value in the middle of a loss, as the
number of a mask head's RoIs: MLX then keeps all that it evaluated while the gradient is traced,
what is inside a checkpoint too. Here a stage runs on constants, the values of its traced weights,
of which nothing is kept but the output; and its running statistics move once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..ops.gradient import nothing_read, own_gradient

Run = Callable[[mx.array], mx.array]
Place = tuple[nn.Module, str]


class _Values:
    """The values, constants, of traced arrays."""

    def __init__(self, pairs: Iterable[tuple[mx.array, mx.array]]):
        self._pairs = {id(traced): (traced, value) for traced, value in pairs}

    def __contains__(self, array: mx.array) -> bool:
        return id(array) in self._pairs

    def of(self, array: mx.array) -> mx.array:
        """The value of a traced array; any other is its own."""
        return self._pairs[id(array)][1] if array in self else array

    def add(self, traced: mx.array, value: mx.array) -> None:
        """What a stage gives."""
        self._pairs[id(traced)] = traced, value


_VALUES: ContextVar[_Values | None] = ContextVar("recomputing", default=None)


@contextmanager
def recomputing(pairs: Iterable[tuple[mx.array, mx.array]] | None) -> Iterator[None]:
    """A block in which stages are computed again: of each traced weight its value, or ``None``."""
    token = _VALUES.set(None if pairs is None else _Values(pairs))
    try:
        yield
    finally:
        _VALUES.reset(token)


def stage(modules: Sequence[Any], run: Run, x: mx.array) -> mx.array:
    """``run(x)`` through ``modules``; in a block of :func:`recomputing` only its output is kept."""
    # Values and gradients are the same; nothing random may be among the modules.
    values = _VALUES.get()
    if values is None:
        return run(x)
    places = [place for place in _places(modules) if place[0][place[1]] in values]
    traced = [module[name] for module, name in places]
    weights, start = [values.of(v) for v in traced], values.of(x)
    with _put(places, weights), nothing_read():
        y = run(start)
    if not traced and start is x:
        return y

    def again(x: mx.array, *weights: mx.array) -> mx.array:
        every = list(_places(modules))
        with _put(every, [module[name] for module, name in every]), _put(places, weights):
            return run(x)

    def backward(_: Any, cotangent: mx.array, __: mx.array) -> Any:
        (later,) = mx.depends([start], [cotangent])  # not before its time
        _, gradients = mx.vjp(again, [later, *weights], [cotangent])
        return tuple(gradients) if traced else gradients[0]

    result = own_gradient(lambda *_: y, backward)(x, *traced)
    values.add(result, y)
    return result


def _places(modules: Sequence[Any]) -> Iterator[Place]:
    """Where the arrays of modules stand, running statistics among them."""
    for item in modules:
        if isinstance(item, nn.Module):
            for _, module in item.named_modules():
                yield from ((module, k) for k, v in module.items() if isinstance(v, mx.array))
        elif isinstance(item, list):
            yield from _places(item)


@contextmanager
def _put(places: Sequence[Place], arrays: Sequence[mx.array]) -> Iterator[None]:
    """Other arrays in their places; those of before are there again after the block."""
    before = [module[name] for module, name in places]
    for (module, name), array in zip(places, arrays, strict=True):
        module[name] = array
    try:
        yield
    finally:
        for (module, name), array in zip(places, before, strict=True):
            module[name] = array
