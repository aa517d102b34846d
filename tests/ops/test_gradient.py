"""Gradients of our own: what they sum to, and in no order of a GPU's."""

from __future__ import annotations

import io

import mlx.core as mx
import numpy as np
import pytest

from mlx_rcnn.kernels import fixed_order
from mlx_rcnn.ops.gradient import rows_of

INDEX = [3, 0, 3, 3, 1]


def gradient(shape: tuple[int, ...], fixed: bool) -> mx.array:
    table = mx.random.normal(shape, key=mx.random.key(0))
    pull = mx.arange(len(INDEX) * table[0].size).reshape(len(INDEX), *shape[1:]) / 7

    def total(table: mx.array) -> mx.array:
        return mx.sum(rows_of(table, mx.array(INDEX)) * pull)

    with fixed_order(fixed):
        return mx.grad(total)(table)


def primitives(array: mx.array) -> str:
    text = io.StringIO()
    mx.export_to_dot(text, array)
    return text.getvalue()


@pytest.mark.parametrize("shape", [(4, 3), (4,)])
def test_rows_by_hand(shape: tuple[int, ...]) -> None:
    size = int(np.prod(shape[1:]))
    pull = np.arange(len(INDEX) * size).reshape(len(INDEX), *shape[1:]) / 7
    wanted = np.zeros(shape)
    for row, value in zip(INDEX, pull, strict=True):
        wanted[row] += value
    for fixed in (False, True):
        np.testing.assert_allclose(np.array(gradient(shape, fixed)), wanted, rtol=1e-6)


def test_nothing_is_scattered_in_a_fixed_order() -> None:
    assert "Scatter" in primitives(gradient((4, 3), fixed=False))
    assert "Scatter" not in primitives(gradient((4, 3), fixed=True))


def test_rows_are_the_tables_to_the_bit() -> None:
    table = mx.random.normal((4, 3), key=mx.random.key(1)).astype(mx.bfloat16)
    with fixed_order():
        found = rows_of(table, mx.array(INDEX))
    assert found.dtype == mx.bfloat16 and mx.array_equal(found, table[mx.array(INDEX)]).item()
