"""ReLUs keep their output for the gradient, which is MLX's bit for bit."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from mlx_rcnn.layers.activation import relu, shift_add_relu, shift_relu

CASES = [
    (relu, lambda x: mx.maximum(x, 0), 1),
    (shift_relu, lambda x, s: mx.maximum(x + s, 0), 2),
    (shift_add_relu, lambda x, s, r: mx.maximum(x + s + r, 0), 3),
]


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
@pytest.mark.parametrize(("ours", "plain", "count"), CASES)
def test_gradients(ours, plain, count, dtype) -> None:
    rng = np.random.default_rng(0)
    shapes = [(2, 9, 7, 5), (5,), (2, 9, 7, 5)][:count]
    given = [mx.array(rng.integers(-2, 3, s).astype(np.float32)).astype(dtype) for s in shapes]
    given[0][0, 0, 0, 0] = mx.nan
    pull = mx.array(rng.standard_normal(shapes[0]).astype(np.float32)).astype(dtype)
    value, gradients = mx.vjp(ours, given, [pull])
    wanted_value, wanted = mx.vjp(plain, given, [pull])
    assert mx.array_equal(value[0], wanted_value[0], equal_nan=True)
    assert (np.array(value[0].astype(mx.float32)) == 0).sum() > 50  # ties are among them
    for a, b in zip(gradients, wanted, strict=True):
        assert a.dtype == dtype and mx.array_equal(a, b)


def test_what_goes_in_is_not_kept() -> None:
    x, shift = mx.full((1 << 18,), 0.5), mx.full((1,), 0.1)
    mx.eval(x, shift)

    def peak(function) -> float:
        def loss(x):
            for _ in range(60):
                x = function(mx.square(x), shift)  # a square keeps what it is given
            return x.sum()

        gradient = mx.grad(loss)(x)
        mx.clear_cache()
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        mx.eval(gradient)
        return (mx.get_peak_memory() - before) / x.nbytes

    # One array a step of ours, two of MLX's own; some more are allocated ahead of what is computed.
    assert peak(shift_relu) < 0.7 * peak(lambda x, s: mx.maximum(x + s, 0))
