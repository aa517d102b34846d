"""Whatever is summed in a layer, forwards or backwards, is summed in float32."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_rcnn.layers import (
    BatchNorm,
    Conv2d,
    ConvTranspose2d,
    GroupNorm,
    Linear,
    max_pool,
    upsample_bilinear,
    upsample_nearest,
)


class Function(nn.Module):
    """A layer without parameters."""

    def __init__(self, run: Callable[[mx.array], mx.array]):
        super().__init__()
        self.run = run

    def __call__(self, x: mx.array) -> mx.array:
        return self.run(x)


MAP, ROWS = (2, 64, 64, 16), (4096, 64)
LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "3x3": (lambda: Conv2d(16, 8, 3, padding=1), MAP),
    "3x3, stride 2": (lambda: Conv2d(16, 8, 3, stride=2, padding=1), MAP),
    "1x1": (lambda: Conv2d(16, 8, 1), MAP),
    "7x7, stride 2": (lambda: Conv2d(16, 8, 7, stride=2, padding=3), MAP),
    "grouped": (lambda: Conv2d(16, 16, 3, padding=1, groups=4), MAP),
    "transposed": (lambda: ConvTranspose2d(16, 8, 2, stride=2), MAP),
    "linear": (lambda: Linear(64, 16), ROWS),
    "batch norm": (lambda: BatchNorm(16).train(), MAP),
    "group norm": (lambda: GroupNorm(4, 16), MAP),
    "nearest": (lambda: Function(lambda x: upsample_nearest(x, (256, 256))), MAP),
    "bilinear": (lambda: Function(upsample_bilinear), (2, 32, 32, 4)),
    "pooling": (lambda: Function(max_pool), MAP),
}


@pytest.mark.parametrize(("dtype", "ulp"), [(mx.float16, 2.0**-11), (mx.bfloat16, 2.0**-8)])
@pytest.mark.parametrize("name", LAYERS)
def test_only_the_result_is_rounded(name: str, dtype: mx.Dtype, ulp: float) -> None:
    """Outputs and gradients within 2.5 roundings of what float32 makes of the same numbers."""
    make, shape = LAYERS[name]
    rng = np.random.default_rng(0)
    parameters = make().trainable_parameters()
    x = mx.array(rng.normal(0.5, 1, shape).astype(np.float32)).astype(dtype)
    weight = mx.array(rng.normal(0.5, 1, make()(x).shape).astype(np.float32)).astype(dtype)

    def run(kind: mx.Dtype) -> dict[str, np.ndarray]:
        layer = make()
        layer.update(parameters)
        layer.apply(lambda v: v.astype(dtype).astype(kind))

        def total(own: dict, image: mx.array) -> mx.array:
            layer.update(own)
            return mx.sum((layer(image) * weight.astype(kind)).astype(mx.float32))

        given, image = layer.trainable_parameters(), x.astype(kind)
        grads, of_x = mx.grad(total, argnums=(0, 1))(given, image)
        found = {**dict(tree_flatten(grads)), "x": of_x, "y": layer(image)}
        return {key: np.array(v.astype(mx.float32)) for key, v in found.items()}

    want, got = run(mx.float32), run(dtype)
    for key, value in want.items():
        assert np.abs(got[key] - value).max() <= 2.5 * ulp * np.abs(value).max(), key
