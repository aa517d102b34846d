"""Recall of proposals, by hand."""

from dataclasses import replace

import numpy as np
import pytest

from mlx_rcnn.data import proposal_recall


class Data:
    """Images that are targets alone."""

    def __init__(self, *targets):
        self.targets = targets

    def __len__(self):
        return len(self.targets)

    def target(self, index):
        return self.targets[index]


def target(boxes, proposals, crowd=(), **more):
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    return {
        "boxes": boxes,
        "iscrowd": np.array([i in crowd for i in range(len(boxes))], np.uint8),
        "proposals": np.array(proposals, np.float32).reshape(-1, 4),
        **more,
    }


def test_by_hand():
    # The first object of 10 x 10 is met by 10 x 4 (0.4), then 10 x 8 (0.8), then by itself (1).
    # The second, 10 x 10 beside it, by a box moved by 5: 50 shared of 150 (1/3).
    first = target(
        [[0, 0, 10, 10], [20, 0, 30, 10]],
        [[0, 0, 10, 4], [0, 0, 10, 8], [25, 0, 35, 10], [0, 0, 10, 10]],
    )
    second = target([[0, 0, 10, 10], [50, 50, 60, 60]], [])  # neither is met
    found = proposal_recall(Data(first, second), (0.3, 0.5, 1.0), (1, 2, 3, 9))
    assert found.recall.tolist() == [
        [0.25, 0, 0],
        [0.25, 0.25, 0],
        [0.5, 0.25, 0],
        [0.5, 0.25, 0.25],
    ]
    assert (found.images, found.objects, found.per_image) == (2, 4, 2.0)
    assert str(found).splitlines() == [
        "proposals    IoU 0.3    IoU 0.5      IoU 1",
        "        1      0.250      0.000      0.000",
        "        2      0.250      0.250      0.000",
        "        3      0.500      0.250      0.000",
        "        9      0.500      0.250      0.250",
        "4 objects of 2 images, 2 proposals an image",
    ]


def test_an_iou_that_is_just_met_counts():
    (share,) = proposal_recall(Data(target([[0, 0, 10, 10]], [[0, 0, 10, 5]])), (0.5,), (1,)).recall
    assert share.tolist() == [1.0]


def test_crowds_and_difficult_objects_are_left_out():
    boxes = [[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]]
    one = target(boxes, boxes[:1], crowd=(1,), difficult=np.array([0, 0, 1], np.uint8))
    found = proposal_recall(Data(one), (0.5,), (5,))
    assert found.objects == 1 and found.recall.tolist() == [[1.0]]


def test_no_objects():
    found = proposal_recall(Data(target([], [[0, 0, 5, 5]])))
    assert found.objects == 0 and np.isnan(found.recall).all() and "nan" in str(found)
    assert replace(found, images=3).images == 3


def test_what_cannot_be_counted():
    lacking = target([], [])
    del lacking["proposals"]
    with pytest.raises(ValueError, match="image 0 has no proposals"):
        proposal_recall(Data(lacking))
    for options in ({"ious": (0,)}, {"ious": (1.5,)}, {"limits": (0,)}):
        with pytest.raises(ValueError, match="expected 0 < iou"):
            proposal_recall(Data(target([], [])), **options)
