"""What RoIAlign and RoIPool share: levels, images, memory and checks."""

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_rcnn.ops import multiscale_roi_align, roi_align, roi_pool
from reference import noise, numeric_gradient
from rois import EDGES, maps, run, slow_roi_align

GOLDEN = np.load(Path(__file__).parents[1] / "goldens" / "ops_torchvision.npz")


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


def test_gradient_of_levels():
    features = [maps(1, 8 >> i, 8 >> i, 1, key=f"level {i}") for i in (0, 1)]
    rois = np.array([[0, 3, 2, 20, 25], [0, 0, 0, 130, 140]], np.float32)  # one on each level

    def total(first, second):
        return mx.sum(multiscale_roi_align([first, second], mx.array(rois), 2, [1 / 4, 1 / 8]))

    gradients = mx.grad(total, argnums=(0, 1))(*map(mx.array, features))
    for i, gradient in enumerate(gradients):
        expected = numeric_gradient(
            lambda f, i=i: slow_roi_align(f, rois[i : i + 1], (2, 2), 0.25 / 2**i, 2).sum(),
            features[i],
            step=1.0,
        )
        np.testing.assert_allclose(np.array(gradient), expected, atol=2e-5)


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


def test_no_rois():
    for dtype in (mx.float32, mx.bfloat16):
        features, none = mx.zeros((2, 5, 6, 3), dtype=dtype), mx.zeros((0, 5))
        results = [
            roi_align(features, none, (2, 4)),
            roi_pool(features, none, (2, 4)),
            multiscale_roi_align([features, features], none, (2, 4), [0.5, 0.25]),
        ]
        for result in results:
            assert result.shape == (0, 2, 4, 3) and result.dtype == dtype


def test_batch_indices_there_are_not():
    """The nearest there is is taken: invalid rows may hold anything."""
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


def test_a_gradient_in_bounded_memory():
    features = mx.zeros((1, 100, 136, 256))  # 14 MB; what the RoIs gather is 241 MB
    rng = np.random.default_rng(5)
    first, sides = rng.uniform(0, 400, (300, 2)), rng.uniform(16, 112, (300, 2))
    rois = np.concatenate([np.zeros((300, 1)), first, first + sides], axis=1).astype(np.float32)
    mx.eval(boxes := mx.array(rois), features)
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    mx.eval(mx.grad(lambda f: mx.sum(roi_align(f, boxes, 7, 0.25, 2)))(features))
    assert mx.get_peak_memory() - before < 120e6


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
