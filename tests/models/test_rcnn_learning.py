"""R-CNN learns pictures of shapes by heart, given boxes near them and anywhere."""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import pytest

from mlx_rcnn import RCNN, ResNetConfig
from mlx_rcnn.data import ShapesDataset
from mlx_rcnn.data.sample import Sample
from mlx_rcnn.evaluation import evaluate_voc
from mlx_rcnn.training import fit_svms


class WithProposals:
    """Shapes with boxes near them and anywhere as proposals."""

    def __init__(self, length: int, seed: int):
        self.shapes = ShapesDataset(length, (96, 120), seed=seed, masks=False)
        self.class_names, self.category_ids = self.shapes.class_names, None

    def __len__(self) -> int:
        return len(self.shapes)

    def __getitem__(self, index: int) -> Sample:
        found = self.shapes[index]
        rng, boxes = np.random.default_rng([7, index]), found.target["boxes"]
        side = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
        near = [boxes + rng.normal(0, 0.12, boxes.shape) * side for _ in range(12)]
        centre, half = rng.uniform(0, 96, (40, 2)), rng.uniform(8, 30, (40, 2))
        every = np.concatenate([*near, np.concatenate([centre - half, centre + half], axis=1)])
        every = np.clip(every, 0, [120, 96, 120, 96])
        every = every[(every[:, 2:] - every[:, :2] > 2).all(axis=1)].astype(np.float32)
        return found._replace(target={**found.target, "proposals": every})


def mean_ap(rcnn: RCNN, pictures: WithProposals) -> float:
    return evaluate_voc(rcnn, pictures, progress=False)["mAP"]


@pytest.mark.slow
def test_it_learns_eight_pictures() -> None:
    """Half a minute on two cores; VOC's AP, at IoU 0.5, by the classifier and then by SVMs."""
    mx.random.seed(0)
    backbone = ResNetConfig(18, width=8, norm="group", norm_groups=4)
    options = {"crop_size": 48, "crop_context": 4, "crops_per_batch": 32, "ridge": 10.0}
    rcnn = RCNN(backbone, 64, 4, box_nms_thresh=0.3, **options)
    pictures, steps = WithProposals(8, 1), 250
    samples = [pictures[i] for i in range(8)]
    optimizer = optim.SGD(optim.linear_schedule(0.05, 0.001, steps), momentum=0.9)

    def losses(batch: list[Sample], step: int) -> dict[str, mx.array]:
        images, targets = [s.image for s in batch], [s.target for s in batch]
        return rcnn.get_loss(images, targets, key=mx.random.key(step))

    step = nn.value_and_grad(rcnn, lambda *given: losses(*given)["total_loss"])
    rng = np.random.default_rng(0)
    for i in range(steps):
        _, found = step([samples[k] for k in rng.permutation(8)[:4]], i)
        optimizer.update(rcnn, optim.clip_grad_norm(found, 10.0)[0])
        mx.eval(rcnn.parameters(), optimizer.state)
    assert mean_ap(rcnn, pictures) > 0.9
    # Over all proposals there are; a ridge solved at once would go further.
    rcnn.config = replace(rcnn.config, crops_per_batch=4096, box_positive_fraction=1.0)
    regressed = losses(samples, 0)["roi_reg_loss"].item()
    boxes = rcnn.roi_heads.box_predictor.bbox_pred
    learned = boxes.weight, boxes.bias
    boxes.weight, boxes.bias = (mx.zeros_like(v) for v in learned)
    assert regressed < 0.9 * losses(samples, 0)["roi_reg_loss"].item()
    boxes.weight, boxes.bias = learned
    fit_svms(rcnn, pictures)
    assert mean_ap(rcnn, pictures) > 0.9
