"""Mask R-CNN: a mask for each detection, pasted or raw."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_rcnn import FasterRCNN, MaskRCNN, ResNetFPNConfig
from mlx_rcnn.heads import MaskBranch
from mlx_rcnn.heads.detections import detection_rule
from mlx_rcnn.heads.rois import batch_rows
from mlx_rcnn.inputs.transform import preprocess
from mlx_rcnn.layers import inference
from mlx_rcnn.ops import paste_masks
from mlx_rcnn.structures import Batch
from small import MASK_OPTIONS, OPTIONS, check, near, photo, same

Models = Callable[..., FasterRCNN]
IMAGES = [photo(), photo("stop.jpg"), photo("dogs.jpg")[:40, :150]]


@pytest.fixture(scope="module")
def model(small_model: Models) -> FasterRCNN:
    return small_model("mask_rcnn")


@pytest.fixture(scope="module")
def full(model: MaskRCNN) -> list[dict[str, np.ndarray]]:
    return model.predict(IMAGES)


def test_full_masks_are_boolean_and_inside_their_boxes(full) -> None:
    for found, image in zip(full, IMAGES, strict=True):
        height, width = image.shape[:2]
        check(found, height, width, classes=5)
        assert list(found) == ["boxes", "scores", "labels", "masks"]
        assert found["masks"].shape == (len(found["scores"]), height, width)
        assert found["masks"].dtype == bool and isinstance(found["masks"], np.ndarray)
        assert len(found["scores"]) > 0
        y, x = np.mgrid[:height, :width]
        for mask, (x1, y1, x2, y2) in zip(found["masks"], found["boxes"], strict=True):
            # Pasting spreads a mask over whole pixels, and one beyond on each side.
            outside = (x < np.floor(x1) - 1) | (x > x2 + 1) | (y < np.floor(y1) - 1) | (y > y2 + 1)
            assert not (mask & outside).any()
    assert np.mean([found["masks"].any(axis=(1, 2)).mean() for found in full]) > 0.05


def test_raw_masks_are_what_full_ones_are_pasted_from(model: MaskRCNN, full) -> None:
    for found, image, pasted in zip(model.predict(IMAGES, masks="raw"), IMAGES, full, strict=True):
        raw = found["masks"]
        assert raw.shape == (len(found["scores"]), 28, 28) and raw.dtype == np.float32
        assert ((raw >= 0) & (raw <= 1)).all()
        expected = paste_masks(raw, found["boxes"], image.shape[:2], 0.5)
        same({**found, "masks": np.asarray(expected)}, pasted)


def test_each_mask_is_of_its_own_class_and_box(model: MaskRCNN) -> None:
    """Against all classes' logits of the detections, one RoI at a time."""
    batch = preprocess(IMAGES[:2], model.config)
    found = model.predict(IMAGES[:2], masks="raw")
    net = inference(model)
    detections, stage = net.detect(batch, detection_rule(model.config, 0.05, 0.5, 100))
    for i, result in enumerate(found):
        rows = np.flatnonzero(np.array(detections.valid[i]))
        assert len(rows) == len(result["masks"])
        for place, row in list(enumerate(rows))[::9]:
            box = detections.boxes[i, int(row)].reshape(1, 4)
            roi = mx.concatenate([mx.full((1, 1), i), box], axis=1)
            logits = np.array(MaskBranch().outputs(stage, roi))[0]
            expected = 1 / (1 + np.exp(-logits[..., result["labels"][place]]))
            np.testing.assert_allclose(result["masks"][place], expected, atol=1e-4)


def test_boxes_are_those_of_faster_rcnn(model: MaskRCNN, small_model: Models) -> None:
    """The recipe's weights depend on the key only, so both networks share all but the masks."""
    plain = small_model("faster_rcnn").predict(IMAGES)
    for found, other in zip(model.predict(IMAGES, masks="raw"), plain, strict=True):
        same({key: found[key] for key in other}, other)


def test_a_batch_of_equal_sizes_equals_singles(model: MaskRCNN) -> None:
    images = [photo()[:90, :90], photo()[90:180, :90]]
    for found, image in zip(model.predict(images), images, strict=True):
        near(model.predict(image)[0], found)  # areas of masks included


@pytest.mark.parametrize(("masks", "shape"), [("full", (0, 220, 330)), ("raw", (0, 28, 28))])
def test_nothing_found(model: MaskRCNN, masks: str, shape: tuple[int, ...]) -> None:
    found = model.predict(photo(), score_thresh=1.0, masks=masks)[0]
    assert found["masks"].shape == shape
    assert found["masks"].dtype == (bool if masks == "full" else np.float32)
    assert [found[key].shape for key in ("boxes", "scores", "labels")] == [(0, 4), (0,), (0,)]


def test_something_in_one_image_only(model: MaskRCNN, full) -> None:
    """Masks are cut out of one long list; an image without any takes none."""
    best = [float(found["scores"].max(initial=0)) for found in full]
    cut = sorted(best)[1]
    results = model.predict(IMAGES, score_thresh=cut)
    assert [len(found["masks"]) > 0 for found in results] == [score > cut for score in best]
    for found, before in zip(results, full, strict=True):
        count = len(found["scores"])
        same(found, {key: value[:count] for key, value in before.items()})


def test_top_k_and_wrong_masks(model: MaskRCNN, full) -> None:
    found = model.predict(IMAGES[0], top_k=3)[0]
    assert found["masks"].shape == (3, 220, 330)
    for wrong in ("both", None, True, ""):
        with pytest.raises(ValueError, match=f"masks={wrong!r}: expected 'full' or 'raw'"):
            model.predict(IMAGES[0], masks=wrong)
    with pytest.raises(ValueError, match="top_k=0"):
        model.predict(IMAGES[0], top_k=0)


def test_chunks_of_rois_change_nothing(
    model: MaskRCNN, full, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlx_rcnn.heads.mask.ROIS_AT_ONCE", 7)
    near(full[0], model.predict(IMAGES)[0])


def test_raw_outputs(model: MaskRCNN, small_model: Models) -> None:
    x = mx.random.normal((2, 64, 96, 3), key=mx.random.key(0))
    logits, deltas, masks = model(x)
    n, rows = logits.shape[:2]
    assert (n, logits.shape[2], deltas.shape) == (2, 5, (2, rows, 20))
    assert masks.shape == (2, rows, 28, 28, 5) and masks.dtype == mx.float32
    plain = small_model("faster_rcnn")(x)
    assert mx.array_equal(plain[0], logits) and mx.array_equal(plain[1], deltas)
    features = model.features(x)
    batch = Batch(x, np.array([[64, 96]] * 2), np.array([[64, 96]] * 2))
    strides = model.strides(features, batch)
    proposals = model.propose(features, batch, strides)
    roi = batch_rows(proposals.boxes)[rows + 3 : rows + 4]
    expected = MaskBranch().outputs(model.stage(features, strides), roi)
    assert mx.allclose(masks[1, 3], expected[0], atol=1e-4)


def test_other_mask_sizes() -> None:
    net = ResNetFPNConfig(depth=18, width=16, num_classes=0, out_channels=8)
    sizes: dict[str, Any] = {"mask_pool_size": (7, 7), "mask_out_size": 14}
    options = {**OPTIONS, **MASK_OPTIONS, **sizes, "box_score_thresh": 0.0}
    model = MaskRCNN(net, 8, 3, **options)
    assert model(mx.zeros((1, 32, 64, 3)))[2].shape[2:] == (14, 14, 3)
    found = model.predict(photo(), masks="raw", top_k=5)[0]
    assert found["masks"].shape == (len(found["scores"]), 14, 14)
    assert model.predict(photo(), score_thresh=1.0, masks="raw")[0]["masks"].shape == (0, 14, 14)


@pytest.mark.parametrize("size", [(1, 1), (600, 5), (5, 600)])
def test_odd_sizes(model: MaskRCNN, size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
    found = model.predict(image, score_thresh=0.0, top_k=10)[0]
    assert found["masks"].shape == (len(found["scores"]), *size)
