"""The loader: its order, its threads, and what it does when something fails."""

import threading
import time
from collections import Counter

import numpy as np
import pytest

from mlx_rcnn.data import HorizontalFlip, Loader, Sample, ShapesDataset


class Numbers:
    """Sample i is an image that holds i; sizes as given."""

    class_names = ("__background__", "a")

    def __init__(self, sizes, delay=0.0):
        self.sizes, self.delay, self.threads = np.array(sizes), delay, set()

    def __len__(self):
        return len(self.sizes)

    def __getitem__(self, i):
        time.sleep(self.delay)
        self.threads.add(threading.current_thread().name)
        image = np.full((4, 4, 3), i, np.uint8)
        target = {"boxes": np.zeros((0, 4), np.float32), "labels": np.zeros(0, np.int32)}
        return Sample(image, target, i, f"number {i}")


SQUARE, WIDE, TALL = (100, 100), (100, 150), (150, 100)


def ids(loader, epoch, start=0):
    return [batch.image_ids for batch in loader.epoch(epoch, start)]


def test_batches_are_what_the_dataset_gives():
    data = Numbers([SQUARE] * 10)
    loader = Loader(data, 3)
    batches = list(loader.epoch(0))
    assert len(loader) == len(batches) == 3
    for batch in batches:
        assert [image[0, 0, 0] for image in batch.images] == batch.image_ids
        assert batch.names == [f"number {i}" for i in batch.image_ids]
        assert [set(target) for target in batch.targets] == [{"boxes", "labels"}] * 3
    seen = [i for batch in batches for i in batch.image_ids]
    assert len(set(seen)) == 9
    assert all(name.startswith("mlx_rcnn-loader") for name in data.threads)


def test_order_depends_on_seed_and_epoch_alone():
    data = Numbers([SQUARE, WIDE, TALL] * 8)
    first = ids(Loader(data, 4, seed=5), 3)
    for options in ({"workers": 0}, {"workers": 7}, {"prefetch": 1}, {"prefetch": 50}):
        loader = Loader(data, 4, seed=5, **options)
        list(loader.epoch(1))  # whatever was done before
        assert ids(loader, 3) == first
    assert ids(Loader(data, 4, seed=5), 4) != first
    assert ids(Loader(data, 4, seed=6), 3) != first
    assert Loader(data, 4, seed=5).order(3) == first


def test_resuming_in_the_middle():
    data = ShapesDataset(10, (32, 32))
    loader = Loader(data, 2, augment=HorizontalFlip())
    whole = list(loader.epoch(2))
    for start in (0, 3, 5):
        rest = list(Loader(data, 2, augment=HorizontalFlip()).epoch(2, start))
        assert [b.image_ids for b in rest] == [b.image_ids for b in whole[start:]]
        for got, want in zip(rest, whole[start:], strict=True):
            for a, b in zip(got.images, want.images, strict=True):
                np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match="start=6: expected 0 to 5"):
        next(loader.epoch(2, 6))


def test_augmentation_differs_by_epoch_and_image():
    loader = Loader(ShapesDataset(16, (32, 32)), 4, augment=HorizontalFlip())

    def flipped(epoch):
        found = {}
        for batch in loader.epoch(epoch):
            for i, image in zip(batch.image_ids, batch.images, strict=True):
                found[i] = bool((image != loader.dataset[i].image).any())
        return found

    first, second = flipped(0), flipped(1)
    assert 3 <= sum(first.values()) <= 13 and first != second
    assert flipped(0) == first


def test_batches_are_grouped_by_aspect_ratio():
    sizes = ([WIDE] * 3 + [TALL]) * 10  # 30 wide, 10 tall
    groups = [{sizes[i] for i in batch} for batch in Loader(Numbers(sizes), 4).order(0)]
    # 30 is 7 fours and 2, 10 is 2 fours and 2: what is left over makes one mixed batch.
    assert Counter(len(group) for group in groups) == {1: 9, 2: 1}
    assert len(groups) == 10
    kinds = [next(iter(group)) for group in groups[:9]]
    assert kinds != sorted(kinds) and kinds != sorted(kinds, reverse=True)


def test_every_image_comes_up_once():
    sizes = [SQUARE, WIDE, TALL, (100, 70), (70, 100), (10, 99)] * 4
    order = Loader(Numbers(sizes), 6).order(1)
    assert sorted(i for batch in order for i in batch) == list(range(24))
    # Of 26 images in sixes two are left out, others each epoch.
    loader = Loader(Numbers([*sizes, SQUARE, WIDE]), 6)
    seen = Counter(i for epoch in range(40) for batch in loader.order(epoch) for i in batch)
    assert len(seen) == 26 and min(seen.values()) > 20
    last = Loader(Numbers([*sizes, SQUARE, WIDE]), 6, drop_last=False)
    assert len(last) == 5 and [len(batch) for batch in last.order(0)] == [6, 6, 6, 6, 2]


def test_without_shuffling():
    loader = Loader(Numbers([WIDE, TALL] * 3), 4, shuffle=False, drop_last=False)
    assert ids(loader, 0) == ids(loader, 5) == [[0, 1, 2, 3], [4, 5]]


@pytest.mark.parametrize("drop_last", [True, False])
def test_machines_share_the_steps_of_one(drop_last):
    data = Numbers([WIDE, TALL, SQUARE] * 7)
    one = Loader(data, 4, seed=2, drop_last=drop_last)
    two = [Loader(data, 2, seed=2, rank=r, world_size=2, drop_last=drop_last) for r in range(2)]
    for epoch in range(3):
        joined = [a + b for a, b in zip(*(loader.order(epoch) for loader in two), strict=True)]
        whole = one.order(epoch)
        assert len(joined) == len(whole) == len(two[0])
        if not drop_last:  # 21 images: the last step is filled from the first
            assert joined.pop() == [*whole.pop(), *whole[0][:3]]
        assert joined == whole


def test_threads_load_ahead():
    data = Numbers([SQUARE] * 12, delay=0.02)
    loader = Loader(data, 2, workers=4)
    batches = loader.epoch(0)
    next(batches)
    time.sleep(0.3)  # a training step: all that may be loaded ahead is there by now
    began = time.perf_counter()
    for _ in range(3):
        next(batches)
    assert time.perf_counter() - began < 0.1  # 6 images of 0.02 s by hand would take 0.12
    list(batches)


def test_leaving_early_ends_the_threads():
    before = threading.active_count()
    loader = Loader(Numbers([SQUARE] * 100, delay=0.01), 2, workers=3)
    for _ in loader.epoch(0):
        break
    batches = loader.epoch(0)
    next(batches)
    batches.close()
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_comes_with_its_batch(workers):
    class Broken(Numbers):
        def __getitem__(self, i):
            if i == 5:
                raise ValueError("cannot read 5")
            return super().__getitem__(i)

    loader = Loader(Broken([SQUARE] * 12), 2, shuffle=False, workers=workers)
    batches = loader.epoch(0)
    assert [next(batches).image_ids for _ in range(2)] == [[0, 1], [2, 3]]
    with pytest.raises(ValueError, match="cannot read 5"):
        next(batches)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size=0: expected at least 1"),
        ({"workers": -1}, "workers=-1"),
        ({"seed": -1}, "seed=-1"),
        ({"rank": 2, "world_size": 2}, "rank=2: expected 0 to 1"),
        ({"batch_size": 7}, "6 images, but a step takes 7"),
        ({"batch_size": 3, "world_size": 3}, "a step takes 9 .*3 machines"),
    ],
)
def test_settings_that_cannot_work(options, message):
    with pytest.raises(ValueError, match=message):
        Loader(Numbers([SQUARE] * 6), **{"batch_size": 2, **options})
