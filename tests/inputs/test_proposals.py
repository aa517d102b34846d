"""Proposals given by users: what is accepted, and one message for what is not."""

import mlx.core as mx
import numpy as np
import pytest

from annotated import make_voc, save_image, save_xml, voc_object
from mlx_rcnn.data import check_proposals, image_names, open_dataset

SIZES = [(40, 60), (30, 20)]  # (height, width)
GOOD = [[0, 0, 10, 20]]


def test_what_is_sound_comes_back_as_float32():
    given = [np.array([[1, 2, 30, 40], [0.5, 0, 60, 39.5]]), [[0, 0, 20, 30]]]
    first, second = check_proposals(given, SIZES)
    assert first.dtype == second.dtype == np.float32
    assert first.tolist() == [[1, 2, 30, 40], [0.5, 0, 60, 39.5]]
    assert second.tolist() == [[0, 0, 20, 30]]
    of_mlx = check_proposals([mx.array(GOOD), mx.array(GOOD)], np.array(SIZES))
    assert [rows.tolist() for rows in of_mlx] == [GOOD, GOOD]
    # One array of all images, where they have as many.
    assert len(check_proposals(np.array([GOOD, GOOD]), SIZES)) == 2


def test_what_is_given_is_not_changed():
    given = np.array([[-5, 2, 70, 45]], np.float32)
    (cut,) = check_proposals([given], SIZES[:1])
    assert cut.tolist() == [[0, 2, 60, 40]] and given.tolist() == [[-5, 2, 70, 45]]
    assert not np.shares_memory(check_proposals([np.float32(GOOD)], SIZES[:1])[0], given)


@pytest.mark.parametrize("nothing", [[], (), np.zeros((0, 4)), np.zeros((0, 4), np.int32)])
def test_an_image_may_have_no_proposals(nothing):
    first, second = check_proposals([nothing, GOOD], SIZES)
    assert first.shape == (0, 4) and first.dtype == np.float32 and len(second) == 1
    assert check_proposals([], np.zeros((0, 2))) == []


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([[1, 2, 3]], r"image 1: got shape \(1, 3\), expected \(P, 4\)"),
        ([1, 2, 3, 4], r"image 1: got shape \(4,\)"),
        ([[[1, 2, 3, 4]]], r"image 1: got shape \(1, 1, 4\)"),
        (np.zeros((0, 5)), r"image 1: got shape \(0, 5\)"),
        ([[1, 2, 3, 4], [1, 2]], "image 1: got list"),
        (None, r"image 1: got None, .*\(0, 4\) where there are none"),
        ([["1", "2", "3", "4"]], "image 1: got an array of <U1"),
        (np.ones((1, 4), bool), "image 1: got an array of bool"),
        ([[1, 2, 3, 4j]], "image 1: got an array of complex"),
        ([[0, 0, 5, 5], [0, np.nan, 5, 5]], r"image 1, row 1: box \(0, nan, 5, 5\) is not finite"),
        ([[0, 0, 5, 1e39]], r"image 1, row 0: box \(0, 0, 5, inf\) is not finite"),
        ([[0, 0, 5, 5], [10, 12, 5, 20]], r"row 1: box \(10, 12, 5, 20\): these look like x, y, w"),
        ([[0, 12, 5, 10]], "these look like x, y, width, height: expected x1, y1, x2, y2$"),
        ([[3, 4, 3, 9]], r"row 0: box \(3, 4, 3, 9\) has no area.*padding"),
        ([[0, 0, 0, 0]], "has no area"),
        ([[0, 0, 5, 5], [20, 5, 25, 9]], r"row 1: box .* lies outside the image of 20x30"),
        ([[-9, 5, 0, 9]], "lies outside the image"),
        ([[3, 30, 9, 35]], "lies outside the image"),
        # Nothing of it is left in float32.
        ([[3, -5, 9, -1e-9]], "lies outside the image"),
    ],
)
def test_what_is_wrong_is_named(value, message):
    with pytest.raises(ValueError, match=message):
        check_proposals([GOOD, value], SIZES)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([GOOD], "proposals of 1 images for 2 images"),
        ([GOOD] * 3, "proposals of 3 images for 2 images"),
        (np.array(GOOD), r"got one array of shape \(1, 4\), expected a list"),
        (np.zeros((2, 4)), "got one array"),  # not a box for each image
        (mx.array(GOOD), "got one array"),
        (None, "got NoneType, expected a list"),
        ({"a": GOOD, "b": GOOD}, "got dict, expected a list"),
        ("proposals.npz", "got str, expected a list"),
    ],
)
def test_one_array_an_image(value, message):
    with pytest.raises(ValueError, match=message):
        check_proposals(value, SIZES)


def test_names_stand_in_messages():
    with pytest.raises(ValueError, match=r"^proposals of b\.jpg, row 0: box"):
        check_proposals([GOOD, [[9, 9, 1, 1]]], SIZES, ["a.jpg", "b.jpg"])


def test_image_names(tmp_path):
    make_voc(tmp_path / "one", ("a", "b"))
    assert image_names(open_dataset(tmp_path)) == ["a.jpg", "b.jpg"]
    make_voc(tmp_path / "two", ("a",))
    save_image(tmp_path / "c.jpg")
    save_xml(tmp_path / "c.xml", voc_object("cat"))
    data = open_dataset(tmp_path, format="voc")
    assert sorted(image_names(data)) == [
        "b.jpg",
        "c.jpg",
        "one/JPEGImages/a.jpg",
        "two/JPEGImages/a.jpg",
    ]
