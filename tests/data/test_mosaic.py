"""Mosaics: coordinates by hand, rectangles seen in the pixels, and what they depend on."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_rcnn.data import Loader, Mosaic, Sample, ScaleJitterCrop, ShapesDataset
from mlx_rcnn.data.geometry import FILL
from mlx_rcnn.inputs.images import ImageError
from rectangles import agree, drawn


class Given(list):
    """A data set of these images and targets; a text is the error of one that cannot be read."""

    def __getitem__(self, index):
        found = super().__getitem__(index)
        if isinstance(found, str):
            raise ImageError(found)
        return Sample(*found, index, str(index))


class Script:
    """Random numbers that are said before."""

    def __init__(self, *values):
        self.values = list(values)

    def take(self, *_):
        return self.values.pop(0)

    random = integers = uniform = take


def pointed(boxes, size=(40, 60), crowd=()):
    """Rectangles, each with the keypoints of its corner and its middle, and as proposals."""
    image, target = drawn(boxes, size)
    b = target["boxes"]
    points = np.stack([b[:, :2], (b[:, :2] + b[:, 2:]) / 2, 0 * b[:, :2]], 1)
    seen = np.broadcast_to(np.array([[[2], [1], [0]]]), (len(b), 3, 1))
    target["keypoints"] = np.concatenate([points, seen], 2).astype(np.float32)
    target["iscrowd"] = np.array([i in crowd for i in range(len(b))], np.uint8)
    return image, {**target, "proposals": b.copy()}


def test_four_whole_images_by_hand():
    own = pointed([(10, 20, 30, 40)])
    others = Given([pointed([]), pointed([(0, 0, 20, 10), (40, 20, 60, 40)], crowd={1})])
    # Divided at (20, 30): each part is half as large as the image. Images 1, 0 and 1, all whole.
    rng = Script(0.0, 20, 30, 1.0, 0, 0, 1, 1.0, 0, 0, 0, 1.0, 0, 0, 1, 1.0, 0, 0)
    image, target = Mosaic(others)(*own, rng)
    assert not rng.values
    assert target["boxes"].tolist() == [
        [5, 10, 15, 20],  # above and left: halved
        [30, 0, 40, 5],  # above and right: halved, and moved by 30 across
        [50, 10, 60, 20],
        [30, 20, 40, 25],  # below and right: by 20 down, too; the empty image is below and left
        [50, 30, 60, 40],
    ]
    np.testing.assert_array_equal(target["proposals"], target["boxes"])
    assert target["labels"].tolist() == [1, 1, 2, 1, 2]
    assert target["iscrowd"].tolist() == [0, 0, 1, 0, 1]
    assert target["keypoints"][[0, 3]].tolist() == [
        [[5, 10, 2], [10, 15, 1], [0, 0, 0]],
        [[30, 20, 2], [35, 22.5, 1], [0, 0, 0]],
    ]
    assert image.shape == (40, 60, 3) and target["masks"].shape == (5, 40, 60)
    for (x1, y1, x2, y2), mask in zip(target["boxes"].astype(int), target["masks"], strict=True):
        assert mask[y1:y2, x1:x2].all() and mask.sum() == (y2 - y1) * (x2 - x1)
    assert {k: v.dtype for k, v in target.items()} == {k: v.dtype for k, v in own[1].items()}
    # The ground is black, also where the empty image is; red and green are where boxes are.
    assert (image[25:, :30] == 0).all() and (image[12:18, 6:14] == (255, 0, 0)).all()
    assert (image[32:38, 52:58] == (0, 255, 0)).all()


def test_cut_objects_by_hand():
    # Twice as large as what fits is its own size: parts of 20 x 30 out of 40 x 60.
    own = pointed([(0, 0, 20, 40), (28, 10, 48, 20), (29, 0, 59, 20)], crowd={2})
    rng = Script(0.0, 20, 30, 2.0, 0, 0, *([0, 2.0, 0, 0] * 3))
    for masks in (True, False):
        target = {k: v for k, v in own[1].items() if masks or k != "masks"}
        empty = {k: v[:0] for k, v in target.items()}
        script = Script(*rng.values)
        _, found = Mosaic(Given([(own[0], empty)]))(own[0], target, script)
        # The first is cut in half. Of the second 2 of 20 columns are left, just a tenth: it stays;
        # the third would go for 1 of 30, but is a crowd.
        assert found["boxes"].tolist() == [[0, 0, 20, 20], [28, 10, 30, 20], [29, 0, 30, 20]]
        # The middle of the first, on the border, is seen; that of the second is outside.
        assert found["keypoints"][:2].tolist() == [
            [[0, 0, 2], [10, 20, 1], [0, 0, 0]],
            [[28, 10, 2], [0, 0, 0], [0, 0, 0]],
        ]
        target = {**target, "iscrowd": np.zeros(3, np.uint8)}
        _, found = Mosaic(Given([(own[0], empty)]))(own[0], target, Script(*rng.values))
        assert found["labels"].tolist() == [1, 2]
        options = {"min_visible": 0.11}
        _, found = Mosaic(Given([(own[0], empty)]), **options)(own[0], target, Script(*rng.values))
        assert found["labels"].tolist() == [1]


def test_the_visible_share_is_of_the_mask():
    image, target = drawn([(20, 0, 40, 20)])
    target["masks"][0, :, 32:] = 0  # 12 of 20 columns, of which a crop of 30 columns holds 10
    crop = ScaleJitterCrop((40, 30), (2.0, 2.0), min_visible=0.8)  # fits at half its size
    assert len(crop(image, target, Script(2.0, 0, 0))[1]["boxes"]) == 1
    del target["masks"]  # 10 of 20
    assert len(crop(image, target, Script(2.0, 0, 0))[1]["boxes"]) == 0


def test_what_does_not_fit_a_part_is_filled_up():
    wide = np.full((20, 60, 3), 200, np.uint8), drawn([(0, 0, 60, 20)], (20, 60))[1]
    tall = np.full((80, 20, 3), 90, np.uint8), drawn([(0, 40, 20, 80)], (80, 20))[1]
    rng = Script(0.0, 20, 30, 1.0, 0, 0, *[v for i in (1, 0, 1) for v in (i, 1.0, 0, 0)])
    image, target = Mosaic(Given([wide, tall]))(*drawn([], (40, 60)), rng)
    # 20 x 60 into 20 x 30 is 10 x 30; 80 x 20 is 20 x 5, the lower half of which is the object.
    assert target["boxes"].tolist() == [[30, 10, 35, 20], [0, 20, 30, 30], [30, 30, 35, 40]]
    assert (image[:20, 30:35] == 90).all() and (image[:20, 35:] == FILL).all()
    assert (image[20:30, :30] == 200).all() and (image[30:, :30] == FILL).all()


class InTurn(Given):
    """Gives its images in turn, whichever is asked for."""

    def __getitem__(self, index):
        self.append(self.pop(0))
        return super().__getitem__(-1)


boxes = st.tuples(
    st.integers(0, 40), st.integers(0, 20), st.integers(8, 20), st.integers(8, 20)
).map(lambda r: (r[0], r[1], r[0] + r[2], r[1] + r[3]))


@settings(max_examples=60, deadline=None)
@given(st.lists(boxes, min_size=3, max_size=3), st.integers(0, 2**32 - 1))
def test_pixels_boxes_and_masks_agree(found, seed):
    """Each of three images has a rectangle of its own colour, the fourth none."""
    pairs = []
    for label, box in enumerate(found):
        image, target = drawn([(0, 0, 1, 1)] * label + [box])
        image[0, 0] = 0
        pairs.append((image, {k: v[label:] for k, v in target.items()}))
    own = pairs.pop(0)
    image, target = Mosaic(InTurn([*pairs, drawn([])]))(*own, np.random.default_rng(seed))
    sides = target["boxes"][:, 2:] - target["boxes"][:, :2]
    big = (sides >= 4).all(axis=1)  # slivers blend with the ground
    agree(image, {k: v[big] for k, v in target.items()}, 1.5)
    assert (target["boxes"] >= 0).all() and (target["boxes"] <= [60, 40, 60, 40]).all()


def test_how_often_and_of_what_size():
    data = ShapesDataset(5, (48, 64))
    before = {k: v.copy() for k, v in data[0].target.items()}
    sample, rng = data[0], np.random.default_rng(0)
    made = [Mosaic(data, 0.5)(sample.image, sample.target, rng) for _ in range(200)]
    assert 70 < sum(image is not sample.image for image, _ in made) < 130
    assert {image.shape for image, _ in made} == {(48, 64, 3)}
    assert all((sample.target[k] == before[k]).all() for k in before)
    line = np.zeros((1, 9, 3), np.uint8), {"boxes": np.zeros((0, 4), np.float32)}
    assert Mosaic(data)(*line, rng)[0] is line[0]  # nothing to divide


def test_one_image_and_unreadable_ones():
    image, target = drawn([(10, 10, 40, 30)])
    only = Mosaic(Given([(image, target)]), scale=(1, 1))
    assert len(only(image, target, np.random.default_rng(0))[1]["boxes"]) == 4
    some = Given(["broken", (image, target), "broken"])
    for seed in range(5):
        _, found = Mosaic(some, scale=(1, 1))(image, target, np.random.default_rng(seed))
        assert found["labels"].tolist() == [1, 1, 1, 1]
    with pytest.raises(ImageError, match="no image can be read"):
        Mosaic(Given(["broken"]))(image, target, np.random.default_rng(0))


def test_the_draw_depends_on_seed_epoch_and_image_alone():
    data = ShapesDataset(8, (32, 40), keypoints=True)

    def by_image(epoch, start=0, **options):
        loader = Loader(data, 2, augment=Mosaic(data, 0.7), **{"seed": 4, **options})
        return {
            i: (image, target)
            for batch in loader.epoch(epoch, start)
            for i, image, target in zip(batch.image_ids, batch.images, batch.targets, strict=True)
        }

    def same(a, b):
        return all(
            np.array_equal(a[i][0], b[i][0])
            and all(np.array_equal(a[i][1][k], b[i][1][k]) for k in a[i][1])
            for i in a
        )

    whole = by_image(1)
    assert len(whole) == 8
    assert same(by_image(1, workers=0), whole)
    assert same(by_image(1, start=2, workers=5), whole)
    assert same(by_image(1, rank=1, world_size=2), whole)
    assert not same(by_image(2), whole) and not same(by_image(1, seed=5), whole)
    # From an epoch on something else is done, here nothing.
    plain = by_image(1, last_augment=(1, None))
    assert all(np.array_equal(plain[i][0], data[i].image) for i in plain)
    assert same(by_image(1, last_augment=(2, None)), whole)


def test_wrong_arguments():
    for options, said in (
        ({"p": 1.5}, "p=1.5: expected a probability"),
        ({"scale": (2, 1)}, "expected 0 < smallest <= largest"),
        ({"min_visible": -1}, "min_visible=-1: expected a share from 0 to 1"),
    ):
        with pytest.raises(ValueError, match=said):
            Mosaic(Given([]), **options)
