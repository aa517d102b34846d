"""A Keypoint R-CNN learns: a few images by heart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

import tiny
from mlx_rcnn import KeypointRCNN, ResNetFPNConfig
from mlx_rcnn.data import ShapesDataset
from mlx_rcnn.data.loader import TrainBatch
from mlx_rcnn.evaluation import evaluate_coco
from mlx_rcnn.training import TrainConfig
from mlx_rcnn.training.optimizer import make_optimizer
from mlx_rcnn.training.pictures import contact_sheet
from mlx_rcnn.training.step import TrainStep
from mlx_rcnn.training.trainer import fit


@pytest.mark.slow
def test_a_few_images_by_heart(tmp_path: Path):
    mx.random.seed(1)
    data = ShapesDataset(4, (64, 64), max_objects=1, keypoints=True)
    backbone = ResNetFPNConfig(
        depth=18, width=16, out_channels=32, norm="group", norm_groups=8, num_classes=0
    )
    model = KeypointRCNN(
        backbone,
        32,
        4,
        use_fpn=True,
        hidden_dim=64,
        dropout=0.0,
        min_size=64,
        max_size=64,
        num_keypoints=5,
        keypoint_layers=(32, 32),
        box_batch_size_per_image=32,
        rpn_post_nms_top_n_train=100,
        rpn_post_nms_top_n_test=50,
    )
    config = TrainConfig(
        epochs=120, batch_size=4, lr=0.003, optimizer="adamw", hflip=0.5, warmup=10, workers=1
    )
    fit(model, data, None, config, tmp_path)
    found = evaluate_coco(model, data, progress=False)
    assert found["AP50"] > 0.9 and found["keypoints_AP50"] > 0.9 and found["keypoints_AP"] > 0.6


def test_contact_sheet_of_keypoints(tmp_path: Path):
    model = tiny.build("keypoint_rcnn").eval()
    contact_sheet(model, tiny.shapes(1, keypoints=True), ("a",) * 4, tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").is_file()


def test_training_puts_points_where_the_model_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a pixel right and below for a model of detectron2's, and as they are for others."""
    seen, get_loss = [], KeypointRCNN.get_loss

    def watched(self, images, targets, **options):
        seen.append(targets)
        return get_loss(self, images, targets, **options)

    monkeypatch.setattr(KeypointRCNN, "get_loss", watched)
    data = tiny.shapes(1, keypoints=True)
    batch = TrainBatch([data[0].image], [data[0].target], [0], ["0"])
    for offset in (0.0, 0.5):
        model = tiny.build("keypoint_rcnn")
        model.config = replace(model.config, keypoint_offset=offset)
        config = TrainConfig(ema=0.0)
        TrainStep(model, make_optimizer(model, config), config)([batch], 0, 0.01)
        points, given = seen[-1][0]["keypoints"], data[0].target["keypoints"]
        np.testing.assert_allclose(points[..., :2], given[..., :2] + offset)
        np.testing.assert_array_equal(points[..., 2], given[..., 2])
