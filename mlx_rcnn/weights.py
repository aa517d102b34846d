"""Models on disk: save, load, and telling what a checkpoint is.

A saved model is a directory with ``config.json`` (what to build) and ``model.safetensors`` (the
weights, metadata ``format: mlx``); how they stay one model is told in ``model_files``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, cast

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from .backbones import BACKBONES, backbone_type
from .config import make_config, to_json
from .convert.origin import from_json
from .convert.rename import listing
from .layers import BatchNorm, GroupNorm, weights_to_come
from .model_files import ID, NEEDED, WEIGHTS_FILE, read_model, write_model
from .models import FasterRCNN, KeypointRCNN, MaskRCNN
from .processes import check_process
from .sources import Checkpoint, find, read_checkpoint

FORMAT_VERSION = 1
MODELS = {"faster_rcnn": FasterRCNN, "mask_rcnn": MaskRCNN, "keypoint_rcnn": KeypointRCNN}
DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}


def load(source: str | os.PathLike[str], **overrides: Any) -> FasterRCNN:
    """Load a model, ready to predict.

    Args:
        source: a directory written by :func:`save`; a checkpoint file of another library
            (``.pth`` of either format, ``.pkl``, or safetensors with torch's keys); the name of
            published weights, such as ``"torchvision/fasterrcnn_resnet50_fpn_v2"``
            (``mlx_rcnn.downloads.PUBLISHED``), downloaded once; or a repository of the Hugging
            Face Hub, ``"owner/name"`` or ``"owner/name@revision"``.
        **overrides: config fields to change (``box_score_thresh=0.3``, ``norm_eps=1e-5``);
            ``dtype`` ("float32", "float16", "bfloat16") of the convolutions and linears; ``style``
            ("pytorch" or "caffe") of an mmdetection checkpoint that does not say it; ``state``, the
            key of the one to take of several networks in a checkpoint file;
            ``backbone``, a module, for a saved model whose backbone is the user's own.

    Returns:
        The model in evaluation mode; ``model.source`` says what was recognised.

    Raises:
        FileNotFoundError: nothing of that name.
        ImportError: the Hub's client is needed and not installed.
        ValueError: not a checkpoint, one of another network, or incomplete; offenders are listed.
        TypeError: an override that is no field.
        RuntimeError: in a process forked from one that had used MLX.
    """
    check_process()
    dtype = overrides.pop("dtype", None)
    path = find(source)
    if path.is_dir():
        model = _load_directory(path, overrides)
    else:
        style, state = (overrides.pop(name, None) for name in ("style", "state"))
        found = read_checkpoint(path, style=style, state=state)
        model = from_checkpoint(found, **overrides)
    if dtype is not None:
        cast_weights(model, dtype)
    model.eval()
    mx.eval(model.parameters())
    return model


def save(model: FasterRCNN, directory: str | os.PathLike[str]) -> None:
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
    write_model(directory, _description(model, kind), flat_parameters(model))


def _description(model: FasterRCNN, kind: str) -> dict[str, Any]:
    """What config.json holds: the model's config, with the sizes its heads have by now."""
    config, heads = to_json(model.config), model.roi_heads
    own = backbone_type(model.backbone)
    backbone = {"type": own, **asdict(model.backbone.config)} if own else None
    try:
        config["num_classes"] = heads.box_predictor.cls_score.out_features
        config["class_agnostic_bbox"] = heads.box_predictor.bbox_pred.out_features == 4
        if kind == "mask_rcnn":
            config["mask_hidden_channels"] = heads.mask_predictor.conv5_mask.out_channels
        if kind == "keypoint_rcnn":
            config["num_keypoints"] = heads.keypoint_predictor.num_keypoints
            config["keypoint_names"] = model.keypoint_names
            config["keypoint_skeleton"] = model.keypoint_skeleton
    except AttributeError as error:
        raise TypeError(f"cannot save a head that is not of this package: {error}") from error
    config["class_names"] = model.class_names
    del config["backbone"]
    high, low = cast(Any, mx.random.state)[0].tolist()
    loaded = _build(kind, backbone, config, {} if own else {"backbone": model.backbone})
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
    return {**version, **config, "backbone": backbone, **origin}


def _load_directory(directory: Path, overrides: dict[str, Any]) -> FasterRCNN:
    content, file, weights = read_model(directory)
    kind, version, note, backbone = (content.pop(name) for name in NEEDED)
    content.pop(ID, None)
    if kind not in tuple(MODELS) or version != FORMAT_VERSION:
        raise ValueError(
            f"{file}: model_type {kind!r} of format {version!r}, expected one "
            f"of {tuple(MODELS)} of format {FORMAT_VERSION}"
        )
    if "backbone" in overrides:
        backbone = None
    elif not isinstance(backbone, dict | None):
        raise ValueError(f"{file}: backbone {backbone!r}, expected an object of fields or null")
    elif backbone is None:
        raise ValueError(
            f"{directory} was saved with a backbone of your own: pass load(..., backbone=module)"
        )
    try:
        origin = from_json(content.pop("origin", None))
        _check_counts(content, len(weights))
        model = _build(kind, backbone, content, overrides)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{file}: {error}") from error
    assign(model, weights, str(directory / WEIGHTS_FILE))
    model.source, model.origin = note, origin
    return model


def _check_counts(config: Mapping[str, Any], arrays: int) -> None:
    """Refuse counts of layers that would be built before anyone sees that they have no weights."""
    for name, value in config.items():
        if name.endswith("convs") and isinstance(value, int) and value > arrays:
            raise ValueError(f"{name}={value}: expected at most the {arrays} arrays of the weights")


def from_checkpoint(checkpoint: Checkpoint, **overrides: Any) -> FasterRCNN:
    """Build the model a checkpoint was recognised as and fill it, in training mode.

    Args:
        checkpoint: of :func:`~mlx_rcnn.sources.read_checkpoint`.
        **overrides: config fields to change.

    Returns:
        The model.

    Raises:
        ValueError: its weights do not fit the model.
        TypeError: an override that is no field.
    """
    path, found = checkpoint.path, checkpoint.found
    model = _build(found.model, found.backbone, found.detector, overrides)
    assign(model, checkpoint.weights, str(path))
    model.source = f"{path.name}: {found.note}"
    model.origin = checkpoint.origin
    return model


def _build(
    kind: str,
    backbone: dict[str, Any] | None,
    config: Mapping[str, Any],
    overrides: Mapping[str, Any],
) -> FasterRCNN:
    """Build a model from config fields, ``overrides`` divided between backbone and detector."""
    cls, options = MODELS[kind], dict(overrides)
    body: Any = options.pop("backbone", None)
    if body is None:
        given = dict(backbone or {})
        name = given.pop("type", "resnet_fpn")  # the only one there was in the first files
        if name not in BACKBONES:
            raise ValueError(f"backbone of type {name!r}: expected one of {tuple(BACKBONES)}")
        body_config = BACKBONES[name][0]
        own = {f.name for f in fields(body_config)} - {"num_classes"}
        changes = {name: options.pop(name) for name in list(options) if name in own}
        body = body_config(**{**given, **changes})
    try:
        made = make_config(cls.config_class, body, None, None, {**config, **options})
        with weights_to_come():
            return cls(made)
    except OverflowError as error:  # MLX's, of a shape past 32 bits
        raise ValueError(f"the model would have arrays too large to exist: {error}") from error


def assign(model: nn.Module, weights: Mapping[str, mx.array], name: str) -> None:
    """Put ``weights`` into ``model``, all of them or none.

    Args:
        model: its parameters give the names and shapes expected.
        weights: floating-point arrays by parameter name.
        name: where they come from, for errors.

    Raises:
        ValueError: missing, unexpected, misshaped or non-floating weights, all listed.
    """
    expected = flat_parameters(model)
    problems = []
    if missing := [k for k in expected if k not in weights]:
        problems.append(f"missing {listing(missing)}")
    if extra := [k for k in weights if k not in expected]:
        problems.append(f"unexpected {listing(extra)}")
    shared = [k for k in expected if k in weights]
    shapes = [
        f"{k} {weights[k].shape} (expected {expected[k].shape})"
        for k in shared
        if weights[k].shape != expected[k].shape
    ]
    if shapes:
        problems.append(f"misshaped {listing(shapes)}")
    dtypes = [f"{k} {weights[k].dtype}" for k in shared if weights[k].dtype not in DTYPES.values()]
    if dtypes:
        problems.append(f"not float32, float16 or bfloat16: {listing(dtypes)}")
    if problems:
        raise ValueError(f"{name} does not fit the model: {'; '.join(problems)}")
    model.load_weights(list(weights.items()), strict=True)


def flat_parameters(module: nn.Module) -> dict[str, mx.array]:
    """All arrays of a module, running statistics included, by dotted name."""
    return dict(cast(Any, tree_flatten(module.parameters())))


def cast_weights(model: nn.Module, dtype: str) -> None:
    """Cast the convolutions and linears; norms keep float32, as a variance of 1e-5 needs it.

    Args:
        model: changed in place.
        dtype: ``"float32"``, ``"float16"`` or ``"bfloat16"``.

    Raises:
        ValueError: another dtype.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype={dtype!r}: expected one of {tuple(DTYPES)}")
    for module in model.modules():
        own = {k: v for k, v in module.items() if isinstance(v, mx.array)}
        norm = isinstance(
            module, BatchNorm | GroupNorm | nn.BatchNorm | nn.GroupNorm | nn.LayerNorm
        )
        for name, value in own.items():
            if mx.issubdtype(value.dtype, mx.floating):
                module[name] = value.astype(mx.float32 if norm else DTYPES[dtype])
