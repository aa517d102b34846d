"""Augmentation: rectangles are drawn before and after, and must agree with boxes and masks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_rcnn.data import (
    ColourJitter,
    Compose,
    HorizontalFlip,
    RandomRotate90,
    RandomShortSide,
    ScaleJitterCrop,
    ShapesDataset,
    VerticalFlip,
)
from rectangles import agree, drawn

NAMES = ("nose", "left_eye", "right_eye")

rectangles = st.tuples(
    st.integers(0, 50), st.integers(0, 30), st.integers(1, 10), st.integers(1, 10)
).map(lambda r: (r[0], r[1], r[0] + r[2], r[1] + r[3]))


@settings(max_examples=40, deadline=None)
@given(rectangles, st.booleans(), st.booleans())
def test_flips(box, sideways, upside_down):
    image, target = drawn([box])
    before = image.copy(), {k: v.copy() for k, v in target.items()}
    steps = Compose([HorizontalFlip(float(sideways)), VerticalFlip(float(upside_down))])
    flipped, moved = steps(image, target, np.random.default_rng(0))
    agree(flipped, moved)
    x1, y1, x2, y2 = box
    if sideways:
        x1, x2 = 60 - x2, 60 - x1
    if upside_down:
        y1, y2 = 40 - y2, 40 - y1
    assert moved["boxes"].tolist() == [[x1, y1, x2, y2]]
    # Nothing given is changed, and twice is the same as never.
    np.testing.assert_array_equal(image, before[0])
    assert all((target[k] == before[1][k]).all() for k in target)
    again, back = steps(flipped, moved, np.random.default_rng(0))
    np.testing.assert_array_equal(again, image)
    np.testing.assert_array_equal(back["boxes"], target["boxes"])


def test_flips_happen_half_of_the_time():
    rng = np.random.default_rng(0)
    image, target = drawn([(0, 0, 10, 10)])
    counts = [HorizontalFlip()(image, target, rng)[0] is not image for _ in range(400)]
    assert 160 < sum(counts) < 240  # four deviations of 10 around 200


def test_quarter_turns_are_as_often_as_asked_and_equally_likely():
    rng = np.random.default_rng(0)
    image, target = drawn([(0, 0, 10, 10)])
    corners = []
    for _ in range(400):
        turned, moved = RandomRotate90()(image, target, rng)
        agree(turned, moved)
        corners.append((*turned.shape[:2], *moved["boxes"][0, :2]))
    shares = {corner: corners.count(corner) for corner in corners}
    # As it was, and by 90, 180 and 270 degrees, each in a quarter: 100 give or take four of 8.7.
    assert set(shares) == {(40, 60, 0, 0), (60, 40, 0, 50), (40, 60, 50, 30), (60, 40, 30, 0)}
    assert all(65 < count < 135 for count in shares.values())
    assert all(RandomRotate90(0.0)(image, target, rng)[0] is image for _ in range(20))


def test_short_sides():
    image, target = drawn([(5, 5, 25, 20)])
    step, rng, sizes = RandomShortSide((20, 80), 140), np.random.default_rng(0), set()
    for _ in range(30):
        scaled, moved = step(image, target, rng)
        sizes.add(scaled.shape[:2])
        agree(scaled, moved, 1.0)
    # 40 x 60 to a short side of 20: 20 x 30. To 80: 80 x 120, within 140.
    assert sizes == {(20, 30), (80, 120)}
    # To 80, but the long side at most 90: 60 x 90.
    assert RandomShortSide((80,), 90)(image, target, rng)[0].shape == (60, 90, 3)


def test_scale_jitter_follows_and_fills():
    image, target = drawn([(0, 0, 20, 20), (25, 10, 38, 30), (40, 0, 60, 40)])
    step, rng = ScaleJitterCrop((60, 60), (0.3, 3.0), fill=(9, 9, 9)), np.random.default_rng(1)
    kept, filled = [], 0
    for _ in range(60):
        out, moved = step(image, target, rng)
        assert out.shape == (60, 60, 3)
        filled += (out[-1] == 9).all()
        boxes = moved["boxes"]
        assert (boxes >= 0).all() and (boxes <= 60).all()
        assert ((boxes[:, 2:] - boxes[:, :2]) > 0).all()
        big = ((boxes[:, 2:] - boxes[:, :2]) >= 4).all(axis=1)  # slivers blend with the ground
        agree(out, {k: v[big] for k, v in moved.items()}, 1.5)
        kept.append(len(boxes))
    assert set(kept) >= {1, 2, 3} and 10 < filled < 60


def test_proposals_move_as_the_objects_do():
    """Those that are the objects stay the objects, whatever is done; others are not dropped."""
    image, target = drawn([(0, 0, 20, 20), (25, 10, 38, 30), (40, 0, 60, 40)])
    del target["masks"]  # boxes would become those of the pixels left
    target["proposals"] = np.concatenate([target["boxes"], [[0, 0, 60, 40]]]).astype(np.float32)
    steps = Compose(
        [
            HorizontalFlip(),
            VerticalFlip(),
            RandomShortSide((30, 50)),
            ScaleJitterCrop((60, 60), (0.3, 3.0)),
            ColourJitter(),
        ]
    )
    rng, fewer = np.random.default_rng(3), 0
    for _ in range(40):
        _, moved = steps(image, target, rng)
        np.testing.assert_array_equal(moved["proposals"][:-1], moved["boxes"])
        assert moved["proposals"].dtype == np.float32
        fewer += len(moved["boxes"]) < 3
    assert fewer > 5


def test_same_state_same_result():
    image, target, *_ = ShapesDataset(1)[0]
    steps = Compose([HorizontalFlip(), ScaleJitterCrop((96, 96)), ColourJitter()])
    one, two = (steps(image, target, np.random.default_rng(7)) for _ in range(2))
    np.testing.assert_array_equal(one[0], two[0])
    for key in target:
        np.testing.assert_array_equal(one[1][key], two[1][key])


def with_points(*points):
    """An image and a target of one object with these keypoints."""
    image, target = drawn([(5, 5, 30, 30)])
    del target["masks"]
    return image, {**target, "keypoints": np.array([points], np.float32)}


def test_a_mirror_swaps_left_and_right():
    image, target = with_points((10, 8, 2), (14, 6, 1), (0, 0, 0))
    flip = HorizontalFlip(1.0, NAMES)
    flipped, moved = flip(image, target, np.random.default_rng(0))
    # 60 - 10 = 50, 60 - 14 = 46. What was the left eye is a right one; where the right eye was not
    # known, the left one is not now, and stays at 0.
    assert moved["keypoints"].tolist() == [[[50, 8, 2], [0, 0, 0], [46, 6, 1]]]
    assert moved["keypoints"].dtype == np.float32
    assert target["keypoints"][0, 0].tolist() == [10, 8, 2]
    _, back = flip(flipped, moved, np.random.default_rng(0))
    np.testing.assert_array_equal(back["keypoints"], target["keypoints"])
    _, upside_down = VerticalFlip(1.0)(image, target, np.random.default_rng(0))
    assert upside_down["keypoints"].tolist() == [[[10, 32, 2], [14, 34, 1], [0, 0, 0]]]
    # Without sides nothing is swapped; without a word on sides nothing is mirrored.
    _, plain = HorizontalFlip(1.0, ())(image, target, np.random.default_rng(0))
    assert plain["keypoints"].tolist() == [[[50, 8, 2], [46, 6, 1], [0, 0, 0]]]
    with pytest.raises(ValueError, match="expected keypoint_names"):
        HorizontalFlip(1.0)(image, target, np.random.default_rng(0))


def test_shapes_in_a_mirror_are_shapes():
    """Every keypoint is where the mirrored mask says: a shape's left is its leftmost, and so on."""
    data = ShapesDataset(12, (64, 80), max_objects=1, keypoints=True)
    steps = Compose([HorizontalFlip(1.0, data.keypoint_names)])
    for i in range(len(data)):
        for image, target in (data[i][:2], steps(*data[i][:2], np.random.default_rng(0))):
            (x1, y1, x2, y2), centre = target["boxes"][0], target["keypoints"][0, 0]
            _, left, right, top, bottom = target["keypoints"][0]
            assert max(abs(left[0] - x1), abs(right[0] - x2)) <= 1
            assert max(abs(top[1] - y1), abs(bottom[1] - y2)) <= 1.5  # an apex may miss its pixel
            assert (image[int(centre[1]), int(centre[0])] != image[0, 0]).any()


def test_scale_jitter_keeps_keypoints_on_their_pixels():
    image = np.zeros((40, 60, 3), np.uint8)
    rng = np.random.default_rng(2)
    places = np.stack([rng.permutation(60)[:8], rng.permutation(40)[:8]], 1)
    points = np.append(places + 0.5, np.full((8, 1), 2), 1).astype(np.float32)
    for k, (x, y) in enumerate(places):
        image[y, x] = 100 + 10 * k
    _, target = with_points(*points)
    target["boxes"][:] = 0, 0, 60, 40
    # By 1.25 to fit, and 2.4: by 3 in all, where the middle one of nine pixels is that before, at
    # 3 x + 1.5. The crop holds it or not.
    step, held = ScaleJitterCrop((50, 75), (2.4, 2.4), fill=(0, 0, 0)), []
    for _ in range(20):
        out, moved = step(image, target, rng)
        for k, (x, y, visible) in enumerate(moved["keypoints"][0]):
            peak = np.argwhere(out[..., 0] == 100 + 10 * k)
            if visible:
                assert [y - 0.5, x - 0.5] in peak.tolist()
            else:
                assert (x, y) == (0, 0)
            held.append(bool(visible))
    assert 20 < sum(held) < 140


def test_colours_change_and_nothing_else():
    image, target, *_ = ShapesDataset(1)[0]
    before = image.copy()
    means = []
    for seed in range(30):
        out, same = ColourJitter()(image, target, np.random.default_rng(seed))
        assert same is target and out.shape == image.shape and out.dtype == np.uint8
        means.append(out.mean())
    np.testing.assert_array_equal(image, before)
    assert np.std(means) > 1
    out, _ = ColourJitter(0, 0, 0, 0)(image, target, np.random.default_rng(0))
    assert np.abs(out.astype(int) - image).max() == 0


def test_saturation_by_hand():
    # Grey of (140, 120, 100): 0.299 * 140 + 0.587 * 120 + 0.114 * 100 = 123.7. What is left of each
    # channel's distance from it is the factor, to the rounding of 0.5 grey levels in 3.7 to 23.7.
    image = np.full((2, 2, 3), (140, 120, 100), np.uint8)
    factors = []
    for seed in range(20):
        out, _ = ColourJitter(0, 0, 1.0, 0)(image, {}, np.random.default_rng(seed))
        factor = (out[0, 0] - 123.7) / (np.array([140, 120, 100]) - 123.7)
        assert abs(factor[0] - factor[2]) < 0.06 and abs(factor[1] - factor[2]) < 0.17
        factors.append(factor[2])
    assert 0 <= min(factors) < 0.5 and 1.5 < max(factors) <= 2.03


@pytest.mark.parametrize(
    "make",
    [
        lambda: HorizontalFlip(1.5),
        lambda: VerticalFlip(-0.1),
        lambda: RandomShortSide(()),
        lambda: RandomShortSide((0,)),
        lambda: ScaleJitterCrop((0, 5)),
        lambda: ScaleJitterCrop((5, 5), (2, 1)),
        lambda: ColourJitter(hue=0.6),
        lambda: ColourJitter(contrast=-1),
    ],
)
def test_settings_that_cannot_work(make):
    with pytest.raises(ValueError, match="expected"):
        make()
