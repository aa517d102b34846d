import importlib
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_rcnn.ops import roi_align
from reference import noise, numeric_gradient
from rois import EDGES, maps, run, slow_roi_align

GOLDEN = np.load(Path(__file__).parents[1] / "goldens" / "ops_torchvision.npz")
MODULE = importlib.import_module("mlx_rcnn.ops.roi_align")  # mlx_rcnn.ops.roi_align: the function
GATHER = importlib.import_module("mlx_rcnn.ops.roi_gather")
NAN, INF = float("nan"), float("inf")
RATIOS = (-1, 0, 1, 2, 3)


def test_by_hand():
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
def test_oracle(ratio, aligned):
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
def test_oracle_of_anything(seed, size, rois, bins, scale, ratio, aligned):
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


@pytest.mark.parametrize("name", ["chunks", "dense"])
@pytest.mark.parametrize("ratio", [-1, 2])
def test_chunks_and_dense_form_change_nothing(monkeypatch, name, ratio):
    monkeypatch.setenv("MLX_RCNN_KERNELS", "0")  # the twin on a GPU too
    features, rois = mx.array(maps()), mx.array(np.array(EDGES, np.float32))
    weight = mx.array(noise("weight", len(EDGES), 3, 2, 3))
    gradient = mx.grad(lambda f: mx.sum(weight * roi_align(f, rois, (3, 2), 1.0, ratio)))

    def both():
        value = roi_align(features, rois, (3, 2), 1.0, ratio)
        return np.array(value), np.array(gradient(features))

    expected = both()
    if name == "chunks":
        monkeypatch.setattr(GATHER, "CPU_CHUNK", 1)
        monkeypatch.setattr(GATHER, "GPU_CHUNK", 1)
    else:
        monkeypatch.setattr(MODULE, "MAX_TAPS", 0)
    for value, wanted in zip(both(), expected, strict=True):
        np.testing.assert_allclose(value, wanted, atol=1e-5)


def test_large_rois_take_the_dense_form(monkeypatch):
    monkeypatch.setenv("MLX_RCNN_KERNELS", "0")  # the twin on a GPU too
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
        features,
        step=1.0,  # the average is linear
    )
    np.testing.assert_allclose(gradient, expected, atol=2e-5)
    assert np.abs(expected).max() > 0.1


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


def test_maps_of_one_pixel_and_one_line():
    for size in ((1, 1), (1, 6), (6, 1)):
        features = maps(1, *size, 2)
        rois = [[0, 0, 0, 1, 1], [0, -0.5, -0.5, 6, 6], [0, 0.2, 0.3, 0.4, 0.5]]
        for ratio in (-1, 2):
            expected = slow_roi_align(features, rois, (2, 2), 1.0, ratio)
            result = run(roi_align, features, rois, (2, 2), 1.0, ratio)
            np.testing.assert_allclose(result, expected, atol=1e-5)


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


def test_what_is_no_box_reads_nothing_astray():
    ones = mx.ones((2, 4, 4, 1))
    bad = [
        [0, NAN, 0, 3, 3],
        [0, 0, 0, INF, 3],
        [0, -INF, 0, 3, 3],
        [1, 1e30, 1e30, 2e30, 2e30],
        [1, -1e30, -1e30, 1e30, 1e30],
        [0, NAN, NAN, NAN, NAN],
    ]
    good = [1, 0, 0, 3, 3]
    result = np.array(roi_align(ones, mx.array([*bad, good]), 2, 1.0, 2))
    assert np.isin(result, (0, 1)).all() and (result[-1] == 1).all()


@pytest.mark.parametrize("ratio", [-1, 2])
def test_indices_in_slices_change_nothing(monkeypatch, ratio):
    monkeypatch.setenv("MLX_RCNN_KERNELS", "0")  # the twin on a GPU too
    features, rois = mx.array(maps()), mx.array(np.array(EDGES, np.float32))

    def run_both():
        gradient = mx.grad(lambda f: mx.sum(roi_align(f, rois, (3, 2), 1.0, ratio) ** 2))
        return np.array(roi_align(features, rois, (3, 2), 1.0, ratio)), np.array(gradient(features))

    expected = run_both()
    monkeypatch.setattr(MODULE, "INDEX_BYTES", 1)
    for value, wanted in zip(run_both(), expected, strict=True):
        np.testing.assert_allclose(value, wanted, atol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("ratio", [-1, 2])
def test_a_box_that_is_not_finite_gives_zeros_and_harms_no_other(ratio, bad):
    rois = np.array([[0, 1, 2, 9, 8], [1, 0, 3, bad, 9]], np.float32)
    both = run(roi_align, maps(), rois, (3, 2), 1.0, ratio)
    alone = run(roi_align, maps(), rois[:1], (3, 2), 1.0, ratio)
    np.testing.assert_allclose(both[:1], alone, atol=1e-6)
    assert np.isfinite(both).all()
