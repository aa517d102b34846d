"""Masks and keypoints of test-time augmentation: averaged over the views."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import mlx_rcnn
from mlx_rcnn.heads import KeypointBranch, MaskBranch, Stage
from mlx_rcnn.inputs.transform import preprocess, resized_size
from mlx_rcnn.models import predict_augmented
from mlx_rcnn.ops import heatmaps_to_keypoints, paste_masks
from mlx_rcnn.structures import Batch
from small import check, photo
from told import IMAGE, TOLD, Told, mirrored

Models = Callable[..., Any]
Augment = mlx_rcnn.TestTimeAugment


class Shades(MaskBranch):
    """Masks that tell the view: 0.2 at 50 and 0.6 at 100, brighter by 0.3 in the left half."""

    def __init__(self) -> None:
        self.rois: list[np.ndarray] = []

    def raw(self, stage: Stage, rois: mx.array, labels: mx.array) -> mx.array:
        self.rois.append(np.array(rois))
        shade = np.full((len(labels), 4, 4), stage.pool, np.float32)
        shade[:, :, :2] += 0.3
        return mx.array(shade)


class ToldMasks(Told):
    def __init__(self, branch: Shades):
        super().__init__(TOLD)
        self.branches = (branch,)
        # as a MaskRCNNConfig would have it
        object.__setattr__(self.config, "mask_paste_rule", "torchvision")
        object.__setattr__(self.config, "mask_out_size", 4)

    def features(self, pixels: mx.array) -> Any:
        return pixels

    def strides(self, features: Any, batch: Batch) -> float:
        return 0.2 if batch.sizes[0].min() == 50 else 0.6

    def stage(self, features: Any, strides: Any) -> Any:
        return SimpleNamespace(pool=strides, config=self.config)


def test_masks_are_averaged_by_hand() -> None:
    branch = Shades()
    [found] = predict_augmented(ToldMasks(branch), IMAGE, sizes=(50, 100), masks="raw")
    # The left half of a mirrored view is the image's right half: (0.5 + 0.2 + 0.9 + 0.6) / 4
    np.testing.assert_allclose(found["masks"], np.full((4, 4, 4), 0.55), rtol=1e-6)
    # The merged boxes are put into every view.
    np.testing.assert_allclose(branch.rois[0][0], [0, 12, 10, 32, 30])
    np.testing.assert_allclose(branch.rois[1][0], [0, 100 - 32, 10, 100 - 12, 30])
    np.testing.assert_allclose(branch.rois[3][0], [0, 200 - 64, 20, 200 - 24, 60])
    [found] = predict_augmented(
        ToldMasks(Shades()), IMAGE, sizes=(50, 100), flip=False, masks="raw"
    )
    np.testing.assert_allclose(found["masks"][0, 0], [0.7, 0.7, 0.4, 0.4], rtol=1e-6)
    [full] = predict_augmented(ToldMasks(Shades()), IMAGE, sizes=(50, 100), flip=False)
    assert full["masks"].shape == (3, 100, 200) and full["masks"].dtype == bool
    for mask, (x1, y1, x2, y2) in zip(full["masks"], full["boxes"].astype(int), strict=True):
        assert mask[y1 + 5 : y2 - 5, x1 + 5 : (x1 + x2) // 2 - 5].all()
        assert not mask[:, (x1 + x2) // 2 + 5 :].any()


@pytest.mark.parametrize("masks", ["raw", "full"])
def test_masks_are_the_mean_of_each_view(small_model: Models, masks: str) -> None:
    """Of unequal images in one batch, from the network's own logits."""
    model, images = small_model("mask_rcnn"), [photo("dogs.jpg"), photo("stop.jpg")[:60, :150]]
    results = model.predict(images, augment=Augment((80, 128)), masks=masks)
    net, total = model.to_predict(), [0.0, 0.0]
    for side, mirror in ((80, False), (80, True), (128, False), (128, True)):
        config = replace(model.config, min_size=side, max_size=4000)
        sizes = [resized_size(*image.shape[:2], config) for image in images]
        batch = preprocess(images, config, sizes, mirror)
        features = net.features(batch.pixels)
        stage = net.stage(features, net.strides(features, batch))
        for i, (found, image) in enumerate(zip(results, images, strict=True)):
            boxes = found["boxes"] * (np.array(sizes[i]) / image.shape[:2])[[1, 0, 1, 0]]
            boxes = mirrored(boxes, sizes[i][1]) if mirror else boxes
            rois = np.concatenate([np.full((len(boxes), 1), i), boxes], axis=1).astype(np.float32)
            logits = np.array(MaskBranch().outputs(stage, mx.array(rois)))
            logits = logits[np.arange(len(boxes)), :, :, found["labels"]]
            probability = 1 / (1 + np.exp(-logits))
            total[i] = total[i] + (probability[:, :, ::-1] if mirror else probability) / 4
    for found, mean, image in zip(results, total, images, strict=True):
        check(found, *image.shape[:2], classes=5)
        if masks == "raw":
            np.testing.assert_allclose(found["masks"], mean, atol=2e-3)
        else:
            pasted = paste_masks(np.float32(mean), found["boxes"], image.shape[:2])
            assert (pasted != found["masks"]).mean() < 1e-3


def test_masks_where_nothing_is_found(small_model: Models) -> None:
    model, augment = small_model("mask_rcnn"), Augment((80,))
    for masks, shape in (("raw", (0, 28, 28)), ("full", (0, 220, 330))):
        [found] = model.predict(photo(), augment=augment, score_thresh=1.0, masks=masks)
        assert found["masks"].shape == shape


def test_keypoints_need_no_mirror(small_model: Models) -> None:
    model = small_model("keypoint_rcnn")
    with pytest.raises(ValueError, match="a KeypointRCNN cannot look at mirrored images: .*flip"):
        model.predict("no such file.jpg", augment=Augment((80,)))
    image, net, total = photo("dogs.jpg"), model.to_predict(), 0.0
    [found] = model.predict(image, augment=Augment((80, 128), flip=False))
    assert found["keypoints"].shape == (len(found["scores"]), 5, 3) and len(found["scores"]) > 0
    for side in (80, 128):
        config = replace(model.config, min_size=side, max_size=4000)
        batch = preprocess([image], config, [resized_size(*image.shape[:2], config)])
        features = net.features(batch.pixels)
        stage = net.stage(features, net.strides(features, batch))
        boxes = found["boxes"] * (batch.sizes[0] / image.shape[:2])[[1, 0, 1, 0]]
        rois = np.concatenate([np.zeros((len(boxes), 1)), boxes], axis=1).astype(np.float32)
        total = total + np.array(KeypointBranch().outputs(stage, mx.array(rois))) / 2
    keypoints, scores = heatmaps_to_keypoints(total, found["boxes"])
    np.testing.assert_allclose(found["keypoints_scores"], scores, rtol=1e-3, atol=1e-3)
    same_place = np.abs(found["keypoints"] - keypoints).max(axis=(1, 2)) < 1e-3
    assert same_place.mean() > 0.9  # of a flat heatmap two places may tie
    [none] = model.predict(photo(), augment=Augment((80, 96), False), score_thresh=1.0)
    assert none["keypoints"].shape == (0, 5, 3) and none["keypoints_scores"].shape == (0, 5)
