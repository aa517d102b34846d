"""Operations whose gradient is not the one that MLX would derive."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import mlx.core as mx

from ..kernels import adding_in_order, in_fixed_order, plain

_UNREAD: ContextVar[bool] = ContextVar("nothing_read", default=False)


@contextmanager
def nothing_read(sure: bool = True) -> Iterator[None]:
    """A block in which the host reads no value on which a gradient depends, if that is ``sure``."""
    # MLX keeps every array that is evaluated while a gradient is traced, in a checkpoint or
    # function with a gradient of its own too: a sum of nine terms is then nine maps, and else one.
    token = _UNREAD.set(sure or _UNREAD.get())
    try:
        yield
    finally:
        _UNREAD.reset(token)


def unwatched() -> bool:
    """Whether it is so now."""
    return _UNREAD.get()


def own_gradient(
    forward: Callable[..., mx.array], backward: Callable[..., Any]
) -> Callable[..., mx.array]:
    """A function with a gradient of its own; the function alone in a graph to be exported."""
    if plain():
        return forward
    # ``backward`` gets the arguments (a tuple, or one array), the cotangent and the output
    function: Any = mx.custom_function(forward)
    function.vjp(backward)
    result: Callable[..., mx.array] = function
    return result


def add_at(total: mx.array, index: Any, values: mx.array) -> mx.array:
    """``total.at[index].add(values)``, on a GPU too in a fixed order where one is asked for."""
    with adding_in_order():
        return total.at[index].add(values)


def rows_of(table: mx.array, index: mx.array) -> mx.array:
    """``table[index]``, (C, ...) and (R,) to (R, ...), several of which may be one row."""
    # On a GPU the gradient that MLX derives adds to such a row by atomics, in no order. In a block
    # of ``fixed_order`` it is a sum over ``index`` for each row instead.
    if not in_fixed_order():
        return table[index]

    def backward(_: mx.array, cotangent: mx.array, __: mx.array) -> mx.array:
        own = index == mx.arange(table.shape[0])[:, None]
        flat = cotangent.reshape(len(index), -1)
        total = mx.sum(mx.where(own[..., None], flat, mx.zeros((), flat.dtype)), axis=1)
        return total.reshape(table.shape)

    return own_gradient(lambda rows: rows[index], backward)(table)


def kernel_first(
    function: Callable[[mx.array, mx.array], mx.array],
) -> Callable[[mx.array, mx.array], mx.array]:
    """A function of input and kernel, the kernel's gradient taken before the input's."""
    # MLX may leave the kernels' gradients of all layers to the end and hold for them what each
    # layer was given and what came back to it. In this order both are freed layer by layer.

    def backward(
        primals: tuple[mx.array, mx.array], cotangent: mx.array, _: mx.array
    ) -> tuple[mx.array, mx.array]:
        x, kernel = primals
        of_kernel = mx.vjp(lambda kernel: function(x, kernel), [kernel], [cotangent])[1][0]
        later = mx.depends([cotangent], [of_kernel])
        of_x = mx.vjp(lambda x: function(x, kernel), [x], later)[1][0]
        return of_x, of_kernel

    return own_gradient(function, backward)
