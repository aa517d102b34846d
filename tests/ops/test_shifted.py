"""Convolutions by shifted products: against float64, MLX's own, and where the rule takes them."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from mlx_rcnn.kernels import plain_operations
from mlx_rcnn.ops import conv2d as rule
from mlx_rcnn.ops import shifted
from mlx_rcnn.ops.conv2d import conv2d
from mlx_rcnn.ops.gradient import kernel_first, nothing_read


def noise(*shapes: tuple[int, ...]) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


def slow(
    x: np.ndarray, weight: np.ndarray, padding: int, dilation: int, pull: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Value, and gradients of ``sum(value * pull)``, in float64 from the definition."""
    x, weight = x.astype(np.float64), weight.astype(np.float64)
    padded = np.pad(x, [(0, 0), (padding, padding), (padding, padding), (0, 0)])
    reach = dilation * (weight.shape[1] - 1)
    rows, columns = (size - reach for size in padded.shape[1:3])
    value = np.zeros((len(x), rows, columns, len(weight)))
    of_x, of_weight = np.zeros_like(padded), np.zeros_like(weight)
    for i in range(weight.shape[1]):
        for j in range(weight.shape[2]):
            at = (
                slice(None),
                slice(i * dilation, i * dilation + rows),
                slice(j * dilation, j * dilation + columns),
            )
            value += padded[at] @ weight[:, i, j].T
            if pull is not None:
                of_x[at] += pull @ weight[:, i, j]
                of_weight[:, i, j] = np.einsum("nhwo,nhwc->oc", pull, padded[at])
    bottom, right = (size - padding for size in of_x.shape[1:3])
    return value, of_x[:, padding:bottom, padding:right], of_weight


CASES = [
    # kernel, padding, dilation, height, width
    (3, 1, 1, 7, 10),
    (3, 1, 1, 1, 1),
    (3, 0, 1, 3, 3),
    (3, 2, 1, 5, 4),
    (3, 2, 2, 9, 5),
    (3, 3, 3, 8, 11),
    (5, 2, 1, 6, 13),
    (2, 1, 1, 4, 5),
]


@pytest.mark.parametrize(("kernel", "padding", "dilation", "height", "width"), CASES)
def test_against_the_definition(kernel, padding, dilation, height, width) -> None:
    x, weight = noise((3, height, width, 4), (6, kernel, kernel, 4))
    (pull,) = noise(slow(x, weight, padding, dilation)[0].shape)
    wanted = slow(x, weight, padding, dilation, pull)
    a, w, p = mx.array(x), mx.array(weight), mx.array(pull)
    got = (
        shifted.convolve(a, w, padding, dilation),
        shifted.input_gradient(w, padding, dilation, p),
        shifted.weight_gradient(a, w, padding, dilation, p),
    )
    for mine, exact in zip(got, wanted, strict=True):
        np.testing.assert_allclose(np.array(mine), exact, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize(
    ("dtype", "compiled"),
    [(mx.float32, False), (mx.float16, False), (mx.bfloat16, False), (mx.float32, True)],
)
def test_large_maps_have_mlx_s_gradient(monkeypatch, dtype, compiled) -> None:
    monkeypatch.setattr(rule, "LARGEST_COPY", 4 * 44 * 50 * 9 * 16)
    x, weight = (mx.array(v).astype(dtype) for v in noise((1, 44, 50, 16), (16, 3, 3, 16)))

    def loss(convolve):
        return lambda x, w: (convolve(x, w).astype(mx.float32) ** 2).mean()

    ours = mx.value_and_grad(loss(lambda x, w: conv2d(x, w, 1, 1)), argnums=(0, 1))
    theirs = mx.value_and_grad(loss(lambda x, w: mx.conv2d(x, w, 1, 1)), argnums=(0, 1))
    ours = mx.compile(ours) if compiled else ours
    value, gradients = ours(x, weight)
    exact, wanted = theirs(x, weight)
    assert value.item() == exact.item()  # the value is MLX's convolution where it may be read
    digits = 2e-6 if dtype == mx.float32 else 2e-2
    for a, b in zip(gradients, wanted, strict=True):
        a, b = (np.array(v.astype(mx.float32)) for v in (a, b))
        np.testing.assert_allclose(a, b, atol=digits * np.abs(b).max())
        assert dtype != mx.float32 or not np.array_equal(a, b)  # it was computed differently


def test_the_rule(monkeypatch) -> None:
    called: list[str] = []

    def counted(name):
        function = getattr(shifted, name)
        return lambda *a: called.append(name) or function(*a)

    for name in ("convolve", "input_gradient", "weight_gradient"):
        monkeypatch.setattr(rule.shifted, name, counted(name))

    def taken(x, weight, *options) -> list[str]:
        a, w = mx.zeros(x), mx.zeros(weight)
        called.clear()
        value = conv2d(a, w, *options)
        forward = list(called)
        mx.vjp(lambda a, w: conv2d(a, w, *options), [a, w], [value])
        return forward + sorted({*called} - {"convolve"})  # of which the input's gradient is one

    gradients = ["input_gradient", "weight_gradient"]
    p2, small, kernel = (1, 200, 272, 256), (4, 80, 112, 64), (256, 3, 3, 256)
    assert taken(p2, kernel, 1, 1) == gradients  # lazy: nothing of this size is computed
    with nothing_read():
        assert taken(p2, kernel, 1, 1) == ["convolve", *gradients]
        with plain_operations():
            assert taken(p2, kernel, 1, 1) == []
        assert taken(small, (64, 3, 3, 64), 1, 1) == []
        assert taken((1, 800, 1088, 3), (64, 3, 3, 3), 1, 1) == []  # few channels
        assert taken((512, 14, 14, 256), kernel, 1, 1) == []  # many borders
        assert taken(p2, kernel, 2, 1) == []  # strided
        assert taken(p2, (256, 3, 3, 8), 1, 1, 32) == []  # groups
        assert taken(p2, (256, 1, 1, 256), 1, 0) == []
    assert taken((1, 9, 9, 4), (4, 3, 3, 4), 1, 2, 1, 2) == ["convolve", *gradients]  # dilated


def test_value_by_products_where_nothing_is_read(monkeypatch) -> None:
    monkeypatch.setattr(rule, "LARGEST_COPY", 1)
    x, weight = noise((1, 45, 60, 16), (16, 3, 3, 16))
    with nothing_read(), nothing_read(False):
        got = conv2d(mx.array(x), mx.array(weight), 1, 1)
    np.testing.assert_allclose(np.array(got), slow(x, weight, 1, 1)[0], rtol=1e-5, atol=5e-5)


def test_kernel_first_is_the_same_gradient() -> None:
    x, weight, pull = map(mx.array, noise((2, 6, 5, 3), (4, 3, 3, 3), (2, 6, 5, 4)))

    def convolve(x: mx.array, weight: mx.array) -> mx.array:
        return mx.conv2d(x, weight, 1, 1)

    for function in (kernel_first(convolve), mx.checkpoint(kernel_first(convolve))):
        value, gradients = mx.vjp(function, [x, weight], [pull])
        exact, wanted = mx.vjp(convolve, [x, weight], [pull])
        assert mx.array_equal(value[0], exact[0])
        assert all(mx.array_equal(a, b) for a, b in zip(gradients, wanted, strict=True))


def test_a_large_convolution_takes_a_third_of_the_memory() -> None:
    x, weight = map(mx.array, noise((1, 128, 160, 64), (64, 3, 3, 64)))
    mx.eval(x, weight)

    def peak(limit: int) -> int:
        rule_before, rule.LARGEST_COPY = rule.LARGEST_COPY, limit
        try:
            with nothing_read():
                loss = lambda x, w: (conv2d(x, w, 1, 1) * x).sum()  # noqa: E731
                gradients = mx.grad(loss, argnums=(0, 1))(x, weight)
            mx.clear_cache()
            mx.reset_peak_memory()
            before = mx.get_active_memory()
            mx.eval(gradients)
            return mx.get_peak_memory() - before
        finally:
            rule.LARGEST_COPY = rule_before

    assert peak(1) < 0.6 * peak(1 << 60)
