"""Moving images with their targets: rectangles are drawn before and after, points by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_rcnn.data.geometry import crop, flip_horizontally, flip_vertically, pad, resize, rotate90
from rectangles import agree, drawn


@pytest.mark.parametrize("factor", [2, 3])
def test_scaling_up_by_a_whole_number_is_exact(factor):
    boxes = [(0, 0, 12, 9), (20, 10, 41, 30), (50, 35, 60, 40)]
    image, target = drawn(boxes)
    scaled, moved = resize(image, target, (40 * factor, 60 * factor))
    assert scaled.shape == (40 * factor, 60 * factor, 3)
    np.testing.assert_array_equal(moved["boxes"], target["boxes"] * factor)
    np.testing.assert_array_equal(
        moved["masks"], target["masks"].repeat(factor, axis=1).repeat(factor, axis=2)
    )
    agree(scaled, moved, 1e-6)  # to the corners' pixels, which are blended


@settings(max_examples=30, deadline=None)
@given(st.integers(25, 90), st.integers(40, 130))
def test_scaling_by_anything_agrees_within_a_pixel(height, width):
    image, target = drawn([(5, 5, 25, 20), (30, 10, 58, 38)])
    scaled, moved = resize(image, target, (height, width))
    ratio = np.array([width / 60, height / 40] * 2)
    np.testing.assert_allclose(moved["boxes"], target["boxes"] * ratio, rtol=1e-5)
    agree(scaled, moved, 1.0)


def test_crop_keeps_what_it_holds():
    image, target = drawn([(0, 0, 10, 10), (15, 5, 35, 25), (50, 30, 60, 40)])
    window, kept = crop(image, target, (8, 10), (20, 30))  # rows 8 to 27, columns 10 to 39
    assert window.shape == (20, 30, 3)
    # The first touches the window's corner only; the second, moved by -10, -8, loses three rows.
    assert kept["labels"].tolist() == [2]
    assert kept["boxes"].tolist() == [[5, 0, 25, 17]]
    assert all(len(rows) == 1 for rows in kept.values())
    agree(window, kept)
    without = {k: v for k, v in target.items() if k != "masks"}
    assert crop(image, without, (8, 10), (20, 30))[1]["boxes"].tolist() == [[5, 0, 25, 17]]
    # The window ends where the image does.
    assert crop(image, target, (30, 0), (99, 99))[0].shape == (10, 60, 3)


def test_crop_takes_what_is_left_of_a_mask():
    image, target = drawn([(0, 0, 20, 20), (20, 0, 40, 20), (0, 20, 20, 40)])
    target["masks"][0, :, :12] = 0  # what the box holds of it lies right of column 12
    target["masks"][1, :, 25:] = 0
    target["masks"][2] = 0
    target["iscrowd"][2] = 1
    _, kept = crop(image, target, (0, 0), (40, 30))
    assert kept["boxes"].tolist() == [[12, 0, 20, 20], [20, 0, 25, 20], [0, 20, 20, 40]]
    _, kept = crop(image, target, (0, 30), (40, 30))  # the second's box is there, its mask is not
    assert kept["labels"].tolist() == []
    assert kept["masks"].shape == (0, 40, 30) and kept["boxes"].shape == (0, 4)


def test_pad():
    image, target = drawn([(0, 0, 10, 10)])
    padded, kept = pad(image, target, (50, 70), (1, 2, 3))
    assert padded.shape == (50, 70, 3) and kept["masks"].shape == (1, 50, 70)
    assert (padded[40:] == (1, 2, 3)).all() and (padded[:, 60:] == (1, 2, 3)).all()
    agree(padded, kept)


def pointed(*points):
    """An image of 40 x 60 and one object with these keypoints."""
    image, target = drawn([(5, 5, 30, 30)])
    return image, {**target, "keypoints": np.array([points], np.float32)}


def test_keypoints_are_scaled_and_padded():
    image, target = pointed((10, 8, 2), (15, 6, 1), (0, 0, 0))
    scaled, moved = resize(image, target, (60, 120))  # by 1.5 down and 2 across
    assert moved["keypoints"].tolist() == [[[20, 12, 2], [30, 9, 1], [0, 0, 0]]]
    assert moved["keypoints"].dtype == np.float32
    _, padded = pad(scaled, moved, (70, 130))
    np.testing.assert_array_equal(padded["keypoints"], moved["keypoints"])
    assert resize(image, target, (40, 60))[1] is target


@pytest.mark.parametrize("masks", [True, False])
def test_keypoints_outside_a_crop_are_not_visible(masks):
    image, target = pointed((10, 8, 2), (9.5, 8, 2), (40, 28, 1), (40.5, 9, 2), (15, 9, 0))
    if not masks:
        del target["masks"]
    _, kept = crop(image, target, (8, 10), (20, 30))  # x from 10 to 40, y from 8 to 28
    # On the border is inside; what was not visible stays at 0.
    zero = [0, 0, 0]
    assert kept["keypoints"].tolist() == [[[0, 0, 2], zero, [30, 20, 1], zero, zero]]
    assert target["keypoints"][0, 1].tolist() == [9.5, 8, 2]
    # An object that is gone takes its keypoints along.
    assert crop(image, target, (32, 0), (8, 60))[1]["keypoints"].shape == (0, 5, 3)


@pytest.mark.parametrize("turns", range(4))
def test_quarter_turns_are_those_of_numpy(turns):
    image, target = drawn([(0, 0, 12, 9), (20, 10, 41, 30), (50, 35, 60, 40)])
    before = image.copy(), {key: value.copy() for key, value in target.items()}
    turned, moved = rotate90(image, target, turns)
    np.testing.assert_array_equal(turned, np.rot90(image, turns))
    agree(turned, moved)
    np.testing.assert_array_equal(moved["masks"], np.rot90(target["masks"], turns, (1, 2)))
    assert turned.flags.c_contiguous and moved["masks"].flags.c_contiguous
    np.testing.assert_array_equal(image, before[0])
    assert all((target[key] == before[1][key]).all() for key in target)
    back, found = rotate90(turned, moved, -turns % 4)
    np.testing.assert_array_equal(back, image)
    np.testing.assert_array_equal(found["boxes"], target["boxes"])


def test_points_and_proposals_turn_by_hand():
    image, target = pointed((10, 8, 2), (60, 0, 1), (5, 5, 0))  # 40 rows, 60 columns
    target["proposals"] = np.array([[1, 2, 11, 22]], np.float32)
    want = {  # (x, y) goes to (y, 60 - x), to (60 - x, 40 - y), to (40 - y, x)
        1: ([[8, 50, 2], [0, 0, 1], [0, 0, 0]], [2, 49, 22, 59]),
        2: ([[50, 32, 2], [0, 40, 1], [0, 0, 0]], [49, 18, 59, 38]),
        3: ([[32, 10, 2], [40, 60, 1], [0, 0, 0]], [18, 1, 38, 11]),
    }
    for turns, (points, proposal) in want.items():
        _, moved = rotate90(image, target, turns)
        assert moved["keypoints"].tolist() == [points]
        assert moved["proposals"].tolist() == [proposal]


def proposed(*rows):
    """An image of 40 x 60 with one object and these proposals."""
    image, target = drawn([(5, 5, 30, 30)])
    return image, {**target, "proposals": np.array(rows, np.float32).reshape(-1, 4)}


def test_proposals_are_mirrored():
    image, target = proposed((1, 2, 11, 22), (0, 0, 60, 40))
    _, moved = flip_horizontally(image, target)
    assert moved["proposals"].tolist() == [[49, 2, 59, 22], [0, 0, 60, 40]]
    _, moved = flip_vertically(image, target)
    assert moved["proposals"].tolist() == [[1, 18, 11, 38], [0, 0, 60, 40]]
    assert moved["proposals"].dtype == np.float32
    assert target["proposals"][0].tolist() == [1, 2, 11, 22]


def test_proposals_are_scaled_and_padded():
    image, target = proposed((1, 2, 11, 22))
    scaled, moved = resize(image, target, (60, 120))  # by 1.5 down and 2 across
    assert moved["proposals"].tolist() == [[2, 3, 22, 33]]
    _, padded = pad(scaled, moved, (70, 130))
    assert padded["proposals"].tolist() == [[2, 3, 22, 33]]


@pytest.mark.parametrize("masks", [True, False])
def test_proposals_are_cut_to_a_window(masks):
    rows = (0, 0, 60, 40), (12, 10, 20, 20), (0, 0, 10, 40), (0, 0, 60, 8), (39, 27, 60, 40)
    image, target = proposed(*rows)
    if not masks:
        del target["masks"]
    _, kept = crop(image, target, (8, 10), (20, 30))  # x from 10 to 40, y from 8 to 28
    # The third and the fourth end where the window begins.
    assert kept["proposals"].tolist() == [[0, 0, 30, 20], [2, 2, 10, 12], [29, 19, 30, 20]]
    # They have rows of their own: no object is left here, and two proposals are.
    _, kept = crop(image, target, (32, 0), (8, 60))
    assert len(kept["boxes"]) == 0 and len(kept["proposals"]) == 3


def test_a_sliver_of_a_proposal_that_rounding_flattens_is_dropped():
    image, target = proposed((1e-9, 0, 2e-9, 40), (1, 2, 11, 22))
    assert flip_horizontally(image, target)[1]["proposals"].tolist() == [[49, 2, 59, 22]]


@pytest.mark.parametrize("move", [flip_horizontally, flip_vertically])
def test_no_proposals_stay_none(move):
    image, target = proposed()
    for _, moved in (move(image, target), resize(image, target, (20, 30))):
        assert moved["proposals"].shape == (0, 4)
    assert crop(image, target, (0, 0), (9, 9))[1]["proposals"].shape == (0, 4)
