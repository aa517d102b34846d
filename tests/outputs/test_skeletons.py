"""Skeletons: dots and limbs where the keypoints are, and only those worth drawing."""

import types

import numpy as np
import pytest
from PIL import Image

from mlx_rcnn.config.categories import COCO_KEYPOINTS, COCO_SKELETON
from mlx_rcnn.outputs.draw import draw_detections
from mlx_rcnn.outputs.skeletons import _stroke, keypoint_arrays, limb_color, skeleton_style

GREY = 90
BOX = [10, 10, 190, 190]


def drawn(points, scores=None, size=(200, 200), box=BOX, **options):
    """A picture of one detection with these keypoints (x, y), far from its box's lines."""
    points = np.array([[(x, y, 1) for x, y in points]], np.float32)
    prediction = {
        "boxes": np.array([box], np.float32),
        "scores": np.array([0.9]),
        "labels": np.array([1]),
        "keypoints": points,
    }
    if scores is not None:
        prediction["keypoints_scores"] = np.array([scores], np.float32)
    image = np.full((size[1], size[0], 3), GREY, np.uint8)
    return np.asarray(draw_detections(image, prediction, **options))


def test_dots_and_a_limb():
    # A box of 180 gives limbs of 0.02 * 180 = 3.6, at most 2 * 1 + 1 = 3 pixels; dots of 4.5.
    points = [(40.5, 60.5), (100.5, 60.5), (40.5, 120.5)]
    picture = drawn(points, skeleton=[(0, 1)])
    for k, (x, y) in enumerate(points):
        assert tuple(picture[int(y), int(x)]) == limb_color(k, 3)
    assert tuple(picture[60, 70]) == limb_color(0, 1)  # midway
    assert (picture[57, 70] == GREY).all() and (picture[63, 70] == GREY).all()
    assert (picture[58, 70] < GREY).all()  # the rim
    assert (picture[90, 40] == GREY).all()  # not joined
    plain = drawn(points)
    assert tuple(plain[60, 40]) == limb_color(0, 3) and (plain[60, 70] == GREY).all()


def test_only_keypoints_above_the_threshold():
    points, edges = [(40.5, 60.5), (100.5, 60.5), (40.5, 120.5)], [(0, 1), (0, 2)]
    picture = drawn(points, [2.5, 1.5, 9.0], skeleton=edges)
    assert tuple(picture[60, 40]) == limb_color(0, 3)
    assert tuple(picture[120, 40]) == limb_color(2, 3)
    assert (picture[60, 100] == GREY).all() and (picture[60, 70] == GREY).all()
    assert tuple(picture[90, 40]) == limb_color(1, 2)
    all_of_them = drawn(points, [2.5, 1.5, 9.0], skeleton=edges, keypoint_thresh=1.0)
    assert tuple(all_of_them[60, 70]) == limb_color(0, 2)
    np.testing.assert_array_equal(all_of_them, drawn(points, skeleton=edges))
    # A box that scores too little takes its keypoints along; so does a visibility of 0.
    assert (drawn(points, [9, 9, 9], skeleton=edges, score_thresh=0.95) == GREY).all()


def test_keypoints_that_are_not_visible():
    points = np.array([[[40.5, 60.5, 2], [0, 0, 0]]], np.float32)
    joints = keypoint_arrays({"keypoints": points}, 1)
    assert joints.scores.tolist() == [[np.inf, -np.inf]]
    scores = np.array([[1.5, 7.0]], np.float32)
    joints = keypoint_arrays({"keypoints": points, "keypoints_scores": scores}, 1)
    assert joints.scores.tolist() == [[1.5, -np.inf]]
    assert keypoint_arrays({"boxes": []}, 0) is None


def test_an_enlarged_picture():
    picture = drawn([(5.5, 8.5)], size=(32, 32), box=[1, 1, 30, 30], scale=8)
    assert tuple(picture[8 * 8 + 4, 5 * 8 + 4]) == limb_color(0, 1)


def test_edges_are_smooth():
    picture = Image.new("RGB", (40, 40), (GREY,) * 3)
    _stroke(picture, np.array([5.0, 8.0]), np.array([35.0, 30.0]), 2.0, (255, 255, 255))
    levels = np.unique(np.asarray(picture)[..., 0])
    assert len(levels) > 12 and levels[-1] == 255


@pytest.mark.parametrize("place", [-5, 199.9, 1e9, -1e30, np.inf, np.nan])
def test_places_off_the_picture(place):
    points = [(place, place), (100.5, 100.5)]
    picture = drawn(points, skeleton=[(0, 1)])
    assert tuple(picture[100, 100]) == limb_color(1, 2)


def test_a_long_limb_is_whole():
    """Painted a few rows at a time, which must not show."""
    whole = Image.new("RGB", (60, 900), (GREY,) * 3)
    _stroke(whole, np.array([10.0, 5.0]), np.array([50.0, 890.0]), 3.0, (255, 0, 0))
    rows = np.asarray(whole)[10:880]
    assert ((rows == (255, 0, 0)).all(axis=-1).sum(axis=1) >= 4).all()


def test_a_persons_limbs():
    assert len(COCO_SKELETON) == 19
    joined = {tuple(COCO_KEYPOINTS[k] for k in edge) for edge in COCO_SKELETON}
    assert ("left_shoulder", "left_elbow") in joined and ("right_knee", "right_ankle") not in joined
    assert ("right_ankle", "right_knee") in joined


def test_style_of_a_model(small_model):
    assert skeleton_style(small_model("faster_rcnn")) == {}
    model = small_model("keypoint_rcnn")
    assert skeleton_style(model) == {"skeleton": None, "keypoint_thresh": 2.0}
    fake = types.SimpleNamespace(
        needs_keypoints=True,
        keypoint_skeleton=((0, 1),),
        config=types.SimpleNamespace(keypoint_score="probability"),
    )
    assert skeleton_style(fake) == {"skeleton": ((0, 1),), "keypoint_thresh": 0.05}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keypoints": np.zeros((1, 3))}, r"keypoints have shape \(1, 3\): expected \(1, K, 3\)"),
        ({"keypoints": np.zeros((2, 5, 3))}, r"shape \(2, 5, 3\): expected \(1, K, 3\)"),
        ({"keypoints_scores": np.zeros((1, 4))}, r"shape \(1, 4\): expected \(1, 5\)"),
    ],
)
def test_arrays_that_do_not_belong_together(change, message):
    with pytest.raises(ValueError, match=message):
        keypoint_arrays({"keypoints": np.zeros((1, 5, 3)), **change}, 1)


def test_a_skeleton_of_other_keypoints():
    with pytest.raises(ValueError, match=r"skeleton holds \(0, 2\): expected pairs of 0..1"):
        drawn([(5, 5), (9, 9)], skeleton=[(0, 1), (0, 2)])
