from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_rcnn.rpn.anchors import AnchorGenerator

GOLDEN = np.load(Path(__file__).parents[1] / "goldens" / "ops_torchvision.npz")
RATIOS = (0.5, 1.0, 2.0)


def slow_anchors(sizes, ratios, map_size, strides, rounding=True, offset=0.0):
    """One level: every pixel, then every ratio, then every size; corners rounded half to even."""
    out = []
    for y in range(map_size[0]):
        for x in range(map_size[1]):
            for ratio in ratios:
                for size in sizes:
                    root = np.sqrt(np.float32(ratio))
                    w, h = np.float32(1) / root * np.float32(size), root * np.float32(size)
                    half = [round(float(v / 2)) if rounding else float(v / 2) for v in (w, h)]
                    cx, cy = (x + offset) * strides[1], (y + offset) * strides[0]
                    out.append([cx - half[0], cy - half[1], cx + half[0], cy + half[1]])
    return np.array(out)


def test_by_hand():
    # Size 32, ratio 0.5: height 32 * sqrt(0.5) = 22.63, width 45.25, of which the halves 11.31 and
    # 22.63 are rounded to 11 and 23. Ratio 2 is that turned.
    generator = AnchorGenerator((32,), RATIOS)
    assert generator.per_cell == 3
    cell = [[-23, -11, 23, 11], [-16, -16, 16, 16], [-11, -23, 11, 23]]
    assert generator.cell_anchors(0).tolist() == cell
    # A 2 x 3 map of a 16 x 48 input: strides 8 down and 16 right; the anchor varies fastest,
    # then x, then y
    (anchors,) = generator([(2, 3)], (16, 48))
    assert anchors.shape == (18, 4) and anchors.dtype == mx.float32
    assert anchors[:3].tolist() == cell
    assert anchors[4].tolist() == [0, -16, 32, 16]  # one to the right
    assert anchors[7].tolist() == [16, -16, 48, 16]
    assert anchors[10].tolist() == [-16, -8, 16, 24]  # one down
    # Half to even: sizes 5 and 7 have halves 2.5 and 3.5
    for rounding, halves in ((True, [2, 4]), (False, [2.5, 3.5])):
        cell = AnchorGenerator((5, 7), (1.0,), rounding=rounding).cell_anchors(0)
        assert cell[:, 2].tolist() == halves


def test_ratios_vary_slower_than_sizes():
    # Unrounded, ratio 4 and size 10: height 20, width 5; ratio 1: 10 and 10
    cell = AnchorGenerator((10, 20), (4.0, 1.0), rounding=False).cell_anchors(0)
    sides = (cell[:, 2:] - cell[:, :2]).tolist()
    assert sides == [[5, 20], [10, 40], [10, 10], [20, 20]]


def test_offset_and_stride():
    # Not rounded, and starting half a stride in
    generator = AnchorGenerator((8,), (1.0,), stride=4, rounding=False, offset=0.5)
    (anchors,) = generator([(2, 2)], (999, 999))  # the input's size plays no role
    assert anchors.tolist() == [[-2, -2, 6, 6], [2, -2, 10, 6], [-2, 2, 6, 10], [2, 2, 10, 10]]
    generator = AnchorGenerator((8,), (1.0,), stride=(4, 16))
    levels = generator([(1, 2), (2, 1)], (999, 999))
    assert levels[0][:, 0].tolist() == [-4, 0] and levels[1][:, 1].tolist() == [-4, 12]
    # Inferred: rounded down, for each axis: 33 // 2 = 16 down, 50 // 3 = 16 right
    (anchors,) = AnchorGenerator((8,), (1.0,))([(2, 3)], (33, 50))
    assert anchors[5].tolist() == [28, 12, 36, 20]


def test_default_sizes():
    single = AnchorGenerator(None, RATIOS)
    assert single.per_cell == 9 and single.level_sizes(0) == (128, 256, 512)
    pyramid = AnchorGenerator(None, RATIOS, pyramid=True)
    assert pyramid.per_cell == 3
    assert [pyramid.level_sizes(i) for i in range(5)] == [(32,), (64,), (128,), (256,), (512,)]
    levels = pyramid([(4, 4), (2, 2), (1, 1)], (16, 16))
    assert [v.shape for v in levels] == [(48, 4), (12, 4), (3, 4)]
    for level, size in enumerate((32, 64, 128)):
        square = levels[level][1]
        assert (square[2] - square[0]).item() == size


def test_flat_sizes_are_on_every_level():
    for pyramid in (False, True):
        generator = AnchorGenerator((128, 256, 512), RATIOS, pyramid)
        assert generator.per_cell == 9
        first, second = generator([(2, 2), (1, 1)], (64, 64))
        np.testing.assert_array_equal(np.array(second), np.array(first[:9]))


def test_nested_sizes_are_one_entry_a_level():
    generator = AnchorGenerator(((16, 24), [32, 48]), (1.0,))
    assert generator.per_cell == 2
    first, second = generator([(1, 1), (1, 1)], (8, 8))
    assert (first[:, 2] * 2).tolist() == [16, 24] and (second[:, 2] * 2).tolist() == [32, 48]
    assert AnchorGenerator(((16,), 32), (1.0,)).level_sizes(1) == (32,)


def test_errors():
    with pytest.raises(ValueError, match="anchor_sizes=.*as many sizes on every level"):
        AnchorGenerator(((16, 24), (32,)), RATIOS)
    generator = AnchorGenerator(((16,), (32,)), RATIOS)
    for maps in ([(2, 2)], [(4, 4), (2, 2), (1, 1)]):
        with pytest.raises(ValueError, match=rf"anchor_sizes=.*each of the {len(maps)} maps"):
            generator(maps, (16, 16))
    generator = AnchorGenerator((16,), RATIOS, stride=(4, 8))
    with pytest.raises(ValueError, match=r"anchor_stride=\(4, 8\): .*each of the 1 maps"):
        generator([(2, 2)], (16, 16))


@pytest.mark.parametrize(
    ("name", "sizes", "ratios", "maps", "image"),
    [
        ("single", (128, 256, 512), RATIOS, [(3, 2)], (48, 33)),
        ("pyramid", ((32,), (64,)), RATIOS, [(4, 5), (2, 3)], (50, 83)),
        ("odd", ((7, 10.5), (30, 33)), (0.4, 3.0), [(2, 2), (1, 2)], (16, 21)),
    ],
)
def test_torchvision(name, sizes, ratios, maps, image):
    for level, anchors in enumerate(AnchorGenerator(sizes, ratios)(maps, image)):
        np.testing.assert_array_equal(np.array(anchors), GOLDEN[f"anchors_{name}_{level}"])


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(1, 600), min_size=1, max_size=3),
    st.lists(st.sampled_from([0.25, 0.5, 1.0, 1.3, 2.0, 3.0]), min_size=1, max_size=3),
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
    st.tuples(st.integers(4, 90), st.integers(4, 90)),
    st.booleans(),
    st.sampled_from([0.0, 0.5]),
    st.sampled_from([None, 8]),
)
def test_oracle(sizes, ratios, map_size, image, rounding, offset, stride):
    generator = AnchorGenerator(sizes, ratios, False, stride, rounding, offset)
    assert generator.per_cell == len(sizes) * len(ratios)
    (anchors,) = generator([map_size], image)
    inferred = image[0] // map_size[0], image[1] // map_size[1]
    strides = inferred if stride is None else (stride, stride)
    expected = slow_anchors(sizes, ratios, map_size, strides, rounding, offset)
    np.testing.assert_allclose(np.array(anchors), expected, rtol=1e-6, atol=0 if rounding else 1e-4)
