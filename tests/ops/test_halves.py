import mlx.core as mx
import numpy as np
import pytest

from mlx_rcnn.ops.conv2d import conv2d
from mlx_rcnn.ops.halves import HALVES, add_product, product, wide


def given(dtype, *shape, key=0):
    return mx.random.normal(shape, key=mx.random.key(key)).astype(dtype)


def test_wide_on_a_cpu_alone():
    on_cpu = mx.default_device().type == mx.cpu
    assert wide(given(mx.bfloat16, 3)).dtype == (mx.float32 if on_cpu else mx.bfloat16)
    assert wide(mx.array([1, 2])).dtype == mx.int32


@pytest.mark.parametrize("dtype", HALVES)
def test_sums_are_float32_and_rounded_once(dtype):
    x, matrix = given(dtype, 5, 900), given(dtype, 900, 7, key=1)
    added = given(dtype, 7, key=2)
    exact = np.array(x.astype(mx.float32), np.float64) @ np.array(matrix.astype(mx.float32))
    for found, expected in (
        (product(x, matrix), exact),
        (add_product(added, x, matrix), exact + np.array(added.astype(mx.float32))),
    ):
        assert found.dtype == dtype
        step = 2.0**-11 if dtype == mx.float16 else 2.0**-8  # half a step beside 1, and float32's
        np.testing.assert_allclose(np.array(found.astype(mx.float32)), expected, step, 1e-3)


@pytest.mark.parametrize("dtype", HALVES)
def test_gradients_keep_the_type(dtype):
    x, weight = given(dtype, 1, 6, 7, 4), given(dtype, 8, 3, 3, 4, key=1)
    y, gradients = mx.vjp(
        lambda x, w: conv2d(x, w, 2, 1), [x, weight], [given(dtype, 1, 3, 4, 8, key=2)]
    )
    assert [v.dtype for v in (*y, *gradients)] == [dtype] * 3
