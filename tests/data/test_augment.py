"""Augmentation: rectangles are drawn before and after, and must agree with boxes and masks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_rcnn.data import (
    ColourJitter,
    Compose,
    HorizontalFlip,
    RandomShortSide,
    ScaleJitterCrop,
    ShapesDataset,
    VerticalFlip,
)
from mlx_rcnn.data.augment import crop, pad, resize

COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255))


def drawn(boxes, size=(40, 60)):
    """An image with a rectangle of its own colour for each box, and the target."""
    image = np.zeros((*size, 3), np.uint8)
    masks = np.zeros((len(boxes), *size), np.uint8)
    for (x1, y1, x2, y2), colour, mask in zip(boxes, COLOURS, masks, strict=False):
        image[y1:y2, x1:x2] = colour
        mask[y1:y2, x1:x2] = 1
    target = {
        "boxes": np.array(boxes, np.float32).reshape(-1, 4),
        "labels": np.arange(1, len(boxes) + 1, dtype=np.int32),
        "iscrowd": np.zeros(len(boxes), np.uint8),
        "masks": masks,
    }
    return image, target


def seen(image, label):
    """Where the rectangle of a label is in an image, as a mask and a tight box."""
    channel = image[..., label - 1].astype(int)
    mask = (channel >= 128) & (channel > image.sum(axis=-1) - channel)
    ys, xs = np.nonzero(mask)
    return mask, [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


def agree(image, target, tolerance=0.0):
    """Boxes, masks and pixels show the same."""
    for box, label, mask in zip(target["boxes"], target["labels"], target["masks"], strict=True):
        shown, tight = seen(image, label)
        assert np.abs(box - tight).max() <= tolerance
        if tolerance == 0:
            np.testing.assert_array_equal(mask.astype(bool), shown)
        else:
            _, around = seen(mask[..., None] * np.array(COLOURS[label - 1], np.uint8), label)
            assert np.abs(np.subtract(around, tight)).max() <= tolerance


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


def test_same_state_same_result():
    image, target, *_ = ShapesDataset(1)[0]
    steps = Compose([HorizontalFlip(), ScaleJitterCrop((96, 96)), ColourJitter()])
    one, two = (steps(image, target, np.random.default_rng(7)) for _ in range(2))
    np.testing.assert_array_equal(one[0], two[0])
    for key in target:
        np.testing.assert_array_equal(one[1][key], two[1][key])


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
