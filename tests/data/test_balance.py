"""Repeat factors: by hand, and each epoch's draw of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_rcnn.data import Loader, Sample, repeat_factors
from mlx_rcnn.data.balance import draw_repeats, epoch_images


class Labels:
    """Images of given labels, those of crowds below 0."""

    class_names = ("__background__", "common", "rare", "once")

    def __init__(self, *labels):
        self.labels, self.sizes = labels, np.full((len(labels), 2), 10)

    def __len__(self):
        return len(self.labels)

    def target(self, index):
        labels = np.array(self.labels[index], np.int32).reshape(-1)
        return {
            "boxes": np.zeros((len(labels), 4), np.float32),
            "labels": abs(labels),
            "iscrowd": (labels < 0).astype(np.int32),
        }

    def __getitem__(self, index):
        return Sample(np.full((2, 2, 3), index, np.uint8), self.target(index), index, str(index))


# Of 8 images "common" is in 7, "rare" in 2 (and a crowd), "once" in 1.
DATA = Labels([1, 1], [1], [1, 2], [1], [1, 2, 3], [1], [], [1, -2])


def test_factors_by_hand():
    # thresh 0.5: common 7/8 and rare 2/8 have sqrt(0.5 / 0.25), once sqrt(0.5 / 0.125) = 2.
    want = [1, 1, math.sqrt(2), 1, 2, 1, 1, 1]
    np.testing.assert_allclose(repeat_factors(DATA, 0.5), want)
    np.testing.assert_allclose(repeat_factors(DATA, 0.125), np.ones(8))
    # 1: common sqrt(8 / 7), rare 2, once sqrt(8); the picture without objects stays at 1.
    c = math.sqrt(8 / 7)
    np.testing.assert_allclose(repeat_factors(DATA, 1), [c, c, 2, c, math.sqrt(8), c, 1, c])
    assert repeat_factors(Labels([], []), 0.5).tolist() == [1, 1]


def test_a_dataset_without_target_is_read():
    class Indexed:
        def __len__(self):
            return len(DATA)

        def __getitem__(self, index):
            return DATA[index]

    np.testing.assert_array_equal(repeat_factors(Indexed(), 0.5), repeat_factors(DATA, 0.5))


@given(st.lists(st.floats(1, 30), min_size=1, max_size=40), st.integers(0, 2**32))
def test_each_image_comes_up_its_factor_rounded_either_way(factors, seed):
    factors = np.array(factors)
    drawn = draw_repeats(factors, np.random.default_rng(seed))
    assert len(drawn) == epoch_images(factors) == math.floor(factors.sum() + 1e-6)
    counts = np.bincount(drawn, minlength=len(factors))
    assert len(counts) == len(factors)
    scaled = factors * len(drawn) / factors.sum()
    assert (counts >= np.floor(scaled - 1e-6)).all()
    assert (counts <= np.ceil(scaled + 1e-6)).all()


def test_over_many_epochs_the_mean_is_the_factor():
    factors = np.array([1, 1.25, 2.5, 1, 1.25])  # 7 in all
    rng = np.random.default_rng(0)
    counts = sum(np.bincount(draw_repeats(factors, rng), minlength=5) for _ in range(2000)) / 2000
    np.testing.assert_allclose(counts, factors, atol=0.05)  # four deviations of a coin's mean


def test_an_epoch_of_the_loader():
    factors = repeat_factors(DATA, 1)  # 5 x 1.069 + 2 + 2.828 + 1 = 11.17
    seen = []
    augment = lambda image, target, rng: (seen.append(rng.random()) or image, target)  # noqa: E731
    loader = Loader(DATA, 1, repeats=factors, augment=augment, workers=0)
    assert len(loader) == 11
    ids = [batch.image_ids[0] for batch in loader.epoch(0)]
    assert ids == [index for [index] in loader.order(0)]
    assert set(ids) >= {2, 4} and ids.count(4) in (2, 3)
    assert len(set(seen)) == 11, "an image that comes again is augmented anew"
    again = [batch.image_ids[0] for batch in loader.epoch(0, start=4)]
    assert again == ids[4:] and seen[11:] == seen[4:11], "resumed in its middle"
    # Two machines take what one of twice the batch takes.
    one = Loader(DATA, 4, repeats=factors).order(3)
    two = [Loader(DATA, 2, repeats=factors, rank=r, world_size=2).order(3) for r in (0, 1)]
    assert one == [a + b for a, b in zip(*two, strict=True)]


def test_factors_of_one_are_as_without():
    ones, none = Loader(DATA, 2, repeats=np.ones(8)), Loader(DATA, 2)
    assert len(ones) == len(none) == 4
    assert sorted(i for b in ones.order(5) for i in b) == sorted(
        i for b in none.order(5) for i in b
    )


@pytest.mark.parametrize("repeats", [np.ones(7), np.full(8, 0.5), np.full(8, np.nan)])
def test_refused(repeats):
    with pytest.raises(ValueError, match=r"expected \(8,\), each at least 1"):
        Loader(DATA, 2, repeats=repeats)
    with pytest.raises(ValueError, match="shuffle=True"):
        Loader(DATA, 2, repeats=np.ones(8), shuffle=False)
