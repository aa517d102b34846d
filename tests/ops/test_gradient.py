"""Gradients of our own: what they sum to, and in no order of a GPU's."""

from __future__ import annotations

import io
from collections.abc import Callable

import mlx.core as mx
import numpy as np
import pytest

from mlx_rcnn.kernels import fixed_order
from mlx_rcnn.ops import crop_masks, roi_align, roi_pool
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


class _Gpu:
    type = mx.DeviceType.gpu


@pytest.fixture
def devices(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """A GPU is faked; where operations were asked to run beside it."""
    asked: list[object] = []
    stream = mx.stream
    monkeypatch.setattr(mx, "default_device", _Gpu)
    monkeypatch.setattr(mx, "stream", lambda device: (asked.append(device), stream(device))[1])
    return asked


def crops() -> mx.array:
    masks = mx.random.bernoulli(0.5, (2, 9, 12), key=mx.random.key(0)).astype(mx.uint8)
    boxes = mx.array([[1.0, 2.0, 11.0, 8.5], [0.0, 0.0, 3.0, 3.0], [4.0, 1.0, 30.0, 9.0]])
    return crop_masks(masks, mx.array([0, 1, 1]), boxes, 4)


def pooled() -> mx.array:
    maps = mx.random.normal((1, 6, 7, 3), key=mx.random.key(1))
    rois = mx.array([[0.0, 0.0, 0.0, 6.0, 5.0], [0.0, 1.0, 1.0, 5.0, 5.0]])
    return mx.grad(lambda maps: mx.sum(roi_pool(maps, rois, 4) ** 2))(maps)


def smeared() -> mx.array:
    """The gradient of RoIAlign in plain MLX."""
    maps = mx.random.normal((1, 6, 7, 3), key=mx.random.key(1))
    rois = mx.array([[0.0, 0.0, 0.0, 6.0, 5.0], [0.0, 1.0, 1.0, 5.0, 5.0]])
    return mx.grad(lambda maps: mx.sum(roi_align(maps, rois, 4, 1.0, 2) ** 2))(maps)


@pytest.mark.parametrize("compute", [crops, pooled, smeared])
def test_what_adds_up_by_index_does_so_on_the_cpu_in_a_fixed_order(
    devices: list[object], monkeypatch: pytest.MonkeyPatch, compute: Callable[[], mx.array]
) -> None:
    monkeypatch.setenv("MLX_RCNN_KERNELS", "0")
    expected = compute()
    assert not devices  # a GPU has it, in whatever order
    with fixed_order():
        found = compute()
    assert devices and set(devices) == {mx.cpu}
    assert mx.array_equal(found, expected).item()
