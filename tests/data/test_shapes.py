"""Made-up shapes: the same for ever, with exact masks."""

import numpy as np
import pytest

from mlx_rcnn.data import ShapesDataset
from mlx_rcnn.data.geometry import mask_boxes

BOXES, LABELS = [[70, 37, 116, 83]], [2]


def test_same_again():
    first, second = ShapesDataset(5, seed=3), ShapesDataset(9, seed=3)
    for i in (4, 0, 2):
        np.testing.assert_array_equal(first[i].image, second[i].image)
        np.testing.assert_array_equal(first[i].target["masks"], second[i].target["masks"])
    assert (ShapesDataset(5, seed=4)[0].image != first[0].image).any()
    # Written down, so that another version of the code or of NumPy does not change it unnoticed.
    assert first[0].target["boxes"].tolist() == BOXES
    assert first[0].target["labels"].tolist() == LABELS


def test_targets_are_exact():
    data = ShapesDataset(30, (48, 64), max_objects=6)
    labels = set()
    for i in range(len(data)):
        image, target, image_id, _ = data[i]
        masks = target["masks"].astype(bool)
        assert image.shape == (48, 64, 3) and image.dtype == np.uint8 and image_id == i
        assert masks.shape[1:] == (48, 64) and len(masks) >= 1
        assert masks.sum(axis=0).max() == 1  # a pixel shows one shape
        np.testing.assert_array_equal(target["boxes"], slow_boxes(masks))
        labels |= set(target["labels"].tolist())
        for mask in masks:  # one flat colour and noise of 8 grey levels, within 5 deviations
            assert image[mask].std(axis=0).max() < 16
    assert labels == {1, 2, 3}
    assert data.sizes.tolist() == [[48, 64]] * 30
    assert "masks" not in ShapesDataset(1, masks=False)[0].target


def slow_boxes(masks):
    boxes = []
    for mask in masks:
        ys, xs = np.nonzero(mask)
        boxes.append([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
    return np.array(boxes, np.float32)


def test_mask_boxes():
    masks = np.zeros((2, 4, 6), np.uint8)
    masks[0, 1, 2] = 1
    assert mask_boxes(masks).tolist() == [[2, 1, 3, 2], [0, 0, 0, 0]]
    assert mask_boxes(masks[:0]).shape == (0, 4)


def test_errors():
    data = ShapesDataset(2)
    for index in (-1, 2):
        with pytest.raises(IndexError, match=f"index {index}: expected 0 to 1"):
            data[index]
    with pytest.raises(ValueError, match="length=0"):
        ShapesDataset(0)
    with pytest.raises(ValueError, match="at least 16 pixels"):
        ShapesDataset(1, (8, 100))


def test_keypoints():
    data = ShapesDataset(30, (64, 80), max_objects=6, keypoints=True)
    plain = ShapesDataset(30, (64, 80), max_objects=6)
    assert len(data.keypoint_names) == 5 and plain.keypoint_names is None
    hidden = 0
    for i in range(len(data)):
        image, target = data[i][:2]
        np.testing.assert_array_equal(image, plain[i].image)
        assert "keypoints" not in plain[i].target
        assert target["keypoints"].shape == (len(target["labels"]), 5, 3)
        for mask, points in zip(target["masks"], target["keypoints"], strict=True):
            x, y, seen = points[0]
            # The centre shows its own shape, unless another lies on it.
            assert mask[int(y), int(x)] == (seen == 2)
            hidden += int((points[:, 2] == 1).sum())
            assert (points[:, :2] >= 0).all() and (points[:, :2] <= [80, 64]).all()
    assert hidden > 5
