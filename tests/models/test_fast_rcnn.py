"""Fast R-CNN and a proposal network: halves of a Faster R-CNN that agree with the whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import mlx_rcnn
from halves import halves
from small import near, photo, same

IMAGES = [photo()[:100, :140], photo("stop.jpg")[:130, :90]]
TARGETS = [
    {"boxes": [[10, 10, 90, 80], [60, 20, 130, 95]], "labels": [1, 4]},
    {"boxes": np.zeros((0, 4)), "labels": []},
]
BOXES = [
    np.array([[8, 12, 88, 80], [60, 20, 130, 95], [0, 0, 140, 100], [5, 5, 6, 6]], np.float32),
    np.array([[1, 1, 50, 60]], np.float32),
]


@pytest.fixture(scope="module")
def models() -> tuple[Any, Any, Any]:
    return halves()


def test_together_they_are_the_whole(models: Any) -> None:
    whole, fast, proposing = models
    for image in IMAGES:
        proposals = proposing.predict(image)[0]
        assert (proposals["labels"] == 1).all() and (np.diff(proposals["scores"]) <= 0).all()
        found = fast.predict(image, proposals["boxes"])[0]
        want = whole.predict(image)[0]
        assert len(want["scores"]) > 5
        near(want, found)


def test_proposals_are_the_networks(models: Any) -> None:
    _, _, proposing = models
    few = proposing.predict(IMAGES, top_k=7)
    assert [len(found["scores"]) for found in few] == [7, 7]
    same(few[0], {k: v[:7] for k, v in proposing.predict(IMAGES)[0].items()})
    assert len(proposing.predict(IMAGES[0], score_thresh=1.0)[0]["scores"]) == 0
    tight = proposing.predict(IMAGES[0], nms_thresh=0.1)[0]
    assert 0 < len(tight["scores"]) < len(proposing.predict(IMAGES[0])[0]["scores"])
    with pytest.raises(ValueError, match="rpn_nms_thresh=2"):
        proposing.predict(IMAGES[0], nms_thresh=2)
    assert proposing.config.rpn_nms_thresh == 0.7


def test_a_batch_equals_singles(models: Any) -> None:
    _, fast, _ = models
    images, boxes = [photo()[:90, :90], photo()[90:180, :90]], [BOXES[0][:1], BOXES[1]]
    boxes[0] = boxes[0].clip(0, 90)
    for found, image, given in zip(fast.predict(images, boxes), images, boxes, strict=True):
        near(fast.predict([image], [given])[0], found)


def test_scores_are_of_the_proposals_in_order(models: Any) -> None:
    _, fast, _ = models
    x = mx.random.normal((2, 96, 128, 3), key=mx.random.key(0))
    given = [np.array([[4, 4, 60, 60], [10, 20, 90, 80]]), np.zeros((0, 4))]
    logits, deltas = fast(x, given)
    assert logits.shape == (2, 64, 5) and deltas.shape == (2, 64, 20)
    swapped, _ = fast(x, [given[0][::-1], given[1]])
    np.testing.assert_allclose(logits[0, :2], swapped[0, :2][::-1], atol=1e-5)


def test_losses(models: Any) -> None:
    _, fast, proposing = models
    losses = fast.get_loss(IMAGES, TARGETS, BOXES, key=mx.random.key(0))
    assert list(losses) == ["roi_cls_loss", "roi_reg_loss", "total_loss"]
    assert losses["roi_reg_loss"].item() > 0
    within = [{**t, "proposals": b} for t, b in zip(TARGETS, BOXES, strict=True)]
    again = fast.get_loss(IMAGES, within, key=mx.random.key(0))
    assert again["total_loss"].item() == losses["total_loss"].item()
    nothing = fast.get_loss(IMAGES[1:], TARGETS[1:], [np.zeros((0, 4))], key=mx.random.key(0))
    assert nothing["total_loss"].item() == 0
    losses = proposing.get_loss(IMAGES, TARGETS, key=mx.random.key(0))
    assert list(losses) == ["rpn_cls_loss", "rpn_reg_loss", "total_loss"]
    assert losses["rpn_reg_loss"].item() > 0


def test_proposals_that_cannot_be(models: Any) -> None:
    _, fast, _ = models
    cases = {
        "a FastRCNN needs proposals": None,
        "proposals of 1 images for 2 images": BOXES[:1],
        r"image 1, row 0: box \(90, 90, 10, 10\): these look like x, y, width, height": [
            BOXES[0],
            [[90, 90, 10, 10]],
        ],
        "image 0, row 1: box .* is not finite": [[[0, 0, 5, 5], [0, np.nan, 5, 5]], BOXES[1]],
        "lies outside the image of 90x130": [BOXES[0], [[95, 3, 120, 40]]],
        r"got shape \(2, 5\)": [np.zeros((2, 5)), BOXES[1]],
    }
    for message, given in cases.items():
        with pytest.raises(ValueError, match=message):
            fast.predict(IMAGES, given)
        with pytest.raises(ValueError, match=message):
            fast.get_loss(IMAGES, TARGETS, given)
    assert len(fast.predict(IMAGES[0], np.zeros((0, 4)))[0]["scores"]) == 0


def test_saved_and_loaded_they_are_the_same(models: Any, tmp_path: Path) -> None:
    _, fast, proposing = models
    for model, given in ((fast, (BOXES[:1],)), (proposing, ())):
        folder = tmp_path / type(model).__name__
        mlx_rcnn.save(model, folder)
        again = mlx_rcnn.load(folder)
        assert type(again) is type(model) and again.config.num_classes == model.config.num_classes
        same(again.predict(IMAGES[:1], *given)[0], model.predict(IMAGES[:1], *given)[0])
