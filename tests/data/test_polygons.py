"""Polygons to masks, against pycocotools and by hand."""

import json

import numpy as np
import pytest

from mlx_rcnn.data.polygons import polygon_mask, segmentation_mask, usable_polygons
from mlx_rcnn.ops.rle import encode_rle
from recipe import GOLDENS


def test_rectangles_by_hand():
    # Corners on pixel edges: columns 2 to 5, rows 1 to 3.
    mask = polygon_mask([2, 1, 6, 1, 6, 4, 2, 4], 8, 10)
    expected = np.zeros((8, 10), bool)
    expected[1:4, 2:6] = True
    np.testing.assert_array_equal(mask, expected)
    # The other way round, and beyond the image: the same, cut.
    np.testing.assert_array_equal(polygon_mask([2, 4, 6, 4, 6, 1, 2, 1], 8, 10), expected)
    assert polygon_mask([-5, -5, 20, -5, 20, 20, -5, 20], 8, 10).all()


def test_equal_to_pycocotools():
    cases = json.loads((GOLDENS / "polygons.json").read_text())
    assert len(cases) == 60 and sum(len(case["polygons"]) > 1 for case in cases) >= 8
    for case in cases:
        mask = segmentation_mask(case["polygons"], *case["size"])
        assert encode_rle(mask)["counts"] == case["counts"]


def test_union_and_rle():
    parts = [[0, 0, 4, 0, 4, 4, 0, 4], [2, 2, 6, 2, 6, 6, 2, 6]]
    mask = segmentation_mask(parts, 6, 6)
    assert mask.sum() == 16 + 16 - 4  # they share 2 x 2
    np.testing.assert_array_equal(segmentation_mask(encode_rle(mask), 6, 6), mask)
    # Down the columns of 2 x 3: one zero, two ones, three zeros.
    rle = {"size": [2, 3], "counts": [1, 2, 3]}
    assert segmentation_mask(rle, 2, 3).tolist() == [[False, True, False], [True, False, False]]
    # Parts of fewer than three points are passed over.
    np.testing.assert_array_equal(segmentation_mask([*parts, [1, 1, 2, 2]], 6, 6), mask)
    assert len(usable_polygons([[1, 1, 2, 2], parts[0], [0, 0, 1, 1, float("nan"), 2]])) == 1


@pytest.mark.parametrize(
    ("segmentation", "error", "message"),
    [
        ([], ValueError, "no polygon"),
        ([[1, 2, 3, 4]], ValueError, "no polygon"),
        ({"size": [3, 2], "counts": [6]}, ValueError, "expected \\[2, 3\\]"),
        ({"size": [2, 3], "counts": [7]}, ValueError, "add up"),
        (5, TypeError, "expected polygons or RLE, got int"),
        ([["a"]], TypeError, "lists of numbers"),
    ],
)
def test_unusable(segmentation, error, message):
    with pytest.raises(error, match=message):
        segmentation_mask(segmentation, 2, 3)


@pytest.mark.parametrize("polygon", [[1, 2, 3, 4], [1, 2, 3, 4, 5, 6, 7], [0, 0, 1, np.inf, 1, 1]])
def test_bad_polygons(polygon):
    with pytest.raises(ValueError, match="polygon: "):
        polygon_mask(polygon, 4, 4)
