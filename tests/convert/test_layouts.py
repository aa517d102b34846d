"""Layouts: each by its definition, and each backwards again bit for bit."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_rcnn.convert.layouts import LAYOUTS

POOL = (2, 3)
SHAPES = {
    "same": (5, 3),
    "conv": (2, 3, 4, 5),
    "deconv": (2, 3, 4, 5),
    "flat": (4, 12),
    "flat_kernel": (4, 2, 2, 3),
    "linear": (5, 3, 1, 1),
    "cls_background_last": (4, 3),
    "reg_background_last": (12, 3),
    "mask_without_background": (3, 4, 1, 1),
    "anchors_sizes_first": (15, 4, 1, 1),
    "anchor_boxes_sizes_first": (60, 4, 1, 1),
}


def numbers(*shape: int) -> mx.array:
    return mx.arange(int(np.prod(shape))).reshape(shape).astype(mx.float32) + 1


def test_all_layouts_are_tested() -> None:
    assert SHAPES.keys() == LAYOUTS.keys()


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16, mx.uint32])
@pytest.mark.parametrize("name", LAYOUTS)
def test_back_again_is_the_same(name: str, dtype: mx.Dtype) -> None:
    shapes = [SHAPES[name]]
    if name != "flat":
        shapes.append(SHAPES[name][:1])  # a bias
    for shape in shapes:
        value = numbers(*shape).astype(dtype)
        there = LAYOUTS[name].forward(value, POOL)
        back = LAYOUTS[name].backward(there, POOL)
        assert there.dtype == back.dtype == dtype
        assert mx.array_equal(back, value)


@settings(deadline=None)
@given(st.lists(st.integers(0, 2**32 - 1), min_size=8, max_size=8))
def test_bits_stay(bits: list[int]) -> None:
    """NaN payloads, infinities, negative zeros and denormals."""
    value = mx.array(np.array(bits, np.uint32).view(np.float32))
    for name, shape in (
        ("conv", (1, 2, 2, 2)),
        ("cls_background_last", (4, 2)),
        ("reg_background_last", (8,)),
        ("flat", (1, 8)),
    ):
        layout, pool = LAYOUTS[name], (2, 2)
        back = layout.backward(layout.forward(value.reshape(shape), pool), pool)
        assert np.array(back).reshape(-1).view(np.uint32).tolist() == bits


def test_background_rows_by_hand() -> None:
    forward = LAYOUTS["cls_background_last"].forward
    assert forward(mx.array([1, 2, 0]), POOL).tolist() == [0, 1, 2]
    assert forward(mx.array([[1, 1], [0, 9]]), POOL).tolist() == [[0, 9], [1, 1]]
    boxes = LAYOUTS["reg_background_last"].forward
    assert boxes(mx.arange(1, 9), POOL).tolist() == [0, 0, 0, 0, *range(1, 9)]
    assert boxes(mx.ones((8, 2)), POOL).sum(axis=1).tolist() == [0] * 4 + [2] * 8
    masks = LAYOUTS["mask_without_background"].forward(mx.arange(6).reshape(2, 3, 1, 1), POOL)
    assert masks.tolist() == [[[[0, 0, 0]]], [[[0, 1, 2]]], [[[3, 4, 5]]]]


def test_class_agnostic_boxes_stay() -> None:
    layout = LAYOUTS["reg_background_last"]
    for way in layout:
        assert way(mx.arange(4), POOL).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("cls_background_last", (1, 3)),
        ("cls_background_last", ()),
        ("reg_background_last", (6, 2)),
        ("reg_background_last", (0, 2)),
        ("mask_without_background", (0, 2, 1, 1)),
        ("flat", (3,)),
        ("flat", (3, 7)),
    ],
)
def test_shapes_that_cannot_be(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="has shape .*expected"):
        LAYOUTS[name].forward(mx.zeros(shape), POOL)
    with pytest.raises(ValueError, match="has shape .*expected"):
        LAYOUTS[name].backward(mx.zeros(shape), POOL)


def test_a_convolution_of_more_than_a_pixel_is_no_linear() -> None:
    with pytest.raises(ValueError, match=r"has shape \(5, 3, 3, 1\): expected \(units, C, 1, 1\)"):
        LAYOUTS["linear"].forward(mx.zeros((5, 3, 3, 1)), POOL)


@pytest.mark.parametrize(
    ("name", "each"), [("anchors_sizes_first", 1), ("anchor_boxes_sizes_first", 4)]
)
def test_anchors_by_hand(name: str, each: int) -> None:
    """Two sizes a and b of ratios 1, 2, 3: a1 a2 a3 b1 b2 b3 there, a1 b1 a2 b2 a3 b3 here."""
    rows = mx.repeat(mx.array([11.0, 12, 13, 21, 22, 23]), each)
    there = LAYOUTS[name].forward(rows, POOL)
    assert there[::each].tolist() == [11, 21, 12, 22, 13, 23]
    number = LAYOUTS[name].forward(mx.tile(mx.arange(each), 6), POOL)  # stay in order
    assert number.tolist() == list(range(each)) * 6
    for wrong in (2 * each, 4 * each):
        with pytest.raises(ValueError, match=f"multiple of {3 * each}"):
            LAYOUTS[name].forward(mx.zeros((wrong,)), POOL)
