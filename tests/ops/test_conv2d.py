"""The convolution with its own input gradient, against MLX's."""

import mlx.core as mx
import numpy as np
import pytest

from mlx_rcnn.ops.conv2d import conv2d
from reference import slow_conv


def arrays(*shapes: tuple[int, ...]) -> list[mx.array]:
    rng = np.random.default_rng(0)
    return [mx.array(rng.standard_normal(shape).astype(np.float32)) for shape in shapes]


# Sizes that the stride divides and does not; the last rows and columns may be read by no window.
@pytest.mark.parametrize("size", [(8, 12), (9, 13), (7, 10), (3, 3)])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [(3, 2, 1), (7, 2, 3), (3, 3, 0), (2, 2, 0), (1, 2, 0), (3, 1, 1)],
)
def test_value_and_gradients_are_mlx_s(
    size: tuple[int, int], kernel: int, stride: int, padding: int
) -> None:
    x, weight = arrays((2, *size, 3), (5, kernel, kernel, 3))

    def ours(x: mx.array, weight: mx.array) -> mx.array:
        return conv2d(x, weight, stride, padding)

    def theirs(x: mx.array, weight: mx.array) -> mx.array:
        return mx.conv2d(x, weight, stride, padding)

    assert mx.array_equal(ours(x, weight), theirs(x, weight)).item()
    (cotangent,) = arrays(ours(x, weight).shape)
    _, got = mx.vjp(ours, [x, weight], [cotangent])
    _, expected = mx.vjp(theirs, [x, weight], [cotangent])
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(np.array(a), np.array(b), rtol=1e-5, atol=1e-5)


def test_one_pixel_by_hand() -> None:
    """Out = 2 x[0, 0] + 3 x[0, 1] of a 1 x 2 kernel padded square; only those get a gradient."""
    weight = mx.array([[2.0, 3.0], [0.0, 0.0]])[None, :, :, None]
    gradient = mx.grad(lambda x: conv2d(x, weight, 2, 0).sum())(mx.ones((1, 3, 3, 1)))
    assert gradient[0, :, :, 0].tolist() == [[2, 3, 0], [0, 0, 0], [0, 0, 0]]


def test_groups_and_wide_padding_take_mlx_s_own_gradient() -> None:
    x, weight = arrays((1, 6, 6, 4), (4, 3, 3, 2))
    assert mx.array_equal(conv2d(x, weight, 2, 1, 2), mx.conv2d(x, weight, 2, 1, groups=2)).item()
    x, weight = arrays((1, 4, 4, 2), (3, 1, 1, 2))
    assert mx.array_equal(conv2d(x, weight, 2, 1), mx.conv2d(x, weight, 2, 1)).item()


@pytest.mark.parametrize("size", [(8, 12), (9, 13), (5, 5), (1, 3)])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [(3, 1, 1), (3, 2, 1), (5, 1, 2), (5, 2, 2), (1, 2, 0)]
)
def test_depthwise(size: tuple[int, int], kernel: int, stride: int, padding: int) -> None:
    """Each channel by itself, against the oracle and MLX's gradient."""
    x, weight = arrays((2, *size, 6), (6, kernel, kernel, 1))

    def ours(x: mx.array, weight: mx.array) -> mx.array:
        return conv2d(x, weight, stride, padding, 6)

    def theirs(x: mx.array, weight: mx.array) -> mx.array:
        return mx.conv2d(x, weight, stride, padding, groups=6)

    expected = slow_conv(np.array(x), np.array(weight), stride, padding, 6)
    np.testing.assert_allclose(np.array(ours(x, weight)), expected, atol=1e-5)
    (cotangent,) = arrays(expected.shape)
    _, got = mx.vjp(ours, [x, weight], [cotangent])
    _, wanted = mx.vjp(theirs, [x, weight], [cotangent])
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_allclose(np.array(a), np.array(b), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_depthwise_keeps_the_dtype(dtype: mx.Dtype) -> None:
    x, weight = (v.astype(dtype) for v in arrays((1, 6, 6, 4), (4, 3, 3, 1)))
    y, gradients = mx.vjp(lambda x, w: conv2d(x, w, 2, 1, 4), [x, weight], [x[:, ::2, ::2]])
    assert y[0].dtype == dtype and all(g.dtype == dtype for g in gradients)
