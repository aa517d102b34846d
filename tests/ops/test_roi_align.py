import importlib
import math
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_rcnn.ops import multiscale_roi_align, roi_align, roi_pool
from reference import noise, numeric_gradient

GOLDEN = np.load(Path(__file__).parents[1] / "goldens" / "ops_torchvision.npz")
MODULE = importlib.import_module("mlx_rcnn.ops.roi_align")  # mlx_rcnn.ops.roi_align: the function
GATHER = importlib.import_module("mlx_rcnn.ops.roi_gather")
NAN, INF = float("nan"), float("inf")

RATIOS = (-1, 0, 1, 2, 3)
EDGES = [  # on maps of 9 x 13
    [0, 1, 2, 8, 7], [1, 2.3, 0.7, 11.9, 8.2],  # inside
    [0, -3.5, -2.25, 2.1, 3.4], [1, 9.2, 6.4, 14.7, 11.6],  # over corners
    [0, -15, -20, -6, -5], [1, 20, 2, 30, 6], [0, 5, -40, 9, -2], [1, 2, 11, 7, 30],  # outside
    [0, 9, 8, 3, 2], [1, 8, 2, 3, 7],  # inverted
    [0, 4.1, 3.3, 4.4, 3.5], [1, 4, 3, 4, 3], [1, 12, 8, 13, 9],  # tiny, none, one pixel
    [0, 0, 0, 13, 9], [1, -1, -1, 14, 10], [0, -25, -31, 38, 44],  # the whole map and beyond
]  # fmt: skip


def maps(n=2, height=9, width=13, channels=3, key="features"):
    return noise(key, n, height, width, channels)


def run(function, features, rois, *args):
    result = function(mx.array(features), mx.array(np.asarray(rois, np.float32)), *args)
    assert result.dtype == mx.float32
    return np.array(result)


def sample(image, y, x):
    """Bilinear, pixel centres at whole numbers; the border reaches a pixel out, then come zeros."""
    height, width = image.shape[:2]
    if not (-1 <= y <= height and -1 <= x <= width):
        return np.zeros(image.shape[2])
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    top, left = min(int(y), max(height - 2, 0)), min(int(x), max(width - 2, 0))
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    v, w = y - top, x - left
    upper = (1 - w) * image[top, left] + w * image[top, right]
    return (1 - v) * upper + v * ((1 - w) * image[bottom, left] + w * image[bottom, right])


def slow_roi_align(features, rois, bins, scale=1.0, ratio=-1, aligned=False):
    out = np.zeros((len(rois), *bins, features.shape[-1]))
    features = features.astype(np.float64)
    for r, (image, *corners) in enumerate(np.asarray(rois, np.float64)):
        x1, y1, x2, y2 = (c * scale - (0.5 if aligned else 0) for c in corners)
        low = -INF if aligned else 1
        height, width = max(y2 - y1, low) / bins[0], max(x2 - x1, low) / bins[1]
        rows, columns = (ratio if ratio > 0 else max(math.ceil(n), 0) for n in (height, width))
        for i, j in np.ndindex(*bins):
            for v, w in np.ndindex(rows, columns):
                y = y1 + (i + (v + 0.5) / rows) * height
                x = x1 + (j + (w + 0.5) / columns) * width
                out[r, i, j] += sample(features[int(image)], y, x) / (rows * columns)
    return out


def slow_roi_pool(features, rois, bins, scale=1.0):
    height, width = features.shape[1:3]
    out = np.zeros((len(rois), *bins, features.shape[-1]))
    for r, (image, *corners) in enumerate(np.asarray(rois, np.float64)):
        x1, y1, x2, y2 = (int(math.copysign(math.floor(abs(c) * scale + 0.5), c)) for c in corners)
        h = np.float32(max(y2 - y1 + 1, 1)) / np.float32(bins[0])  # float32 rounds 3 * (h / 3)
        w = np.float32(max(x2 - x1 + 1, 1)) / np.float32(bins[1])
        for i, j in np.ndindex(*bins):
            rows = range(y1 + math.floor(i * h), y1 + math.ceil((i + 1) * h))
            columns = range(x1 + math.floor(j * w), x1 + math.ceil((j + 1) * w))
            values = [
                features[int(image), y, x]
                for y in rows for x in columns if 0 <= y < height and 0 <= x < width
            ]  # fmt: skip
            if values:
                out[r, i, j] = np.max(values, axis=0)
    return out


def test_average_by_hand():
    # A map whose value is its column. The RoI from 1 to 5 in two bins: centres 2 and 4.
    # Half a pixel to the left with aligned; twice as far at half the scale.
    ramp = np.broadcast_to(np.arange(8.0)[None, None, :, None], (1, 6, 8, 1)).astype(np.float32)
    roi = [[0, 1, 1, 5, 3]]
    for ratio in RATIOS:
        result = run(roi_align, ramp, roi, (1, 2), 1.0, ratio)[0, 0, :, 0]
        np.testing.assert_allclose(result, [2, 4], rtol=1e-6)
        result = run(roi_align, ramp, roi, (1, 2), 1.0, ratio, True)[0, 0, :, 0]
        np.testing.assert_allclose(result, [1.5, 3.5], rtol=1e-6)
        result = run(roi_align, ramp, [[0, 2, 2, 10, 6]], (1, 2), 0.5, ratio)[0, 0, :, 0]
        np.testing.assert_allclose(result, [2, 4], rtol=1e-6)
    # Rows likewise: one bin of columns, two of rows, on the map turned
    result = run(roi_align, ramp.transpose(0, 2, 1, 3), [[0, 1, 1, 3, 5]], (2, 1), 1.0, 2)
    np.testing.assert_allclose(result[0, :, 0, 0], [2, 4])
    # Smaller than a pixel: 1 wide without aligned, so centre 2 + 0.5; as it is with: 2.1 - 0.5
    tiny = [[0, 2, 2, 2.2, 2.2]]
    assert run(roi_align, ramp, tiny, 1, 1.0, 1).item() == pytest.approx(2.5)
    assert run(roi_align, ramp, tiny, 1, 1.0, 1, True).item() == pytest.approx(1.6)


def test_border_by_hand():
    ones = np.ones((1, 4, 4, 1), np.float32)
    # Samples at -1.5, -0.5, 0.5, 1.5 in both axes: the first line is more than a pixel out
    result = run(roi_align, ones, [[0, -2, -2, 2, 2]], 4, 1.0, 1)[0, :, :, 0]
    np.testing.assert_array_equal(result, np.outer([0, 1, 1, 1], [0, 1, 1, 1]))
    # As one bin: 9 of its 16 samples count, and the mean is over all 16
    assert run(roi_align, ones, [[0, -2, -2, 2, 2]], 1, 1.0, 4).item() == 9 / 16
    # Samples at exactly -1 and exactly 4 (the height) still count; at -1.25 and 4.25 they do not
    for shift, value in ((0, 1), (0.25, 0)):
        left, below = [0, -1.5 - shift, 0, -0.5 - shift, 1], [0, 0, 3.5 + shift, 1, 4.5 + shift]
        result = run(roi_align, ones, [left, below], 1, 1.0, 1)
        assert result.ravel().tolist() == [value, value]


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("ratio", RATIOS)
def test_average_oracle(ratio, aligned):
    rois = np.array(EDGES)
    for bins, scale in (((3, 2), 1.0), ((1, 4), 0.5), ((2, 2), 0.3)):
        expected = slow_roi_align(maps(), rois, bins, scale, ratio, aligned)
        result = run(roi_align, maps(), rois, bins, scale, ratio, aligned)
        np.testing.assert_allclose(result, expected, atol=2e-5)


# Off the numbers where rounding decides on a sample more, or on which side of the border it lies
eighths = st.integers(-64, 128).map(lambda v: v / 8)
uneven = st.tuples(st.integers(0, 1), eighths, eighths, eighths, eighths).map(
    lambda v: [v[0], v[1] + 0.03, v[2] + 0.03, v[3] + 0.07, v[4] + 0.07]
)


@settings(max_examples=80, deadline=None)
@given(
    st.integers(0, 99),
    st.tuples(st.integers(1, 6), st.integers(1, 6)),
    st.lists(uneven, min_size=1, max_size=4),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.sampled_from([1.0, 0.5, 0.25]),
    st.sampled_from(RATIOS),
    st.booleans(),
)
def test_average_oracle_of_anything(seed, size, rois, bins, scale, ratio, aligned):
    features = maps(2, *size, 2, key=f"anything {seed}")
    expected = slow_roi_align(features, rois, bins, scale, ratio, aligned)
    result = run(roi_align, features, rois, bins, scale, ratio, aligned)
    np.testing.assert_allclose(result, expected, atol=1e-4)


def test_grids_of_all_sizes_at_once():
    """RoIs are grouped by their adaptive grid and must come back in order."""
    rng = np.random.default_rng(0)
    first = rng.uniform(-10, 10, (40, 2))
    sides = 2.0 ** rng.uniform(-2, 6.5, (40, 2))
    rois = np.concatenate([rng.integers(0, 2, (40, 1)), first, first + sides], axis=1)
    for aligned in (False, True):
        expected = slow_roi_align(maps(), rois, (2, 1), 1.0, -1, aligned)
        result = run(roi_align, maps(), rois, (2, 1), 1.0, -1, aligned)
        np.testing.assert_allclose(result, expected, atol=3e-5)
    expected = slow_roi_pool(maps(), rois, (2, 1))
    np.testing.assert_array_equal(run(roi_pool, maps(), rois, (2, 1)), expected.astype(np.float32))


@pytest.mark.parametrize("name", ["chunks", "dense"])
@pytest.mark.parametrize("ratio", [-1, 2])
def test_chunks_and_dense_form_change_nothing(monkeypatch, name, ratio):
    features, rois = mx.array(maps()), mx.array(np.array(EDGES, np.float32))
    weight = mx.array(noise("weight", len(EDGES), 3, 2, 3))

    def run_all():
        value = roi_align(features, rois, (3, 2), 1.0, ratio)
        gradient = mx.grad(lambda f: mx.sum(weight * roi_align(f, rois, (3, 2), 1.0, ratio)))
        return np.array(value), np.array(gradient(features)), np.array(roi_pool(features, rois, 2))

    expected = run_all()
    if name == "chunks":
        monkeypatch.setattr(GATHER, "CPU_CHUNK", 1)
        monkeypatch.setattr(GATHER, "GPU_CHUNK", 1)
    else:
        monkeypatch.setattr(MODULE, "MAX_TAPS", 0)
    for value, wanted in zip(run_all(), expected, strict=True):
        np.testing.assert_allclose(value, wanted, atol=1e-5)


def test_large_rois_take_the_dense_form(monkeypatch):
    rois = np.array([[0, -20, -30, 60, 70], [1, 0, 0, 80, 5]])
    called = []
    dense = MODULE._dense
    monkeypatch.setattr(MODULE, "_dense", lambda *a: called.append(1) or dense(*a))
    result = run(roi_align, maps(), rois, (2, 2))  # grids of 50 x 40 and 3 x 40
    assert called
    np.testing.assert_allclose(result, slow_roi_align(maps(), rois, (2, 2)), atol=2e-5)


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("ratio", [-1, 2])
def test_gradient(ratio, aligned):
    features = maps(2, 4, 5, 1)
    rois = [[0, 0.3, 0.2, 3.9, 3.1], [1, -1.5, -2, 2.5, 3], [1, 2, 1, 9, 8], [0, 7, 7, 9, 9]]
    rois = np.array(rois)
    weight = noise("cotangent", 4, 2, 3, 1)

    def total(f):
        boxes = mx.array(rois.astype(np.float32))
        return mx.sum(roi_align(f, boxes, (2, 3), 1.0, ratio, aligned) * mx.array(weight))

    gradient = np.array(mx.grad(total)(mx.array(features)))
    expected = numeric_gradient(
        lambda f: (slow_roi_align(f, rois, (2, 3), 1.0, ratio, aligned) * weight).sum(),
        features, step=1.0,  # the average is linear
    )  # fmt: skip
    np.testing.assert_allclose(gradient, expected, atol=2e-5)
    assert np.abs(expected).max() > 0.1


def test_gradient_of_pool():
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


def test_no_gradient_reaches_the_boxes():
    """And boxes that depend on something trained do not break the gradient of the map."""
    features, rois = mx.array(maps()), mx.array(np.array(EDGES, np.float32))
    for function in (roi_align, roi_pool):

        def total(features, rois, function=function):
            return mx.sum(function(features, rois, 2))

        expected = mx.grad(total)(features, rois)
        gradient, none = mx.grad(total, argnums=(0, 1))(features, rois)
        np.testing.assert_array_equal(np.array(gradient), np.array(expected))
        assert not mx.any(none).item()


def test_gradient_of_levels():
    features = [maps(1, 8 >> i, 8 >> i, 1, key=f"level {i}") for i in (0, 1)]
    rois = np.array([[0, 3, 2, 20, 25], [0, 0, 0, 130, 140]], np.float32)  # one on each level

    def total(first, second):
        return mx.sum(multiscale_roi_align([first, second], mx.array(rois), 2, [1 / 4, 1 / 8]))

    gradients = mx.grad(total, argnums=(0, 1))(*map(mx.array, features))
    for i, gradient in enumerate(gradients):
        expected = numeric_gradient(
            lambda f, i=i: slow_roi_align(f, rois[i : i + 1], (2, 2), 0.25 / 2**i, 2).sum(),
            features[i], step=1.0,
        )  # fmt: skip
        np.testing.assert_allclose(np.array(gradient), expected, atol=2e-5)


def test_pool_by_hand():
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


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 99),
    st.tuples(st.integers(1, 6), st.integers(1, 6)),
    st.lists(
        st.tuples(st.integers(0, 1), *[st.integers(-32, 64).map(lambda v: v / 4)] * 4),
        min_size=1, max_size=4,
    ),
    st.tuples(st.integers(1, 7), st.integers(1, 7)),
    st.sampled_from([1.0, 0.5]),
)  # fmt: skip
def test_pool_oracle(seed, size, rois, bins, scale):
    features = maps(2, *size, 2, key=f"pool {seed}") - 5
    expected = slow_roi_pool(features, rois, bins, scale)
    result = run(roi_pool, features, rois, bins, scale)
    np.testing.assert_array_equal(result, expected.astype(np.float32))


@pytest.mark.parametrize("bins", [(3, 2), (7, 7)])
def test_torchvision(bins):
    features = noise("roi maps", 2, 2, 9, 13).transpose(0, 2, 3, 1)
    rois, size = GOLDEN["rois"], f"{bins[0]}x{bins[1]}"
    for aligned in (False, True):
        for ratio in RATIOS:
            result = run(roi_align, features, rois, bins, 0.5, ratio, aligned)
            if aligned and ratio < 1:
                # Row 8 is inverted in x alone: without samples, so 0, where torchvision crashes
                assert not result[8].any()
                result = np.delete(result, 8, axis=0)
            expected = GOLDEN[f"roi_align_{size}_{ratio}_{aligned}"]
            np.testing.assert_allclose(result, expected, atol=1e-5)
    result = run(roi_pool, features, rois, bins, 0.5)
    np.testing.assert_array_equal(result, GOLDEN[f"roi_pool_{size}"])


def levels_of(sides, scales=(1 / 4, 1 / 8, 1 / 16, 1 / 32)):
    """Which map a box of each (width, height) at the origin is read from."""
    features = [mx.full((1, 99, 99, 1), float(i)) for i in range(len(scales))]
    rois = mx.array([[0, 0, 0, w, h] for w, h in sides])
    # The first of many bins lies on the map, whatever the scale
    result = multiscale_roi_align(features, rois, 64, list(scales), 1)[:, 0, 0, 0]
    return mx.round(result).tolist()


def test_levels_by_hand():
    # floor(4 + log2(side / 224)) - 2: 224 / 2 = 112 is the first of level 1, 224 of 2, 448 of 3
    sides = [1, 111.9, 112, 223.9, 224, 447.9, 448, 9999]
    assert levels_of([(s, s) for s in sides]) == [0, 0, 1, 1, 2, 2, 3, 3]
    # It is the area that counts
    assert levels_of([(56, 224), (56, 223), (448, 112), (896, 224), (12544, 1)]) == [1, 0, 2, 3, 1]
    # The slack of 1e-6 in the logarithm is a factor of 1 - 6.9e-7, 7.8e-5 of 112 pixels
    assert levels_of([(112 - 5e-5, 112 - 5e-5), (112 - 1e-4, 112 - 1e-4)]) == [1, 0]
    # Levels that are missing: clamped to those there are
    assert levels_of([(1, 1), (224, 224), (999, 999)], (1 / 16,)) == [0, 0, 0]
    assert levels_of([(1, 1), (447, 447), (448, 448)], (1 / 16, 1 / 32)) == [0, 0, 1]
    # Boxes without or with negative sides
    assert levels_of([(0, 0), (-300, 300), (300, -300)]) == [0, 0, 0]


def test_levels_of_torchvision():
    features = [
        noise(f"level {i}", 2, 1, 128 >> i, 160 >> i).transpose(0, 2, 3, 1) for i in range(4)
    ]
    rois, scales = mx.array(GOLDEN["multiscale_rois"]), [1 / 4, 1 / 8, 1 / 16, 1 / 32]
    sides = GOLDEN["multiscale_rois"][:, 3:] - GOLDEN["multiscale_rois"][:, 1:3]
    assert levels_of(sides.tolist()) == GOLDEN["multiscale_levels"].tolist()
    result = multiscale_roi_align([mx.array(f) for f in features], rois, 2, scales, 2)
    np.testing.assert_allclose(np.array(result), GOLDEN["multiscale"], atol=2e-5)


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("ratio", [-1, 2])
def test_levels_are_single_maps(ratio, aligned):
    """Each RoI equals roi_align on its level's map; maps and images are of unequal sizes."""
    sizes, scales = [(31, 40), (16, 20), (8, 11)], [1 / 8, 1 / 16, 1 / 32]
    features = [mx.array(maps(2, *s, 2, key=f"unequal {i}")) for i, s in enumerate(sizes)]
    rng = np.random.default_rng(2)
    first, sides = rng.uniform(-20, 200, (24, 2)), rng.uniform(20, 700, (24, 2))
    rois = np.concatenate([rng.integers(0, 2, (24, 1)), first, first + sides], 1).astype(np.float32)
    level = np.array(levels_of(sides.tolist(), scales), int)
    assert set(level) == {0, 1, 2}
    result = multiscale_roi_align(features, mx.array(rois), (2, 3), scales, ratio, aligned)
    for i, (feature, scale) in enumerate(zip(features, scales, strict=True)):
        expected = roi_align(feature, mx.array(rois[level == i]), (2, 3), scale, ratio, aligned)
        np.testing.assert_allclose(np.array(result)[level == i], np.array(expected), atol=1e-5)
    # A coarser level that no box reaches changes nothing
    small = mx.array(rois[level < 2])
    more = multiscale_roi_align(features, small, (2, 3), scales, ratio, aligned)
    less = multiscale_roi_align(features[:2], small, (2, 3), scales[:2], ratio, aligned)
    np.testing.assert_allclose(np.array(more), np.array(less), atol=1e-6)


@pytest.mark.parametrize("function", [roi_align, roi_pool])
def test_rois_and_images_are_independent(function):
    rois = np.array(EDGES)
    together = run(function, maps(), rois, (3, 2))
    for roi, expected in zip(rois, together, strict=True):
        np.testing.assert_allclose(run(function, maps(), roi[None], (3, 2))[0], expected, atol=1e-6)
        image = maps()[int(roi[0])][None]
        alone = run(function, image, [[0, *roi[1:]]], (3, 2))[0]
        np.testing.assert_allclose(alone, expected, atol=1e-6)
    order = np.random.default_rng(3).permutation(len(rois))
    mixed = run(function, maps(), rois[order], (3, 2))
    np.testing.assert_allclose(mixed, together[order], atol=1e-6)
    for c in range(3):  # channels as well
        single = run(function, maps()[..., c : c + 1], rois, (3, 2))
        np.testing.assert_allclose(single[..., 0], together[..., c], atol=1e-6)


def test_no_rois():
    for dtype in (mx.float32, mx.bfloat16):
        features, none = mx.zeros((2, 5, 6, 3), dtype=dtype), mx.zeros((0, 5))
        results = [
            roi_align(features, none, (2, 4)), roi_pool(features, none, (2, 4)),
            multiscale_roi_align([features, features], none, (2, 4), [0.5, 0.25]),
        ]  # fmt: skip
        for result in results:
            assert result.shape == (0, 2, 4, 3) and result.dtype == dtype


def test_maps_of_one_pixel_and_one_line():
    for size in ((1, 1), (1, 6), (6, 1)):
        features = maps(1, *size, 2)
        rois = [[0, 0, 0, 1, 1], [0, -0.5, -0.5, 6, 6], [0, 0.2, 0.3, 0.4, 0.5]]
        for ratio in (-1, 2):
            expected = slow_roi_align(features, rois, (2, 2), 1.0, ratio)
            result = run(roi_align, features, rois, (2, 2), 1.0, ratio)
            np.testing.assert_allclose(result, expected, atol=1e-5)
        expected = slow_roi_pool(features, rois, (2, 2)).astype(np.float32)
        np.testing.assert_array_equal(run(roi_pool, features, rois, (2, 2)), expected)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_half_precision(dtype):
    features = mx.array(maps()).astype(dtype)
    wide = np.array(features.astype(mx.float32))
    # Coordinates stay float32: bfloat16 has no number between 1000 and 1004
    rois = np.array(EDGES) * [1, 128, 128, 128, 128] + [0, 0.3, 0.3, 0.3, 0.3]
    for ratio in (-1, 2):
        result = roi_align(features, mx.array(rois.astype(np.float32)), (3, 2), 1 / 128, ratio)
        assert result.dtype == dtype
        expected = slow_roi_align(wide, rois, (3, 2), 1 / 128, ratio)
        np.testing.assert_allclose(np.array(result.astype(mx.float32)), expected, atol=0.03)
    result = roi_pool(features, mx.array(rois.astype(np.float32)), (3, 2), 1 / 128)
    assert result.dtype == dtype
    expected = run(roi_pool, wide, rois, (3, 2), 1 / 128)
    np.testing.assert_array_equal(np.array(result.astype(mx.float32)), expected)


def test_what_is_no_box_reads_nothing_astray():
    ones = mx.ones((2, 4, 4, 1))
    bad = [[0, NAN, 0, 3, 3], [0, 0, 0, INF, 3], [0, -INF, 0, 3, 3], [1, 1e30, 1e30, 2e30, 2e30],
           [1, -1e30, -1e30, 1e30, 1e30], [0, NAN, NAN, NAN, NAN]]  # fmt: skip
    good = [1, 0, 0, 3, 3]
    result = np.array(roi_align(ones, mx.array([*bad, good]), 2, 1.0, 2))
    assert np.isin(result, (0, 1)).all() and (result[-1] == 1).all()
    result = np.array(roi_pool(ones, mx.array([*bad, good]), 2))
    assert np.isin(result, (0, 1)).all() and (result[-1] == 1).all()
    # A batch index there is not takes the nearest there is
    features = mx.array(np.arange(2, dtype=np.float32).reshape(2, 1, 1, 1) * np.ones((1, 4, 4, 1)))
    rois = mx.array([[-5, 0, 0, 2, 2], [0, 0, 0, 2, 2], [1, 0, 0, 2, 2], [9, 0, 0, 2, 2]])
    for function in (roi_align, roi_pool):
        assert function(features, rois, 1).flatten().tolist() == [0, 0, 1, 1]


def test_a_thousand_rois_in_bounded_memory():
    features = mx.zeros((1, 200, 272, 256))
    rng = np.random.default_rng(4)
    first, sides = rng.uniform(0, 900, (1000, 2)), rng.uniform(16, 112, (1000, 2))
    rois = np.concatenate([np.zeros((1000, 1)), first, first + sides], axis=1).astype(np.float32)
    mx.eval(boxes := mx.array(rois), features)
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    mx.eval(roi_align(features, boxes, 7, 0.25, 2))  # the answer is 50 MB
    assert mx.get_peak_memory() - before < 200e6


def test_bad_arguments():
    features, rois = mx.zeros((1, 4, 4, 2)), mx.zeros((3, 5))
    for size in (0, -1, (2, 0), (2,), (2, 2, 2)):
        for function in (roi_align, roi_pool):
            with pytest.raises(ValueError, match="output_size=.*expected one or two positive"):
                function(features, rois, size)
    for bad in (mx.zeros((3, 4)), mx.zeros(5), mx.zeros((1, 3, 5))):
        for function in (roi_align, roi_pool):
            with pytest.raises(ValueError, match=r"boxes: expected \(R, 5\) rows"):
                function(features, bad, 2)
    for bad in (mx.zeros((4, 4, 2)), mx.zeros((1, 4, 4))):
        with pytest.raises(ValueError, match=r"features: expected \(N, H, W, C\)"):
            roi_align(bad, rois, 2)
    for bad in (mx.zeros((0, 4, 4, 2)), mx.zeros((1, 0, 4, 2)), mx.zeros((1, 4, 0, 2))):
        with pytest.raises(ValueError, match="at least one pixel"):
            roi_align(bad, rois, 2)
    with pytest.raises(ValueError, match="equal C"):
        multiscale_roi_align([features, mx.zeros((1, 2, 2, 3))], rois, 2, [1.0, 0.5])
    with pytest.raises(ValueError, match="spatial_scales: expected 2 numbers, got 1"):
        multiscale_roi_align([features, features], rois, 2, [1.0])
