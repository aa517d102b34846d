"""Pooling against slow loops."""

import mlx.core as mx
import numpy as np
import pytest

from mlx_rcnn.layers import adaptive_average_pool, max_pool
from reference import noise


def slow_max_pool(x, kernel):
    n, height, width, channels = x.shape
    rows, columns = ((size - kernel) // 2 + 1 for size in (height, width))
    out = np.zeros((n, rows, columns, channels), np.float32)
    for i in range(rows):
        for j in range(columns):
            window = x[:, 2 * i : 2 * i + kernel, 2 * j : 2 * j + kernel]
            out[:, i, j] = window.max(axis=(1, 2))
    return out


def slow_average(x, side):
    n, height, width, channels = x.shape
    out = np.zeros((n, side, side, channels))
    for i in range(side):
        for j in range(side):
            top, bottom = int(np.floor(i * height / side)), int(np.ceil((i + 1) * height / side))
            left, right = int(np.floor(j * width / side)), int(np.ceil((j + 1) * width / side))
            out[:, i, j] = x[:, top:bottom, left:right].astype(np.float64).mean(axis=(1, 2))
    return out


@pytest.mark.parametrize("kernel", [2, 3])
def test_max_pool_without_padding(kernel):
    for height, width in ((3, 3), (4, 7), (9, 8), (5, 16)):
        x = noise("pooled", 2, height, width, 3)
        found = np.array(max_pool(mx.array(x), kernel, padding=0))
        np.testing.assert_array_equal(found, slow_max_pool(x, kernel))
    with pytest.raises(ValueError, match=f"{kernel}x{kernel} windows of a map of 1x9 pixels"):
        max_pool(mx.zeros((1, 1, 9, 3)), kernel, padding=0)


@pytest.mark.parametrize("side", [1, 6, 7])
def test_adaptive_average_pool(side):
    for height, width in ((1, 1), (2, 9), (7, 7), (8, 13), (14, 6), (20, 21)):
        x = noise("averaged", 2, height, width, 5)
        found = adaptive_average_pool(mx.array(x), side)
        np.testing.assert_allclose(np.array(found), slow_average(x, side), atol=1e-6)
        half = adaptive_average_pool(mx.array(x).astype(mx.float16), side)
        assert half.dtype == mx.float16 and half.shape == found.shape


def test_adaptive_average_pool_by_hand():
    # bins of 5 pixels by 2: [0, 3) and [2, 5), which share the middle one
    row = mx.array([1.0, 2, 6, 4, 5]).reshape(1, 1, 5, 1)
    found = adaptive_average_pool(row, 2).flatten().tolist()
    assert found == [3, 5, 3, 5]
