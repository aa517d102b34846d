import importlib
import math
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_rcnn.ops import multiscale_roi_pool, roi_pool
from reference import noise, numeric_gradient
from rois import EDGES, maps, run, slow_roi_pool, slow_roi_pool_gradient

GOLDEN = np.load(Path(__file__).parents[1] / "goldens" / "ops_torchvision.npz")
GATHER = importlib.import_module("mlx_rcnn.ops.roi_gather")
NAN, INF = float("nan"), float("inf")


def test_by_hand():
    # A map whose value is 10 * row + column; corners are rounded, half away from zero, and belong
    # to the RoI: (0.5, 1.4, 3.4, 2.5) is columns 1..3, rows 1..3.
    features = np.add.outer(10 * np.arange(6), np.arange(6))[None, ..., None].astype(np.float32)
    rois = [[0, 0.5, 1.4, 3.4, 2.5]]
    assert run(roi_pool, features, rois, 1).item() == 33
    # Two bins of the 3 columns: floor(0), ceil(1.5) = 2 and floor(1.5) = 1, 3: they overlap
    assert run(roi_pool, features, rois, (1, 2))[0, 0, :, 0].tolist() == [32, 33]
    # -0.5 rounds to -1: columns -1..0, of which only 0 is on the map. Bins outside it are 0.
    result = run(roi_pool, features - 100, [[0, -0.5, 0, 0.4, 0]], (1, 2))
    assert result[0, 0, :, 0].tolist() == [0, -100]
    # Inverted: one pixel. At half the scale 5 -> 2.5 -> 3.
    assert run(roi_pool, features, [[0, 4, 3, 1, 1]], 1).item() == 34
    assert run(roi_pool, features, [[0, 5, 5, 5, 5]], 1, 0.5).item() == 33


# A seed, the size of the maps, RoIs, bins and the scale.
pooled = given(
    st.integers(0, 99),
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.lists(
        st.tuples(st.integers(0, 1), *[st.integers(-32, 64).map(lambda v: v / 4)] * 4),
        min_size=1,
        max_size=4,
    ),
    st.tuples(st.integers(1, 7), st.integers(1, 7)),
    st.sampled_from([1.0, 0.5]),
)


@settings(max_examples=60, deadline=None)
@pooled
def test_oracle(seed, size, rois, bins, scale):
    features = maps(2, *size, 2, key=f"pool {seed}") - 5
    expected = slow_roi_pool(features, rois, bins, scale)
    result = run(roi_pool, features, rois, bins, scale)
    np.testing.assert_array_equal(result, expected.astype(np.float32))


@settings(max_examples=60, deadline=None)
@pooled
def test_gradient_oracle(seed, size, rois, bins, scale):
    rng = np.random.default_rng(seed)
    features = rng.integers(-2, 3, (2, *size, 2)).astype(np.float32)  # many are equal
    cotangent = rng.integers(-9, 10, (len(rois), *bins, 2)).astype(np.float32)
    boxes = mx.array(np.array(rois, np.float32))
    _, (gradient,) = mx.vjp(
        lambda f: roi_pool(f, boxes, bins, scale), [mx.array(features)], [mx.array(cotangent)]
    )
    expected = slow_roi_pool_gradient(features, rois, bins, scale, cotangent)
    np.testing.assert_array_equal(np.array(gradient), expected.astype(np.float32))


def test_edges_oracle():
    for bins, scale in (((3, 2), 1.0), ((1, 4), 0.5), ((7, 7), 0.3)):
        expected = slow_roi_pool(maps(), EDGES, bins, scale).astype(np.float32)
        np.testing.assert_array_equal(run(roi_pool, maps(), EDGES, bins, scale), expected)
    for size in ((1, 1), (1, 6), (6, 1)):
        rois = [[0, 0, 0, 1, 1], [0, -0.5, -0.5, 6, 6], [0, 0.2, 0.3, 0.4, 0.5]]
        expected = slow_roi_pool(maps(1, *size), rois, (2, 2)).astype(np.float32)
        np.testing.assert_array_equal(run(roi_pool, maps(1, *size), rois, (2, 2)), expected)


def test_spans_of_all_sizes_at_once():
    """RoIs are grouped by the pixels a bin spans and must come back in order."""
    rng = np.random.default_rng(0)
    first, sides = rng.uniform(-10, 10, (40, 2)), 2.0 ** rng.uniform(-2, 6.5, (40, 2))
    rois = np.concatenate([rng.integers(0, 2, (40, 1)), first, first + sides], axis=1)
    expected = slow_roi_pool(maps(), rois, (2, 1)).astype(np.float32)
    np.testing.assert_array_equal(run(roi_pool, maps(), rois, (2, 1)), expected)


def test_chunks_change_nothing(monkeypatch):
    features, rois = mx.array(maps()), mx.array(np.array(EDGES, np.float32))
    weight = mx.array(noise("weight", len(EDGES), 3, 2, 3))
    gradient = mx.grad(lambda f: mx.sum(weight * roi_pool(f, rois, (3, 2))))
    expected = np.array(roi_pool(features, rois, (3, 2))), np.array(gradient(features))
    for name in ("CPU_CHUNK", "GPU_CHUNK"):
        monkeypatch.setattr(GATHER, name, 1)
    np.testing.assert_array_equal(np.array(roi_pool(features, rois, (3, 2))), expected[0])
    np.testing.assert_allclose(np.array(gradient(features)), expected[1], atol=1e-5)


def test_gradient():
    features = np.random.default_rng(1).permutation(40).reshape(2, 4, 5, 1) / 8  # no two are equal
    rois = np.array([[0, 0, 0, 4, 3], [1, -2, 1, 2, 9], [0, 1, 1, 2, 2], [1, 9, 9, 12, 12]])
    weight = noise("cotangent", 4, 2, 3, 1)

    def total(f):
        return mx.sum(roi_pool(f, mx.array(rois), (2, 3)) * mx.array(weight))

    gradient = np.array(mx.grad(total)(mx.array(features.astype(np.float32))))
    expected = numeric_gradient(
        lambda f: (slow_roi_pool(f, rois, (2, 3)) * weight).sum(), features, step=1e-3
    )
    np.testing.assert_allclose(gradient, expected, atol=1e-5)


def test_gradient_of_equal_pixels_goes_to_the_first():
    """As torchvision's, which looks for what is greater than all before, row after row."""
    features = mx.array([[0.0, 2, 2], [2, 1, 0], [0, 3, 3]]).reshape(1, 3, 3, 1)
    rois = mx.array([[0.0, 0, 0, 2, 1], [0, 0, 1, 1, 1], [0, 1, 2, 2, 2], [0, 5, 5, 6, 6]])
    weight = mx.array([1.0, 10, 100, 1000]).reshape(4, 1, 1, 1)  # the last RoI lies outside
    gradient = mx.grad(lambda f: mx.sum(weight * roi_pool(f, rois, 1)))(features)
    assert gradient.reshape(3, 3).tolist() == [[0, 1, 0], [10, 0, 0], [0, 100, 0]]


@pytest.mark.parametrize("bins", [(3, 2), (7, 7)])
def test_torchvision(bins):
    features = noise("roi maps", 2, 2, 9, 13).transpose(0, 2, 3, 1)
    result = run(roi_pool, features, GOLDEN["rois"], bins, 0.5)
    np.testing.assert_array_equal(result, GOLDEN[f"roi_pool_{bins[0]}x{bins[1]}"])


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_half_precision(dtype):
    features = mx.array(maps()).astype(dtype)
    # Coordinates stay float32: bfloat16 has no number between 1000 and 1004
    rois = np.array(EDGES) * [1, 128, 128, 128, 128] + [0, 0.3, 0.3, 0.3, 0.3]
    result = roi_pool(features, mx.array(rois.astype(np.float32)), (3, 2), 1 / 128)
    assert result.dtype == dtype
    expected = run(roi_pool, np.array(features.astype(mx.float32)), rois, (3, 2), 1 / 128)
    np.testing.assert_array_equal(np.array(result.astype(mx.float32)), expected)


def test_what_is_no_box_reads_nothing_astray():
    bad = [
        [0, NAN, 0, 3, 3],
        [0, 0, 0, INF, 3],
        [0, -INF, 0, 3, 3],
        [1, 1e30, 1e30, 2e30, 2e30],
        [1, -1e30, -1e30, 1e30, 1e30],
        [0, NAN, NAN, NAN, NAN],
    ]
    result = np.array(roi_pool(mx.ones((2, 4, 4, 1)), mx.array([*bad, [1, 0, 0, 3, 3]]), 2))
    assert np.isin(result, (0, 1)).all() and (result[-1] == 1).all()


LEVELS = (1 / 4, 1 / 8, 1 / 16)


def pyramid(dtype=np.float32):
    """Maps of a 192 x 256 input, two images, finest first."""
    return [
        noise(f"pool level {i}", 2, int(192 * s), int(256 * s), 3).astype(dtype)
        for i, s in enumerate(LEVELS)
    ]


def level_of(roi):
    """Feature Pyramid Networks, equation 1: floor(4 + log2(sqrt(w h) / 224)), levels 2 to 4."""
    size = math.sqrt((roi[3] - roi[1]) * (roi[4] - roi[2]))
    return min(max(math.floor(4 + math.log2(max(size, 1e-9) / 224)), 2), 4) - 2


def rois_of_all_sizes(seed, count=30):
    rng = np.random.default_rng(seed)
    side = 2.0 ** rng.uniform(2, 9.7, (count, 2))
    corner = rng.uniform(-20, 200, (count, 2))
    return np.concatenate([rng.integers(0, 2, (count, 1)), corner, corner + side], axis=1)


@pytest.mark.parametrize("seed", range(3))
def test_levels_each_pooled_alone(seed):
    rois, levels = rois_of_all_sizes(seed), pyramid()
    found = np.array(
        multiscale_roi_pool([mx.array(v) for v in levels], mx.array(rois), (3, 2), LEVELS)
    )
    assert found.shape == (30, 3, 2, 3) and found.dtype == np.float32
    chosen = np.array([level_of(roi) for roi in rois])
    assert set(chosen) == {0, 1, 2}
    for level in (0, 1, 2):
        rows = chosen == level
        alone = run(roi_pool, levels[level], rois[rows], (3, 2), LEVELS[level])
        np.testing.assert_array_equal(found[rows], alone)
        slow = slow_roi_pool(levels[level], rois[rows].astype(np.float32), (3, 2), LEVELS[level])
        np.testing.assert_array_equal(found[rows], slow.astype(np.float32))


def test_gradient_reaches_the_level_that_was_pooled():
    levels = [mx.array(v) for v in pyramid()]
    small, large = [[0, 8, 8, 40, 40]], [[1, 0, 0, 250, 190]]
    for rois, level in ((small, 0), (large, 1)):
        rois = np.array(rois, np.float32)
        assert level_of(rois[0]) == level

        def total(maps, rois=rois):
            return mx.sum(multiscale_roi_pool(maps, mx.array(rois), 2, LEVELS))

        gradients = mx.grad(total)(levels)
        sums = [float(mx.sum(mx.abs(g)).item()) for g in gradients]
        assert sums[level] == 12 and sum(sums) == 12  # 2 x 2 bins of 3 channels, 1 each


def test_nothing_and_half_precision():
    maps_ = [mx.array(v) for v in pyramid()]
    none = multiscale_roi_pool(maps_, mx.zeros((0, 5)), 2, LEVELS)
    assert none.shape == (0, 2, 2, 3) and none.dtype == mx.float32
    rois = mx.array(rois_of_all_sizes(9))
    half = multiscale_roi_pool([m.astype(mx.float16) for m in maps_], rois, 2, LEVELS)
    assert half.dtype == mx.float16
    wide = [m.astype(mx.float16).astype(mx.float32) for m in maps_]
    expected = multiscale_roi_pool(wide, rois, 2, LEVELS)
    np.testing.assert_array_equal(np.array(half), np.array(expected).astype(np.float16))
    with pytest.raises(ValueError, match="spatial_scales: expected 3 numbers, got 2"):
        multiscale_roi_pool(maps_, rois, 2, LEVELS[:2])


def test_windows_of_a_pyramid_in_bounded_memory():
    maps_ = [mx.random.normal((1, 100 // k, 136 // k, 256)) for k in (1, 2, 4)]  # 18 MB
    rng = np.random.default_rng(0)
    corner, side = rng.uniform(0, 300, (200, 2)), np.exp(rng.uniform(2.5, 6, (200, 2)))
    rois = np.concatenate([np.zeros((200, 1)), corner, corner + side], axis=1)
    mx.eval(rois := mx.array(rois.astype(np.float32)), maps_)
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    mx.eval(multiscale_roi_pool(maps_, rois, 7, LEVELS))  # the answer is 10 MB
    assert mx.get_peak_memory() - before < 220e6  # 9 tables, one for each size of window
