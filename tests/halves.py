"""A Faster R-CNN, and the two halves of it as models of their own."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from mlx_rcnn import FastRCNN, ProposalNetwork
from small import BACKBONE, untrained


def halves() -> tuple[Any, FastRCNN, ProposalNetwork]:
    """A Faster R-CNN, and the two models with its weights."""
    mx.random.seed(5)
    whole = untrained("faster_rcnn")
    whole.roi_heads.box_predictor.bbox_pred.weight *= 100
    whole.roi_heads.box_predictor.cls_score.weight *= 30
    names = {name: value for name, value in whole.config.__dict__.items() if name != "backbone"}

    def half(cls: Any, parts: tuple[str, ...]) -> Any:
        own = {item for item in cls.config_class.__dataclass_fields__ if item in names}
        given = {name: names[name] for name in own if name != "num_classes"}
        if cls is FastRCNN:
            given["num_classes"] = 5
        model = cls(BACKBONE, **given)
        kept = [(k, v) for k, v in tree_flatten(whole.parameters()) if k.startswith(parts)]
        model.load_weights(kept, strict=True)
        return model

    return (
        whole,
        half(FastRCNN, ("backbone.", "roi_heads.")),
        half(ProposalNetwork, ("backbone.", "rpn.")),
    )
