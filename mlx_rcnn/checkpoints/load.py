"""Models on disk: save, load, and telling what a checkpoint is.

A saved model is a directory with ``config.json`` (what to build) and ``model.safetensors`` (the
weights, metadata ``format: mlx``). The weights carry a copy of the config, so that the one rename
that replaces them replaces the whole model; ``config.json`` is for people, who may change it, and
holds as long as its ``config_id`` is that of the weights.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, cast

import mlx.core as mx

from mlx_rcnn.convert.checkpoint import Checkpoint, read_checkpoint
from mlx_rcnn.convert.files.safetensors_file import load_safetensors
from mlx_rcnn.convert.origin import from_json

from ..backbones import BACKBONES, backbone_type
from ..config.detector import make_config, to_json
from ..layers import weights_to_come
from ..messages import listing
from ..models import FasterRCNN, KeypointRCNN, MaskRCNN
from ..processes import check_process
from .find import find
from .weights import assign, cast_weights, flat_parameters

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
CONFIG, CONFIG_ID = "config", "config_id"  # in the weights' metadata; the second in config.json too
PART = ".part-"
FORMAT_VERSION = 1
MODELS = {"faster_rcnn": FasterRCNN, "mask_rcnn": MaskRCNN, "keypoint_rcnn": KeypointRCNN}


def load(source: str | os.PathLike[str], **overrides: Any) -> FasterRCNN:
    """Load a model, ready to predict.

    Args:
        source: a directory written by :func:`save`; a checkpoint file of another library
            (``.pth`` of either format, ``.pkl``, or safetensors with torch's keys); the name of
            published weights, such as ``"torchvision/fasterrcnn_resnet50_fpn_v2"``
            (``mlx_rcnn.checkpoints.downloads.PUBLISHED``), downloaded once; or a repository of the
            Hugging Face Hub, ``"owner/name"`` or ``"owner/name@revision"``.
        **overrides: config fields to change (``box_score_thresh=0.3``, ``norm_eps=1e-5``);
            ``dtype`` ("float32", "float16", "bfloat16") of the convolutions and linears; ``style``
            ("pytorch" or "caffe") of an mmdetection checkpoint that does not say it;
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
        found = read_checkpoint(path, style=overrides.pop("style", None))
        model = from_checkpoint(found, **overrides)
    if dtype is not None:
        cast_weights(model, dtype)
    model.eval()
    mx.eval(model.parameters())
    return model


def save(model: FasterRCNN, directory: str | os.PathLike[str]) -> None:
    """Write a model to a directory, from which :func:`load` gives the same one bit for bit.

    Both files are written beside their place and renamed at the end: killed at any moment, on a
    full disk or while another process loads it, the directory holds the old model or the new one. A
    head that was replaced is saved as it is now.

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
    content = _description(model, kind)
    metadata = {"format": "mlx", **_config_metadata(content)}
    text = json.dumps({**content, CONFIG_ID: metadata[CONFIG_ID]}, indent=2) + "\n"
    directory.mkdir(parents=True, exist_ok=True)
    remove_leftovers(directory)
    parts = {n: directory / f"{PART}{os.getpid()}-{n}" for n in (WEIGHTS_FILE, CONFIG_FILE)}
    try:
        parts[CONFIG_FILE].write_text(text, encoding="utf-8")
        try:
            mx.save_safetensors(str(parts[WEIGHTS_FILE]), flat_parameters(model), metadata)
        except RuntimeError as error:  # MLX's, of a full disk
            raise OSError(f"cannot write {directory / WEIGHTS_FILE}: {error}") from error
        # The weights first: with their own copy of the config they are the new model by themselves.
        for name in (WEIGHTS_FILE, CONFIG_FILE):
            os.replace(parts[name], directory / name)
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)


def _config_metadata(content: Mapping[str, Any]) -> dict[str, str]:
    """A config as the weights carry it, and what tells whether a config.json is theirs."""
    text = json.dumps(content)
    return {CONFIG: text, CONFIG_ID: hashlib.sha256(text.encode()).hexdigest()[:16]}


def remove_leftovers(directory: Path) -> None:
    """Remove what a process that was killed while saving left in a directory.

    Args:
        directory: exists; parts of processes that still run are left alone.
    """
    for part in directory.glob(f"{PART}*-*"):
        number = part.name.removeprefix(PART).partition("-")[0]
        if number.isdigit() and not _runs(int(number)):
            part.unlink(missing_ok=True)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True


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
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (directory / name).is_file():
            raise FileNotFoundError(
                f"{directory} has no {name}: expected a directory written by mlx_rcnn.save"
            )
    file = directory / CONFIG_FILE
    # The weights are opened first and once: whatever replaces them meanwhile, they are one model's.
    weights, metadata = load_safetensors(directory / WEIGHTS_FILE)
    content = _read_config(file, metadata)
    names = ("model_type", "format_version", "source", "backbone")
    if lacking := [name for name in names if name not in content]:
        raise ValueError(f"{file} is no config of mlx_rcnn: it has no {listing(lacking)}")
    kind, version, note, backbone = (content.pop(name) for name in names)
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


def _read_config(file: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """config.json, or the weights' own copy where it is of other weights: a save was cut short."""
    expected = metadata.get(CONFIG_ID)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds a {type(content).__name__}, expected a config of mlx_rcnn")
    own = content.pop(CONFIG_ID, None)
    if expected is not None and own != expected and "model_type" in content:
        content = json.loads(metadata[CONFIG])
    return dict(content)


def _check_counts(config: Mapping[str, Any], arrays: int) -> None:
    """Refuse counts of layers that would be built before anyone sees that they have no weights."""
    for name, value in config.items():
        if name.endswith("convs") and isinstance(value, int) and value > arrays:
            raise ValueError(f"{name}={value}: expected at most the {arrays} arrays of the weights")


def from_checkpoint(checkpoint: Checkpoint, **overrides: Any) -> FasterRCNN:
    """Build the model a checkpoint was recognised as and fill it, in training mode.

    Args:
        checkpoint: of :func:`~mlx_rcnn.convert.checkpoint.read_checkpoint`.
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


