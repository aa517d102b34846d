"""Operations whose gradient is not the one that MLX would derive."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx

from ..kernels import adding_in_order, in_fixed_order, plain


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
