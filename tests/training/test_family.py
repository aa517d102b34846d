"""Every member of the family learns eight pictures by heart: all of its training fits together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_rcnn import (
    CascadeMaskRCNN,
    CascadeRCNN,
    FasterRCNN,
    FastRCNN,
    ProposalNetwork,
    ResNetFPNConfig,
    VGGConfig,
    load,
)
from mlx_rcnn.data import ShapesDataset
from mlx_rcnn.data.sample import Sample
from mlx_rcnn.evaluation import evaluate_coco
from mlx_rcnn.ops import box_iou
from mlx_rcnn.training import TrainConfig, fit

OPTIONS = {
    "hidden_dim": 128,
    "dropout": 0.0,
    "min_size": 128,
    "max_size": 160,
    "mask_hidden_channels": 32,
    "mask_num_convs": 2,
    "rpn_post_nms_top_n_train": 200,
    "box_batch_size_per_image": 64,
}


class Proposed:
    """Shapes with proposals: their boxes moved a little, and boxes anywhere."""

    def __init__(self, shapes: ShapesDataset) -> None:
        self.shapes, self.class_names = shapes, shapes.class_names
        self.category_ids, self.sizes = None, shapes.sizes

    def __len__(self) -> int:
        return len(self.shapes)

    def __getitem__(self, index: int) -> Sample:
        sample, random = self.shapes[index], np.random.default_rng(index)
        near = np.repeat(sample.target["boxes"], 6, axis=0)
        near = near + random.normal(0, 4, near.shape)
        corners = random.uniform(0, 1, (80, 2, 2)) * (140, 108)
        far = np.concatenate([corners.min(axis=1), corners.max(axis=1) + 8], axis=1)
        boxes = np.concatenate([near, far]).clip(0, [160, 128] * 2)
        whole = (boxes[:, 2:] > boxes[:, :2] + 2).all(axis=1)
        target = {**sample.target, "proposals": boxes[whole].astype(np.float32)}
        return sample._replace(target=target)


def build(cls: Any, net: Any, names: tuple[str, ...], **more: Any) -> Any:
    mx.random.seed(0)
    own = cls.config_class.__dataclass_fields__
    given = {**OPTIONS, "use_fpn": isinstance(net, ResNetFPNConfig), **more}
    channels = net.out_channels if isinstance(net, ResNetFPNConfig) else net.channels
    classes = () if cls is ProposalNetwork else (len(names),)
    named = {} if cls is ProposalNetwork else {"class_names": names}
    return cls(net, channels, *classes, **{k: v for k, v in given.items() if k in own}, **named)


RESNET = ResNetFPNConfig(
    depth=18, width=16, out_channels=32, norm="group", norm_groups=8, num_classes=0
)
VGG = VGGConfig(depth=11, width=16, norm="group", norm_groups=8)
PUBLISHED = {  # one map of stride 16, as first published: shapes are seen at twice their size
    "roi_pooling": "pool",
    "anchor_sizes": (32, 64, 128),
    "min_size": 256,
    "max_size": 320,
}
CASES = {
    "cascade": (CascadeRCNN, RESNET, {}),
    "cascade as detectron2's": (CascadeRCNN, RESNET, {"cascade_resample": False}),
    "cascade with masks": (CascadeMaskRCNN, RESNET, {"cascade_mask_heads": True}),
    "fast": (FastRCNN, RESNET, {}),
    "fast as published": (FastRCNN, VGG, PUBLISHED),
    "faster as published": (FasterRCNN, VGG, PUBLISHED),
    "proposals": (ProposalNetwork, RESNET, {}),
}


def recall(network: Any, shapes: ShapesDataset, most: int) -> float:
    """The share of objects that one of an image's first boxes covers at an IoU of 0.5."""
    covered: list[bool] = []
    for i in range(len(shapes)):
        sample = shapes[i]
        found = network.predict(sample.image, top_k=most)[0]["boxes"]
        overlap = np.array(box_iou(mx.array(sample.target["boxes"]), mx.array(found)))
        covered += (overlap.max(axis=1) >= 0.5).tolist()
    return float(np.mean(covered))


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_eight_pictures_by_heart(tmp_path: Path, name: str) -> None:
    """A minute or two each on two cores."""
    cls, net, more = CASES[name]
    shapes = ShapesDataset(8, (128, 160), seed=1)
    pictures = Proposed(shapes) if cls is FastRCNN else shapes
    epochs = 160 if net is VGG else 125
    config = TrainConfig(
        epochs=epochs, batch_size=4, lr=0.02, warmup=20, schedule="cosine", clip=10.0, hflip=0.0
    )
    model = build(cls, net, shapes.class_names, **more)
    fit(model, pictures, None, config, tmp_path / "run")
    learned = load(tmp_path / "run/last")
    if cls is ProposalNetwork:
        assert recall(learned, shapes, 10) > 0.95
        return
    scores = evaluate_coco(learned, pictures)
    assert scores["AP50"] > 0.9
    if cls is CascadeMaskRCNN:
        assert scores["segm_AP50"] > 0.9
