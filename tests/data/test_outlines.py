"""Outlines of masks: drawn again they are the same pixels, holes and parts included."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mlx_rcnn.data.formats.shapes import polygon_area
from mlx_rcnn.data.outlines import mask_polygons, one_polygon
from mlx_rcnn.data.polygons import polygon_mask, segmentation_mask

masks = hnp.arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9)))


@settings(max_examples=200, deadline=None)
@given(masks)
def test_outlines_draw_the_same_pixels(mask):
    polygons, _ = mask_polygons(mask)
    if not mask.any():
        assert polygons == []
        return
    np.testing.assert_array_equal(segmentation_mask(polygons, *mask.shape), mask)
    joined = one_polygon(polygons)
    np.testing.assert_array_equal(polygon_mask(joined, *mask.shape), mask)
    # Bridges enclose nothing, and holes run the other way round.
    assert sum(map(polygon_area, polygons)) == mask.sum()


def test_parts_and_holes_are_counted():
    mask = np.zeros((9, 9), bool)
    mask[1:8, 1:8], mask[3, 3], mask[5, 5] = True, False, False
    mask[4, 4], mask[0, 0] = False, True  # holes that touch by corners are one; a pixel by itself
    polygons, holes = mask_polygons(mask)
    assert (len(polygons), holes) == (2, 1)


def test_noise_takes_no_time():
    mask = np.random.default_rng(0).random((120, 120)) < 0.7
    polygons, holes = mask_polygons(mask)
    assert holes > 300
    np.testing.assert_array_equal(segmentation_mask(polygons, *mask.shape), mask)
