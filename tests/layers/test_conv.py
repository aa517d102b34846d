import math
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_rcnn.layers import Conv2d, ConvTranspose2d, Linear, max_pool, upsample_nearest
from reference import noise, numeric_gradient, slow_conv

GOLDEN = np.load(Path(__file__).parents[1] / "goldens" / "ops_torchvision.npz")
NEAREST = [(14, 10), (13, 9), (7, 5), (15, 11), (3, 2), (20, 16), (1, 1)]


def filled(layer):
    """The layer with known parameters, none of them zero."""
    for key in ("weight", "bias"):
        if key in layer:
            layer[key] = mx.array(noise(key, *layer[key].shape))
    return layer


def slow_max_pool(x):
    n, h, w, c = x.shape
    out = np.empty((n, (h + 1) // 2, (w + 1) // 2, c), x.dtype)
    for i, j in np.ndindex(out.shape[1:3]):
        y, z = 2 * i, 2 * j
        out[:, i, j] = x[:, max(y - 1, 0) : y + 2, max(z - 1, 0) : z + 2].max(axis=(1, 2))
    return out


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "groups"),
    [
        (1, 1, 0, 1),
        (1, 2, 0, 1),
        (1, 3, 0, 1),
        (1, 2, 0, 2),
        (1, 1, 1, 1),
        (3, 1, 1, 1),
        (3, 2, 1, 1),
        (3, 2, 1, 2),
        (3, 1, 0, 4),
        (7, 2, 3, 1),
        (5, 1, 2, 1),
    ],
)
@pytest.mark.parametrize("bias", [True, False])
def test_convolution_oracle(kernel, stride, padding, groups, bias):
    layer = filled(Conv2d(4, 8, kernel, stride, padding, groups, bias))
    for size in ((8, 8), (7, 10), (9, 7)):
        x = noise("x", 2, *size, 4)
        bare = slow_conv(x, np.array(layer.weight), stride, padding, groups)
        expected = bare + np.array(layer.bias) if bias else bare
        np.testing.assert_allclose(np.array(layer(mx.array(x))), expected, atol=1e-4)
        doubled = layer.convolve(mx.array(x), 2 * layer.weight)  # without the bias
        np.testing.assert_allclose(np.array(doubled), 2 * bare, atol=2e-4)


def test_convolution_by_hand():
    # Correlation, not convolution: the kernel is not turned. Row 0 1 2 3, kernel 1 10 100, padding
    # 1: 0 + 10 * 0 + 100 * 1, 0 + 10 + 200, 1 + 20 + 300, 2 + 30 + 0
    layer = Conv2d(1, 1, 3, padding=1, bias=False)
    layer.weight = mx.array([[0, 0, 0], [1, 10, 100], [0, 0, 0]], dtype=mx.float32)[None, ..., None]
    x = mx.arange(4, dtype=mx.float32).reshape(1, 1, 4, 1)
    assert layer(x).flatten().tolist() == [100, 210, 321, 32]
    layer.stride = 2
    assert layer(x).flatten().tolist() == [100, 321]
    # Groups see their own channels only: 2 * 3 and 5 * 7
    layer = Conv2d(2, 2, 1, groups=2, bias=False)
    layer.weight = mx.array([2.0, 5]).reshape(2, 1, 1, 1)
    assert layer(mx.array([3.0, 7]).reshape(1, 1, 1, 2)).flatten().tolist() == [6, 35]


@pytest.mark.parametrize("stride", [1, 2])
def test_gradient_of_one_by_one(stride):
    """The matrix product has a gradient of its own."""
    layer, x = filled(Conv2d(3, 2, 1, stride)), noise("x", 1, 3, 4, 3)
    weight, cotangent = np.array(layer.weight), noise("ct", *layer(mx.array(x)).shape)

    def total(x, weight):
        return mx.sum(layer.convolve(x, weight) * mx.array(cotangent))

    dx, dw = mx.grad(total, argnums=(0, 1))(mx.array(x), layer.weight)
    slow = [
        (dx, lambda v: (slow_conv(v, weight, stride) * cotangent).sum(), x),
        (dw, lambda v: (slow_conv(x, v, stride) * cotangent).sum(), weight),
    ]
    for gradient, function, at in slow:
        np.testing.assert_allclose(np.array(gradient), numeric_gradient(function, at), atol=1e-4)


def test_convolution_knows_its_sizes():
    layer = Conv2d(6, 8, 3, 2, 1, groups=2)
    assert (layer.in_channels, layer.out_channels) == (6, 8)
    assert layer.weight.shape == (8, 3, 3, 3) and layer.bias.shape == (8,)
    assert "6, 8, kernel_size=3, stride=2, padding=1, groups=2, bias=True" in repr(layer)
    assert "bias=False" in repr(Conv2d(1, 1, 1, bias=False))
    assert sorted(Conv2d(1, 1, 1, bias=False).parameters()) == ["weight"]
    layer.weight = mx.zeros((5, 3, 3, 4))  # they follow the weights, as in a head swap
    assert (layer.in_channels, layer.out_channels) == (8, 5)


def test_initial_weights():
    mx.random.seed(0)
    # sqrt(2 / (128 * 9)) = 0.0417, as kaiming_normal_(mode="fan_out"); 0.3 where asked for
    he = math.sqrt(2 / (128 * 9))
    for std, layer in ((he, Conv2d(64, 128, 3)), (0.3, Conv2d(64, 128, 3, std=0.3))):
        assert mx.std(layer.weight).item() == pytest.approx(std, rel=0.02)
        assert abs(mx.mean(layer.weight).item()) < 0.02 * std
        assert not mx.any(layer.bias).item()
    # torch's mode="fan_out" takes the inputs of a transposed kernel: sqrt(2 / (64 * 4))
    layer = ConvTranspose2d(64, 128, 2)
    assert mx.std(layer.weight).item() == pytest.approx(math.sqrt(2 / 256), rel=0.02)
    assert not mx.any(layer.bias).item()
    layer = Linear(200, 300, std=0.01)
    assert mx.std(layer.weight).item() == pytest.approx(0.01, rel=0.02)
    assert not mx.any(layer.bias).item()
    layer = Linear(100, 50)  # MLX's own: uniform to 1 / sqrt(inputs)
    assert 0.09 < mx.max(mx.abs(layer.weight)).item() <= 0.1


def test_transposed_convolution_by_hand():
    # Every pixel becomes the kernel times its value; channels: out 0 = in 0 + 10 * in 1
    layer = ConvTranspose2d(2, 1, 2)
    kernel = np.array([[1, 2], [3, 4]], np.float32)
    layer.weight = mx.array(np.stack([kernel, 10 * kernel], axis=-1)[None])  # (1, 2, 2, 2)
    layer.bias = mx.array([0.5])
    x = mx.array([[[[1.0, 0], [0, 1]]]])  # a row of two pixels
    assert layer(x)[0, ..., 0].tolist() == [[1.5, 2.5, 10.5, 20.5], [3.5, 4.5, 30.5, 40.5]]


@pytest.mark.parametrize("kernel", [1, 2, 3])
def test_transposed_convolution_oracle(kernel):
    layer, x = filled(ConvTranspose2d(3, 4, kernel)), noise("x", 2, 4, 5, 3)
    weight = np.array(layer.weight, np.float64)
    expected = np.zeros((2, 4 * kernel, 5 * kernel, 4)) + np.array(layer.bias)
    for i, j, a, b in np.ndindex(4, 5, kernel, kernel):
        expected[:, i * kernel + a, j * kernel + b] += x[:, i, j] @ weight[:, a, b].T
    np.testing.assert_allclose(np.array(layer(mx.array(x))), expected, atol=1e-5)
    assert (layer.in_channels, layer.out_channels) == (3, 4)
    assert f"3, 4, kernel_size={kernel}, stride={kernel}" in repr(layer)
    assert layer(mx.zeros((0, 4, 5, 3))).shape == (0, 4 * kernel, 5 * kernel, 4)


def test_linear():
    layer = filled(Linear(5, 3))
    assert (layer.in_features, layer.out_features) == (5, 3)
    x = noise("x", 4, 5)
    expected = x @ np.array(layer.weight).T + np.array(layer.bias)
    np.testing.assert_allclose(np.array(layer(mx.array(x))), expected, atol=1e-5)
    layer.weight = mx.zeros((7, 6))
    assert (layer.in_features, layer.out_features) == (6, 7)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))
def test_max_pool_oracle(height, width, seed):
    x = noise(f"pool {seed}", 2, height, width, 3) - 3  # mostly negative: the border is no zero
    np.testing.assert_array_equal(np.array(max_pool(mx.array(x))), slow_max_pool(x))


def test_max_pool_by_hand():
    # Windows of three around 0, 2, 4; beyond the border there is nothing
    rows = {(-5, -7, -1, -4, -9): [-5, -1, -4], (-5, -7, -1, -4): [-5, -1], (-3,): [-3]}
    for row, expected in rows.items():
        x = mx.array(row, dtype=mx.float32)
        assert max_pool(x.reshape(1, 1, -1, 1)).flatten().tolist() == expected
        assert max_pool(x.reshape(1, -1, 1, 1)).flatten().tolist() == expected
    half = max_pool(mx.array([-5.0, -7]).reshape(1, 1, 2, 1).astype(mx.bfloat16))
    assert half.dtype == mx.bfloat16 and half.item() == -5


def test_max_pool_gradient():
    x = np.random.default_rng(0).permutation(35).reshape(1, 5, 7, 1) / 4 - 9
    weight = noise("ct", 1, 3, 4, 1)
    function = mx.grad(lambda v: mx.sum(max_pool(v) * mx.array(weight)))
    gradient = function(mx.array(x.astype(np.float32)))
    expected = numeric_gradient(lambda v: (slow_max_pool(v) * weight).sum(), x)
    np.testing.assert_allclose(np.array(gradient), expected, atol=1e-4)


@pytest.mark.parametrize("size", NEAREST)
def test_nearest_is_torchs(size):
    x = np.arange(35, dtype=np.float32).reshape(1, 7, 5, 1)
    result = np.array(upsample_nearest(mx.array(x), size))[0, ..., 0]
    np.testing.assert_array_equal(result, GOLDEN[f"nearest_{size[0]}x{size[1]}"])


def test_nearest_by_hand():
    row = mx.array([1.0, 2, 3]).reshape(1, 1, 3, 1)
    # 3 -> 5: floor(i * 3 / 5) = 0, 0, 1, 1, 2; 3 -> 6: each twice; 3 -> 2: floor(1.5 i) = 0, 1
    for expected in ([1, 1, 2, 2, 3], [1, 1, 2, 2, 3, 3], [1, 2], [1, 2, 3]):
        width = len(expected)
        for height in (1, 2):
            result = upsample_nearest(row, (height, width))[0, :, :, 0].tolist()
            assert result == [expected] * height
        turned = upsample_nearest(row.transpose(0, 2, 1, 3), (width, 2))[0, :, :, 0]
        assert turned.T.tolist() == [expected] * 2


@settings(max_examples=40, deadline=None)
@given(*[st.integers(1, 7)] * 4)
def test_nearest_oracle(h, w, height, width):
    x = noise("x", 2, h, w, 3)
    result = np.array(upsample_nearest(mx.array(x), (height, width)))
    assert result.shape == (2, height, width, 3)
    for i, j in np.ndindex(height, width):
        np.testing.assert_array_equal(result[:, i, j], x[:, i * h // height, j * w // width])


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_half_precision_stays(dtype):
    x = mx.array(noise("x", 1, 6, 6, 4)).astype(dtype)
    for layer in (Conv2d(4, 3, 1), Conv2d(4, 3, 3, 2, 1), ConvTranspose2d(4, 3)):
        layer.set_dtype(dtype)
        assert layer(x).dtype == dtype
    assert max_pool(x).dtype == upsample_nearest(x, (12, 12)).dtype == dtype


def test_no_rois_and_batches():
    for layer in (filled(Conv2d(4, 3, 1)), filled(Conv2d(4, 3, 3, padding=1))):
        assert layer(mx.zeros((0, 5, 5, 4))).shape == (0, 5, 5, 3)
        x = mx.array(noise("x", 3, 5, 6, 4))
        together = layer(x)
        for i in range(3):
            np.testing.assert_allclose(
                np.array(layer(x[i : i + 1])[0]), np.array(together[i]), atol=1e-6
            )
