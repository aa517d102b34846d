"""Operations on 16 bits: sums, areas and statistics are those of float32."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from mlx_rcnn import ops
from mlx_rcnn.layers import Conv2d, ConvTranspose2d, FrozenBatchNorm, Linear, conv_norm, conv_relu

HALVES = [mx.float16, mx.bfloat16]


def error(got: mx.array, expected: mx.array) -> float:
    got, expected = got.astype(mx.float32).reshape(-1), expected.reshape(-1)
    return (mx.linalg.norm(got - expected) / mx.linalg.norm(expected)).item()


@pytest.mark.parametrize(
    "dtype", [mx.float16, mx.bfloat16, mx.int8, mx.uint8, mx.int16, mx.uint16, mx.int32, mx.int64]
)
def test_boxes_of_any_dtype(dtype: mx.Dtype) -> None:
    """Corners that every dtype holds exactly; their areas overflow the small ones."""
    rows = np.array([[0, 0, 120, 120], [100, 64, 126, 120], [4, 8, 12, 100]], np.float32)
    narrow, wide = mx.array(rows).astype(dtype), mx.array(rows)
    for op in (
        ops.box_area,
        lambda b: ops.box_iou(b, b),
        lambda b: ops.generalized_box_iou(b, b),
        ops.xyxy_to_xywh,
        ops.xyxy_to_cxcywh,
        lambda b: ops.clip_boxes(b, (50, 60)),
        lambda b: ops.encode_boxes(b, b),
        lambda b: ops.decode_boxes(b * 0, b),
    ):
        found = op(narrow)
        assert found.dtype == mx.float32
        np.testing.assert_array_equal(np.array(found), np.array(op(wide)))


def test_large_boxes_of_float16() -> None:
    box = mx.array([[0, 0, 2000, 1500]], dtype=mx.float16)
    assert ops.box_area(box).item() == 3e6
    assert ops.box_iou(box, box).item() == ops.generalized_box_iou(box, box).item() == 1


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("ratio", [2, 0])
def test_roi_align_under_many_rois(dtype: mx.Dtype, ratio: int) -> None:
    random = np.random.default_rng(1)
    x = mx.array(random.standard_normal((1, 32, 32, 4)), dtype=mx.float32)
    x = x.astype(dtype).astype(mx.float32)  # the same numbers on both sides
    centre, side = random.uniform(40, 90, (512, 2)), random.uniform(20, 60, (512, 2))
    corners = [np.zeros((512, 1)), centre - side / 2, centre + side / 2]
    rois = mx.array(np.concatenate(corners, axis=1), dtype=mx.float32)

    def total(x: mx.array) -> mx.array:
        return mx.sum(ops.roi_align(x, rois, 7, 0.25, ratio).astype(mx.float32))

    expected = mx.grad(total)(x)
    assert error(mx.grad(total)(x.astype(dtype)), expected) < 4e-3
    pooled = ops.roi_align(x.astype(dtype), rois, 7, 0.25, ratio)
    assert pooled.dtype == dtype
    assert error(pooled, ops.roi_align(x, rois, 7, 0.25, ratio)) < 4e-3


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("name", ["conv", "relu", "transposed", "linear", "norm"])
def test_gradients_of_biases(dtype: mx.Dtype, name: str) -> None:
    """A sum of 10,000 equal terms: in 16 bits it stops growing long before."""
    build = {"transposed": ConvTranspose2d, "linear": Linear}.get(name)
    layer = build(4, 6) if build else Conv2d(4, 6, 1, bias=name != "norm")
    norm = FrozenBatchNorm(6)

    def loss(bias: mx.array, dtype: mx.Dtype) -> mx.array:
        layer.weight = (0 * layer.weight).astype(dtype)
        x = mx.ones((1, 100, 100, 4), dtype=dtype)
        if name == "norm":
            norm.bias = bias
            y = conv_norm(x, layer, norm, relu=False)
        else:
            layer.bias = bias.astype(dtype)
            y = conv_relu(x, layer) if name == "relu" else layer(x)
        assert y.dtype == dtype
        return mx.sum(y.astype(mx.float32))

    expected = mx.grad(loss)(mx.ones((6,)), mx.float32)
    assert error(mx.grad(loss)(mx.ones((6,)), dtype), expected) < 4e-3


@pytest.mark.parametrize("dtype", HALVES)
def test_roi_pool_under_many_rois(dtype: mx.Dtype) -> None:
    x = mx.arange(64, dtype=mx.float32).reshape(1, 8, 8, 1)
    rois = mx.array([[0, 0, 0, 7, 7]] * 600, dtype=mx.float32)  # all take the same pixels

    def total(x: mx.array) -> mx.array:
        return mx.sum(ops.roi_pool(x, rois, 2).astype(mx.float32))

    assert error(mx.grad(total)(x.astype(dtype)), mx.grad(total)(x)) < 4e-3
