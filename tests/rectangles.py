"""Images of rectangles, with targets that say where, shared by tests of what moves both."""

from __future__ import annotations

import numpy as np

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
