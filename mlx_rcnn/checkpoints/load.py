"""Models loaded from disk, and what a checkpoint is told to be.

A saved model is a directory with ``config.json`` (what to build) and ``model.safetensors`` (the
weights, metadata ``format: mlx``); how they stay one model is told in ``directory``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import mlx.core as mx

from ..backbones import BACKBONES
from ..config.categories import COCO_KEYPOINTS, COCO_PERSON, COCO_SKELETON, class_names_of
from ..config.detector import make_config
from ..config.quantization import read_quantization
from ..config.settings import cure, fields_named
from ..layers import weights_to_come
from ..messages import nearest
from ..models import (
    RCNN,
    CascadeMaskRCNN,
    CascadeRCNN,
    FasterRCNN,
    FastRCNN,
    KeypointRCNN,
    MaskRCNN,
    ProposalNetwork,
)
from ..models.quantized import quantize_as
from ..processes import check_process
from .directory import ID, NEEDED, WEIGHTS_FILE, read_model
from .find import find
from .weights import MisfitError, assign, cast_weights

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from mlx_rcnn.convert.checkpoint import Checkpoint

    from ..config.backbone import BackboneConfig
    from ..config.keywords import LoadSettings, Settings

FORMAT_VERSION = 1
Loaded: TypeAlias = (
    FasterRCNN
    | MaskRCNN
    | KeypointRCNN
    | CascadeRCNN
    | CascadeMaskRCNN
    | FastRCNN
    | RCNN
    | ProposalNetwork
)
"""What is loaded: which of them, the file says."""
MODELS: dict[str, type[Loaded]] = {
    "faster_rcnn": FasterRCNN,
    "mask_rcnn": MaskRCNN,
    "keypoint_rcnn": KeypointRCNN,
    "cascade_rcnn": CascadeRCNN,
    "cascade_mask_rcnn": CascadeMaskRCNN,
    "fast_rcnn": FastRCNN,
    "rcnn": RCNN,
    "proposal_network": ProposalNetwork,
}


def load(source: str | os.PathLike[str], **overrides: Unpack[LoadSettings]) -> Loaded:
    """Load a model, ready to predict.

    Args:
        source: a directory written by :func:`save`; a checkpoint file of another library
            (``.pth`` of either format, ``.pkl``, or safetensors with torch's keys); the name of
            published weights, such as ``"torchvision/fasterrcnn_resnet50_fpn_v2"``
            (``mlx_rcnn.checkpoints.published.PUBLISHED``), downloaded once; or a repository of the
            Hugging Face Hub, ``"owner/name"`` or ``"owner/name@revision"``.
        **overrides: fields of the detector's config and of its backbone's, to change them or to
            give what a checkpoint does not tell (``box_score_thresh=0.3``, ``norm_groups=4``);
            ``class_names`` may be a file, or ``"coco"``;
            ``dtype`` ("float32", "float16", "bfloat16"), what the convolutions and linears are cast
            to and run in (by default they are as stored, and on a CPU run in float32); ``style``
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
    dtype, of_file = overrides.get("dtype"), (overrides.get("style"), overrides.get("state"))
    settings = {k: v for k, v in overrides.items() if k not in ("dtype", "style", "state")}
    path = find(source)
    load_from = _load_directory if path.is_dir() else _load_file
    model = load_from(path, settings, *of_file)
    if dtype is not None:
        cast_weights(model, dtype)
        model.dtype = dtype
    model.eval()
    mx.eval(model.parameters())
    return model


def _load_file(
    file: Path, overrides: Mapping[str, object], style: str | None, state: str | None
) -> Loaded:
    # Imported where used: the libraries' tables are a fifth of the time of an import.
    from mlx_rcnn.convert.checkpoint import read_checkpoint

    return _filled(read_checkpoint(file, style=style, state=state, settings=overrides), overrides)


def _load_directory(
    directory: Path, overrides: Mapping[str, object], style: str | None, state: str | None
) -> Loaded:
    from mlx_rcnn.convert.origin import from_json

    for name, value in (("style", style), ("state", state)):
        if value is not None:
            raise ValueError(
                f"{name}={value!r} goes with a checkpoint file of another library: {directory} is "
                "a directory of one network"
            )
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
    with _helpful(str(file), overrides):
        origin = from_json(content.pop("origin", None))
        quantization = read_quantization(content)
        content.setdefault("stride_rule", "torchvision")  # the only one there was
        if content.get("keypoint_score") == "probability":  # of detectron2, before it had a field
            content.setdefault("keypoint_offset", 0.5)
        _check_counts({**content, **overrides}, len(weights))
        model = build_model(kind, backbone, content, overrides)
        _check_levels(model)
        if quantization is not None:
            quantize_as(model, quantization)
    with _helpful("", overrides):
        assign(model, weights, str(directory / WEIGHTS_FILE))
    model.source, model.origin = note, origin
    return model


@contextmanager
def _helpful(name: str, given: Mapping[str, object]) -> Iterator[None]:
    """Errors get the file's name, the fields given, and those that might cure what is wrong."""
    try:
        yield
    except MisfitError as error:
        fields = [field for field in error.fields() if field not in given]
        told = ", ".join(f"{field}={value!r}" for field, value in given.items())
        with_given = str(error).replace("the model:", f"the model with {told}:") if told else error
        hint = cure(fields) if len(fields) <= 2 else ""  # with more it is another network
        raise MisfitError(f"{with_given}{hint}", error.names) from error
    except (TypeError, ValueError) as error:
        fields = [field for field in fields_named(str(error)) if field not in given]
        hint = cure(fields) if len(fields) <= 2 else ""  # a whole config was printed
        raise type(error)(f"{name}: {error}{hint}") from error


def _check_counts(config: Mapping[str, object], arrays: int) -> None:
    """Refuse counts of layers that would be built before anyone sees that they have no weights."""
    for name, value in config.items():
        counted = name.endswith("convs") or name == "rpn_conv_depth"
        if counted and isinstance(value, int) and value > arrays:
            raise ValueError(f"{name}={value}: expected at most the {arrays} arrays of the weights")


def _check_levels(model: Loaded) -> None:
    """Refuse anchors for other levels than the pyramid's, which the first image would find."""
    layers = getattr(getattr(model.backbone, "config", None), "returned_layers", None)
    if layers is None or not model.config.use_fpn:
        return
    sizes = getattr(model.config, "anchor_sizes", None)
    stride = model.config.anchor_stride
    nested = sizes if any(isinstance(size, tuple) for size in sizes or ()) else None
    for name, value in (("anchor_sizes", nested), ("anchor_stride", stride)):
        if isinstance(value, tuple) and len(value) != len(layers) + 1:
            raise ValueError(
                f"{name}={value!r}: expected one entry for each of the {len(layers) + 1} maps"
            )


def from_checkpoint(checkpoint: Checkpoint, **overrides: Unpack[Settings]) -> Loaded:
    """Build the model a checkpoint was recognised as and fill it, in training mode."""
    return _filled(checkpoint, overrides)


def _filled(checkpoint: Checkpoint, overrides: Mapping[str, object]) -> Loaded:
    path, found = checkpoint.path, checkpoint.found
    with _helpful(str(path), overrides):
        _check_counts({**found.detector, **overrides}, len(checkpoint.weights))
        model = build_model(found.model, found.backbone, found.detector, overrides)
        _check_levels(model)
    with _helpful("", overrides):
        assign(model, checkpoint.weights, str(path))
    model.source = f"{path.name}: {found.note}"
    model.origin = checkpoint.origin
    return model


def build_model(
    kind: str,
    backbone: Mapping[str, object] | None,
    config: Mapping[str, object],
    overrides: Mapping[str, object],
) -> Loaded:
    """Build a model from config fields, ``overrides`` divided between backbone and detector."""
    cls, options = MODELS[kind], dict(overrides)
    body = options.pop("backbone", None)
    if body is None:
        given = dict(backbone or {})
        name = given.pop("type", "resnet_fpn")  # the only one there was in the first files
        if not isinstance(name, str) or name not in BACKBONES:
            raise ValueError(f"backbone of type {name!r}: expected one of {tuple(BACKBONES)}")
        body_config = BACKBONES[name][0]
        known = {f.name for f in fields(cls.config_class)}
        own = {f.name for f in fields(body_config)} - known  # the detector's, where both have it
        known |= own
        if unknown := [name for name in options if name not in known]:
            raise TypeError(
                f"a {cls.__name__} on this backbone has no field {unknown[0]!r}"
                f"{nearest(unknown[0], known)}"
            )
        changes = {name: options.pop(name) for name in list(options) if name in own}
        make: Callable[..., BackboneConfig] = body_config  # the fields' rules check the values
        body = make(**{**given, **changes})
    if isinstance(names := options.get("class_names"), str):
        count: Any = options.get("num_classes", config.get("num_classes"))
        try:
            options["class_names"] = class_names_of(names, int(count or 0))
        except ValueError as error:
            raise ValueError(f"class_names: {error}") from error
        if options["class_names"] == COCO_PERSON and config.get("num_keypoints") == len(
            COCO_KEYPOINTS
        ):
            own_names = {"keypoint_names": COCO_KEYPOINTS, "keypoint_skeleton": COCO_SKELETON}
            options = own_names | options
    try:
        made = make_config(cls.config_class, body, None, None, {**config, **options})
        with weights_to_come():
            return cls(made)
    except OverflowError as error:  # MLX's, of a shape past 32 bits
        raise ValueError(f"the model would have arrays too large to exist: {error}") from error
