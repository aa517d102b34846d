"""Models written to disk: config.json and model.safetensors."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import mlx.core as mx

from ..backbones import backbone_type
from ..config.detector import to_json
from ..heads.box import predictors_of
from ..messages import listing
from ..models import Detector
from ..models.quantized import quantization_of, quantize_as
from .directory import write_model
from .load import FORMAT_VERSION, MODELS, build_model
from .weights import flat_parameters


def save(model: Detector, directory: str | os.PathLike[str]) -> None:
    """Write a model to a directory, from which :func:`load` gives the same one bit for bit.

    Stopped at any moment, or on a full disk, the directory holds the old model or the new one, as
    it does for whoever reads it meanwhile. A head that was replaced is saved as it is now.

    Args:
        model: a model of this package.
        directory: made if it does not exist; a model in it is replaced.

    Raises:
        TypeError: ``model``, or a head in it, is none of this package's.
        ValueError: parts that do not fit each other, such as a new box head and an old mask head.
        NotADirectoryError: ``directory`` is a file.
        OSError: it cannot be written.
    """
    kind = next((k for k, cls in MODELS.items() if type(model) is cls), None)
    if kind is None:
        known = ", ".join(cls.__name__ for cls in MODELS.values())
        raise TypeError(f"cannot save a {type(model).__name__}: expected one of {known}")
    directory = Path(directory)
    if directory.exists() and not directory.is_dir():
        raise NotADirectoryError(f"{directory} is a file: expected a directory")
    write_model(directory, description(model, kind), flat_parameters(model))


def description(model: Detector, kind: str) -> dict[str, Any]:
    """What config.json holds: the model's config, with the sizes its heads have by now."""
    own = backbone_type(model.backbone)
    backbone = {"type": own, **asdict(model.backbone.config)} if own else None
    try:
        config = _config_now(model, kind)
    except AttributeError as error:
        raise TypeError(f"cannot save a head that is not of this package: {error}") from error
    high, low = cast(Any, mx.random.state)[0].tolist()
    loaded = build_model(kind, backbone, config, {} if own else {"backbone": model.backbone})
    quantization = quantization_of(model)
    if quantization is not None:
        quantize_as(loaded, quantization)
    mx.random.seed(high << 32 | low)  # saving must not change what is drawn next
    expected = flat_parameters(loaded)
    wrong = [
        f"{k} {v.shape}"
        for k, v in flat_parameters(model).items()
        if k not in expected or expected.pop(k).shape != v.shape
    ]
    if wrong or expected:
        raise ValueError(
            f"cannot save a model whose parts do not fit num_classes={config['num_classes']} and "
            f"the rest of its config (were all heads replaced?): {listing([*wrong, *expected])}"
        )
    version = {"model_type": kind, "format_version": FORMAT_VERSION, "source": model.source}
    origin = {} if model.origin is None else {"origin": model.origin.to_json()}
    bits = {} if quantization is None else quantization.to_json()
    # the backbone is ``None`` for the user's own
    return {**version, **config, "backbone": backbone, **origin, **bits}


def _config_now(model: Detector, kind: str) -> dict[str, object]:
    """The config without its backbone, with the sizes that the heads have by now."""
    config = to_json(model.config)
    if kind != "proposal_network":
        predictor = predictors_of(model.roi_heads)[0]
        config["num_classes"] = predictor.cls_score.out_features
        if "class_agnostic_bbox" in config:
            config["class_agnostic_bbox"] = predictor.bbox_pred.out_features == 4
    if model.needs_masks:
        masks = model.roi_heads.mask_predictor
        first = masks[0] if isinstance(masks, list) else masks
        config["mask_hidden_channels"] = first.conv5_mask.out_channels
    if model.needs_keypoints:
        config["num_keypoints"] = model.roi_heads.keypoint_predictor.num_keypoints
        config["keypoint_names"] = model.keypoint_names
        config["keypoint_skeleton"] = model.keypoint_skeleton
    config["class_names"] = model.class_names
    del config["backbone"]
    return config
