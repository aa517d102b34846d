"""The loader that a config asks for."""

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

import tiny
from mlx_rcnn.data import HorizontalFlip, Mosaic
from mlx_rcnn.training.loading import make_loader


@pytest.mark.parametrize(("epochs", "end"), [(30, 27), (19, 18), (9, None)])
def test_the_last_tenth_of_the_epochs_has_no_mosaics(epochs, end):
    data = tiny.shapes(2)
    config = replace(tiny.CONFIG, epochs=epochs, mosaic=1.0, hflip=1.0)
    loader = make_loader(data, config, mx.distributed.init())
    assert [type(step) for step in loader.augment.steps] == [Mosaic, HorizontalFlip]
    assert (loader.last_augment and loader.last_augment[0]) == end
    for epoch in range(epochs - 4, epochs):
        [batch] = loader.epoch(epoch)
        plain = [np.array_equal(image[:, ::-1], data[i].image)
                 for i, image in zip(batch.image_ids, batch.images, strict=True)]  # fmt: skip
        assert plain == [end is not None and epoch >= end] * 2
    without = make_loader(data, replace(config, mosaic=0.0), mx.distributed.init())
    assert without.last_augment is None and len(without.augment.steps) == 1
