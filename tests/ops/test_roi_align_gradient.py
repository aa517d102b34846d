"""RoIAlign's gradient: a scatter-add in chunks, where boxes overlap, repeat, and are many.

Kernels that let two threads add to one pixel at once get exactly these wrong.
"""

from __future__ import annotations

import importlib

import mlx.core as mx
import numpy as np
import pytest

from mlx_rcnn.ops import multiscale_roi_align, roi_align
from mlx_rcnn.ops.roi_gather import assign_levels
from reference import noise, numeric_gradient, slow_roi_taps

GATHER = importlib.import_module("mlx_rcnn.ops.roi_gather")
SHAPE = (2, 6, 7, 3)  # small, so that many boxes share each pixel


def slow_gradient(cotangent: np.ndarray, rois: np.ndarray, shape=SHAPE, **options) -> np.ndarray:
    out = np.zeros(shape)
    for place, pixel, weight in slow_roi_taps(rois, cotangent.shape[1:3], shape[1:3], **options):
        out[pixel] += weight * cotangent[place]
    return out


def gradient(cotangent, rois, shape=SHAPE, scale=1.0, ratio=2, aligned=False) -> np.ndarray:
    rois, weight = mx.array(np.asarray(rois, np.float32)), mx.array(cotangent)

    def total(features: mx.array) -> mx.array:
        return mx.sum(
            weight * roi_align(features, rois, cotangent.shape[1:3], scale, ratio, aligned)
        )

    found = mx.grad(total)(mx.array(noise("gradient maps", *shape)))
    assert found.dtype == mx.float32 and found.shape == shape
    return np.array(found)


def boxes(kind: str, count: int) -> np.ndarray:
    rng = np.random.default_rng(count)
    image = rng.integers(0, 2, (count, 1))
    if kind == "repeated":  # one box again and again, in both images
        return np.concatenate([image, np.tile([1.3, 0.7, 5.2, 4.9], (count, 1))], axis=1)
    first = rng.uniform(-2, 5, (count, 2))
    return np.concatenate([image, first, first + rng.uniform(0.1, 6, (count, 2))], axis=1)


def bound(expected: np.ndarray) -> dict[str, float]:
    """float32 sums of thousands of terms."""
    return {"rtol": 1e-4, "atol": 2e-6 * max(float(np.abs(expected).max()), 1.0)}


@pytest.mark.parametrize("kind", ["overlapping", "repeated"])
@pytest.mark.parametrize("count", [1, 512, 1000])
def test_scatter_oracle(kind: str, count: int) -> None:
    rois = boxes(kind, count)
    cotangent = noise(f"cotangent {kind} {count}", count, 2, 2, 3)
    for ratio, aligned in ((2, False), (-1, True)):
        expected = slow_gradient(cotangent, rois, ratio=ratio, aligned=aligned)
        found = gradient(cotangent, rois, ratio=ratio, aligned=aligned)
        np.testing.assert_allclose(found, expected, **bound(expected))


@pytest.mark.parametrize("count", [512, 1000])
def test_repeated_boxes_add_up(count: int) -> None:
    """Each of them has the gradient of one: no addition is lost."""
    once = gradient(np.ones((1, 7, 7, 3), np.float32), [[1, 0.4, 0.6, 6.1, 5.3]])
    many = gradient(np.ones((count, 7, 7, 3), np.float32), [[1, 0.4, 0.6, 6.1, 5.3]] * count)
    np.testing.assert_allclose(many, count * once, rtol=2e-4)
    # Every bin lies inside, so the weights of its pixels add up to 1: 49 bins, 3 channels
    assert once.sum() == pytest.approx(147, rel=1e-5)
    assert many.sum() == pytest.approx(147 * count, rel=1e-4)


@pytest.mark.parametrize("shape", [(2, 1, 1, 2), (2, 1, 5, 2), (2, 4, 1, 1), (2, 2, 2, 1)])
@pytest.mark.parametrize("aligned", [False, True])
def test_finite_differences_on_small_maps(shape: tuple[int, ...], aligned: bool) -> None:
    rois = boxes("overlapping", 9)
    cotangent = noise(f"small {shape}", 9, 2, 2, shape[-1])
    taps = list(slow_roi_taps(rois, (2, 2), shape[1:3], 1.0, 2, aligned))

    def total(features: np.ndarray) -> float:
        return sum(w * float(features[pixel] @ cotangent[place]) for place, pixel, w in taps)

    expected = numeric_gradient(total, noise("gradient maps", *shape), step=1.0)  # it is linear
    np.testing.assert_allclose(
        gradient(cotangent, rois, shape, aligned=aligned), expected, atol=1e-5
    )


def test_chunks_and_evaluation_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLX_RCNN_KERNELS", "0")  # the twin on a GPU too
    rois, cotangent = boxes("overlapping", 512), noise("chunked", 512, 3, 3, 3)
    whole = gradient(cotangent, rois)
    monkeypatch.setattr(GATHER, "CPU_CHUNK", 40_000)
    monkeypatch.setattr(GATHER, "GPU_CHUNK", 40_000)
    np.testing.assert_allclose(gradient(cotangent, rois), whole, **bound(whole))


def test_boxes_outside_give_none() -> None:
    rois = [[0, -30, -30, -5, -5], [1, 20, 1, 30, 4]] * 300
    assert not gradient(noise("outside", 600, 2, 2, 3), rois).any()


@pytest.mark.parametrize("count", [1, 512, 1000])
def test_of_all_levels(count: int) -> None:
    """Each box's share goes to its own level; levels without a box get zero."""
    scales = [1 / 4, 1 / 8, 1 / 16, 1 / 32]
    maps = [mx.array(noise(f"level {i}", 2, 16 >> i, 16 >> i, 2)) for i in range(4)]
    rng = np.random.default_rng(count)
    first, sides = rng.uniform(0, 40, (count, 2)), 2.0 ** rng.uniform(3, 9.5, (count, 2))
    rois = np.concatenate([rng.integers(0, 2, (count, 1)), first, first + sides], axis=1)
    rois = rois.astype(np.float32)
    cotangent = noise(f"levels {count}", count, 2, 2, 2)

    def total(*features: mx.array) -> mx.array:
        pooled = multiscale_roi_align(features, mx.array(rois), 2, scales)
        return mx.sum(pooled * mx.array(cotangent))

    found = mx.grad(total, argnums=(0, 1, 2, 3))(*maps)
    level = np.array(assign_levels(mx.array(rois[:, 1:]), scales))
    assert count == 1 or set(level) == {0, 1, 2, 3}
    for i, scale in enumerate(scales):
        own = level == i
        expected = slow_gradient(cotangent[own], rois[own], maps[i].shape, scale=scale, ratio=2)
        np.testing.assert_allclose(np.array(found[i]), expected, **bound(expected))


def test_half_precision() -> None:
    """bfloat16 maps get a bfloat16 gradient near the true one."""
    rois, cotangent = boxes("overlapping", 4), noise("half", 4, 2, 3, 3)

    def total(features: mx.array) -> mx.array:
        pooled = roi_align(features, mx.array(rois.astype(np.float32)), (2, 3), 1.0, 2)
        return mx.sum(pooled.astype(mx.float32) * mx.array(cotangent))

    found = mx.grad(total)(mx.array(noise("gradient maps", *SHAPE)).astype(mx.bfloat16))
    assert found.dtype == mx.bfloat16
    expected = slow_gradient(cotangent, rois, ratio=2)
    np.testing.assert_allclose(np.array(found.astype(mx.float32)), expected, atol=0.05)
