"""A model made ready for a data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import mlx.core as mx

from .. import moved
from ..models import Detector
from ..models.quantized import check_trainable
from .config import TrainConfig
from .freeze import set_trainable, stages
from .new_heads import DataKeypoints, set_classes, set_keypoints

TRAINED_STAGES = 3  # of a model with weights, as torchvision


def prepare_model(
    model: Detector,
    class_names: Sequence[str],
    config: TrainConfig,
    keypoints: DataKeypoints | None = None,
) -> TrainConfig:
    """Set classes, keypoints, input size and what learns, in place; weights become float32."""
    check_trainable(model)
    if config.recompute:
        _check_stages(model)
    mx.random.seed(config.seed)
    set_classes(model, class_names)
    set_keypoints(model, keypoints)
    model.set_dtype(mx.float32)
    if config.min_size is not None:
        sizes = config.min_size
        model.config = replace(model.config, min_size=sizes if len(sizes) > 1 else sizes[0])
    frozen = config.freeze
    if frozen is None:
        if not hasattr(model.backbone, "net"):  # its owner has frozen what should be
            model.train()
            return replace(config, freeze=0)
        frozen = len(stages(model)) - TRAINED_STAGES if model.source else 0
    if hasattr(model.backbone, "net") or frozen:
        count = len(stages(model))
        if frozen > count:
            raise ValueError(f"freeze={frozen}: expected at most {count}, the backbone's stages")
        set_trainable(model, count - frozen)
    model.train()
    return replace(config, freeze=frozen)


def _check_stages(model: Detector) -> None:
    try:
        stages(model)
    except TypeError as error:
        raise TypeError(f"recompute: {error}") from error


__getattr__ = moved.names(__name__)
