"""A detector learns eight pictures by heart, boxes and masks: all of training fits together."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import pytest

from mlx_rcnn import MaskRCNN, ResNetFPNConfig, load
from mlx_rcnn.data import ShapesDataset
from mlx_rcnn.evaluation import evaluate_coco
from mlx_rcnn.training import TrainConfig, fit


@pytest.mark.slow
def test_eight_pictures_by_heart(tmp_path: Path) -> None:
    """A few minutes on two cores."""
    mx.random.seed(0)
    pictures = ShapesDataset(8, (128, 160), seed=1)
    backbone = ResNetFPNConfig(
        depth=18, width=16, out_channels=32, norm="group", norm_groups=8, num_classes=0
    )
    model = MaskRCNN(
        backbone,
        32,
        len(pictures.class_names),
        use_fpn=True,
        hidden_dim=128,
        dropout=0.0,
        mask_hidden_channels=32,
        mask_num_convs=2,
        min_size=128,
        max_size=160,
        rpn_post_nms_top_n_train=200,
        box_batch_size_per_image=64,
        class_names=pictures.class_names,
    )
    config = TrainConfig(
        epochs=125, batch_size=4, lr=0.02, warmup=20, schedule="cosine", clip=10.0, hflip=0.0
    )
    done = fit(model, pictures, None, config, tmp_path / "run")
    assert done.step == 250
    scores = evaluate_coco(load(tmp_path / "run/last"), pictures)
    assert scores["AP50"] > 0.95
    assert scores["segm_AP50"] > 0.95
