"""RoIAlign's kernels as g++ compiles them: values and gradients against an oracle and the twin."""

from __future__ import annotations

import importlib

import mlx.core as mx
import numpy as np
import pytest

import scenes
from gpu_shim import Fake
from mlx_rcnn.kernels import launch, pool, spread
from mlx_rcnn.kernels.dialects import METAL, Dialect
from mlx_rcnn.ops.roi_gather import assign_levels
from reference import noise
from rois import EDGES, slow_roi_align
from scenes import SCALES, SHAPES, boxes, oracle, oracle_gradient, plan, pyramid

TWIN = importlib.import_module("mlx_rcnn.ops.roi_align")._plain
RATIOS = (0, 2)


def arrays(maps: list[np.ndarray], dtype: mx.Dtype = mx.float32) -> list[mx.array]:
    return [mx.array(m).astype(dtype) for m in maps]


def wide(value: mx.array) -> np.ndarray:
    return np.array(value.astype(mx.float32))


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("ratio", RATIOS)
def test_values_of_all_levels(fake: Fake, dialect: Dialect, ratio: int, aligned: bool) -> None:
    rois = np.concatenate([boxes(), np.array(scenes.NOT_FINITE, np.float32)])
    assert set(np.array(assign_levels(mx.array(boxes()[:, 1:]), SCALES))) == {0, 1, 2, 3}
    for bins in ((3, 2), (1, 4)):
        the = plan(bins, ratio=ratio, aligned=aligned)
        found = pool(arrays(pyramid()), mx.array(rois), the, dialect)
        assert found.dtype == mx.float32
        np.testing.assert_allclose(np.array(found), oracle(pyramid(), rois, the), atol=2e-5)
        twin = TWIN(arrays(pyramid()), mx.array(rois), the)
        np.testing.assert_allclose(np.array(found), np.array(twin), atol=2e-6)
    assert not np.array(found)[-5:-2].any() and np.array(found)[:-5].any()


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("ratio", RATIOS)
def test_gradients_of_all_levels(fake: Fake, dialect: Dialect, ratio: int, fixed: bool) -> None:
    rois = np.concatenate([boxes(), boxes(6), np.array(scenes.NOT_FINITE, np.float32)])
    for aligned in (False, True):
        the = plan((2, 3), ratio=ratio, aligned=aligned)
        cotangent = noise("kernel cotangent", len(rois), 2, 3, 5)
        found = spread(mx.array(cotangent), SHAPES, mx.array(rois), the, dialect, fixed)
        for gradient, expected in zip(
            found, oracle_gradient(cotangent, SHAPES, rois, the), strict=True
        ):
            assert gradient.dtype == mx.float32 and expected.any()
            np.testing.assert_allclose(np.array(gradient), expected, atol=1e-5)


@pytest.mark.parametrize("ratio", RATIOS)
def test_edges_by_the_sample_by_sample_oracle(fake: Fake, dialect: Dialect, ratio: int) -> None:
    features = noise("features", 2, 9, 13, 3)
    rois = np.array(EDGES, np.float32)
    for scale, aligned in ((1.0, False), (0.5, True), (0.3, False)):
        the = plan((3, 2), (scale,), ratio, aligned)
        found = pool(arrays([features]), mx.array(rois), the, dialect)
        expected = slow_roi_align(features, EDGES, (3, 2), scale, ratio, aligned)
        np.testing.assert_allclose(np.array(found), expected, atol=2e-5)


def test_a_thread_order_changes_no_value_and_no_deterministic_gradient(
    fake: Fake, dialect: Dialect
) -> None:
    the, rois = plan(), mx.array(boxes())
    cotangent = mx.array(noise("kernel order", rois.shape[0], 3, 2, 5))

    def both() -> list[np.ndarray]:
        values = pool(arrays(pyramid()), rois, the, dialect)
        return [np.array(v) for v in (values, *spread(cotangent, SHAPES, rois, the, dialect, True))]

    one = both()
    fake.order = "backward"
    for a, b in zip(one, both(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_half_types_are_summed_in_float32(fake: Fake, dialect: Dialect, dtype: mx.Dtype) -> None:
    """Off by the last rounding alone: 2^-11 or 2^-8 of the value."""
    the, rois = plan(ratio=0), boxes()
    maps = arrays(pyramid(), dtype)
    found = pool(maps, mx.array(rois), the, dialect)
    assert found.dtype == dtype
    step = 2.0 ** (-11 if dtype == mx.float16 else -8)
    expected = oracle([wide(m) for m in maps], rois, the)
    np.testing.assert_allclose(wide(found), expected, rtol=1.02 * step, atol=1e-5)
    many = np.concatenate([rois] * 12)  # every pixel under dozens of boxes
    cotangent = mx.array(noise("kernel half", len(many), 3, 2, 5)).astype(dtype)
    for fixed in (False, True):
        grads = spread(cotangent, SHAPES, mx.array(many), the, dialect, fixed)
        exact = oracle_gradient(wide(cotangent), SHAPES, many, the)
        for gradient, expected in zip(grads, exact, strict=True):
            assert gradient.dtype == dtype
            np.testing.assert_allclose(wide(gradient), expected, rtol=1.02 * step, atol=2e-4)


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (1, 1, 2, 1), (1, 3, 1, 2), (3, 2, 1, 1)])
def test_one_box_and_tiny_maps(fake: Fake, dialect: Dialect, shape: tuple[int, ...]) -> None:
    """Below 8 elements an input lies elsewhere in Metal; a map must not, boxes and scales may."""
    features, rois = noise("tiny", *shape), np.array([[0, 0.3, 0.2, 1.1, 0.9]], np.float32)
    the = plan((1, 2), (1.0,), 2)
    found = pool(arrays([features]), mx.array(rois), the, dialect)
    np.testing.assert_allclose(np.array(found), oracle([features], rois, the), atol=1e-6)
    cotangent = noise("tiny cotangent", *found.shape)
    for fixed in (False, True):
        [grad] = spread(mx.array(cotangent), [shape], mx.array(rois), the, dialect, fixed)
        [expected] = oracle_gradient(cotangent, [shape], rois, the)
        np.testing.assert_allclose(np.array(grad), expected, atol=1e-6)
    if dialect is METAL:
        types = fake.ran[0][1].buffers
        assert types[0] == "const device float*" and types[1] == "const constant float*"


def test_levels_are_assign_levels_bit_for_bit(fake: Fake, dialect: Dialect) -> None:
    """At each border, the numbers beside it, and where an area overflows or is none."""
    scales = (1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 32)
    the = plan((1, 1), scales, 1, True)
    sides = [np.float32(v) for v in (0, 1e-30, 3, 112, 224, 448, 1e19, 1e38, *the.borders[:3])]
    near = [np.nextafter(v, np.float32(to)) for v in sides for to in (-1e38, 1e38)]
    rng = np.random.default_rng(0)  # areas whose square root is near a border, of uneven sides
    uneven = (2.0 ** rng.uniform(-1, 1, 300)).astype(np.float32)
    border = np.repeat(the.borders[:3], 100)
    size = [(v, v) for v in (*sides, *near)] + [(-v, -v) for v in sides] + [(-v, v) for v in sides]
    size += [(b * u, b / u) for b, u in zip(border, uneven, strict=True)]
    half = np.array(size, np.float32) / 2
    # Around the origin, so that the one sample of each box lies on the first pixel.
    rois = np.concatenate([np.zeros((len(half), 1), np.float32), -half, half], axis=1)
    maps = [np.full((1, 1, 2, 1), level, np.float32) for level in range(5)]
    found = np.array(pool(arrays(maps), mx.array(rois), the, dialect)).ravel()
    expected = np.array(assign_levels(mx.array(rois[:, 1:]), scales))
    assert set(expected) == {0, 1, 2, 3}  # of two levels of one scale the first is taken
    np.testing.assert_array_equal(found, expected)
    at = half[:, 0] * 2 == np.repeat(np.float32(the.borders[:3]), 1)[:, None]
    assert at.any(axis=1).all()  # a box of exactly each border is among them


def test_the_border_itself_counts(fake: Fake, dialect: Dialect) -> None:
    """Samples at exactly -1 and at the length; a sixteenth further out they do not."""
    ones, the = np.ones((1, 4, 4, 3), np.float32), plan((1, 1), (1.0,), 1)
    for shift, value in ((0, 1), (1 / 16, 0)):
        rois = [
            [0, -1.5 - shift, 0, -0.5 - shift, 1],
            [0, 0, -1.5 - shift, 1, -0.5 - shift],
            [0, 3.5 + shift, 0, 4.5 + shift, 1],
            [0, 0, 3.5 + shift, 1, 4.5 + shift],
        ]
        boxes = mx.array(rois)
        found = np.array(pool(arrays([ones]), boxes, the, dialect))
        assert (found == value).all()
        for fixed in (False, True):
            cotangent = mx.ones((4, 1, 1, 3))
            [grad] = spread(cotangent, [ones.shape], boxes, the, dialect, fixed)
            assert mx.sum(grad).item() == pytest.approx(12 * value)


def test_threads_that_take_several_rows(
    fake: Fake, dialect: Dialect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where there are more rows than CUDA has groups for."""
    monkeypatch.setattr(launch, "_ROW_GROUPS", 1)
    monkeypatch.setattr(launch, "_GROUP", 8)
    the, rois = plan(), boxes()
    found = pool(arrays(pyramid()), mx.array(rois), the, dialect)
    np.testing.assert_allclose(np.array(found), oracle(pyramid(), rois, the), atol=2e-5)
    cotangent = noise("kernel rows", *found.shape)
    for fixed in (False, True):
        grads = spread(mx.array(cotangent), SHAPES, mx.array(rois), the, dialect, fixed)
        for a, b in zip(grads, oracle_gradient(cotangent, SHAPES, rois, the), strict=True):
            np.testing.assert_allclose(np.array(a), b, atol=1e-5)
    assert all(ran[2]["grid"][1] <= 8 for ran in fake.ran)


@pytest.mark.parametrize("channels", [1, 3, 4, 9, 17, 300])
def test_channels_of_any_number(fake: Fake, dialect: Dialect, channels: int) -> None:
    shapes = [(*shape[:3], channels) for shape in SHAPES]
    the, rois = plan((1, 1)), boxes(3)
    found = pool(arrays(pyramid(shapes)), mx.array(rois), the, dialect)
    np.testing.assert_allclose(np.array(found), oracle(pyramid(shapes), rois, the), atol=2e-5)
    cotangent = noise("kernel channels", *found.shape)
    for fixed in (False, True):
        grads = spread(mx.array(cotangent), shapes, mx.array(rois), the, dialect, fixed)
        for a, b in zip(grads, oracle_gradient(cotangent, shapes, rois, the), strict=True):
            np.testing.assert_allclose(np.array(a), b, atol=1e-5)


def test_a_huge_box_takes_the_samples_on_the_map_alone(fake: Fake, dialect: Dialect) -> None:
    """Else a box of a diverged network would keep the GPU busy until its watchdog barks."""
    features = noise("features", 1, 9, 13, 3)
    rois = np.array([[0, -7e4, -3e4, 6e4, 9e4], [0, 1.1, -9e4, 8.3, 2e5], [0, 0, 0, 1, 3e6]])
    endless = [[0, -1e30, -1e30, 1e30, 1e30], [0, -3e38, 0, 3e38, 9]]
    the = plan((2, 2), (1.0,), 0)
    every = np.concatenate([rois, endless]).astype(np.float32)
    found = np.array(pool(arrays([features]), mx.array(every), the, dialect))
    np.testing.assert_allclose(found[:3], oracle([features], every[:3], the), atol=1e-4)
    assert not found[3:].any()
    cotangent = noise("kernel huge", *found.shape)
    for fixed in (False, True):
        [grad] = spread(mx.array(cotangent), [features.shape], mx.array(every), the, dialect, fixed)
        [expected] = oracle_gradient(cotangent[:3], [features.shape], every[:3], the)
        np.testing.assert_allclose(np.array(grad), expected, atol=1e-5)
