"""``mlx_rcnn info``: what a model is, without running it."""

from __future__ import annotations

import argparse
import os
import re
from typing import TYPE_CHECKING

import mlx.core as mx
import mlx.nn as nn

from ..checkpoints.weights import flat_parameters
from ..config.backbone import AlexNetConfig, MobileNetFPNConfig, ResNetFPNConfig, VGGConfig
from ..config.boxes import BoxConfig, FastRCNNConfig, RCNNConfig
from ..config.detector import KeypointRCNNConfig, MaskRCNNConfig, to_json
from ..config.network import DetectorConfig
from ..config.proposals import ProposingConfig
from ..models.quantized import quantization_of, restored
from .errors import load_model
from .flags.common import model_settings

if TYPE_CHECKING:
    from ..models import Detector

_NAMES_SHOWN = 8
_WITH_TF32 = 17  # generation of Apple's GPUs: M5


def run(args: argparse.Namespace) -> int:
    """Print the architecture, classes, source, dtype and parameters of ``args.model``."""
    if args.json is not None:
        args.json.check()
    model = load_model(args.model, given=model_settings(args))
    print("\n".join(describe(model)))
    if args.json is not None:
        args.json.write_content(contents(model))
    return 0


def contents(model: Detector) -> dict[str, object]:
    """What :func:`describe` tells, for JSON, with the model's whole config."""
    config, (dtypes, size) = model.config, _storage(model)
    columns = ("parameters", "running_statistics")
    parts = {k: dict(zip(columns, v, strict=True)) for k, v in count_parameters(model).items()}
    return {
        "model": type(model).__name__,
        "backbone": _backbone(model.backbone),
        "heads": _heads(config),
        "source": model.source,
        "num_classes": config.num_classes,
        "class_names": model.class_names,
        "dtypes": dtypes,
        "bytes": size,
        "runs_on": runs_on(),
        **{name: sum(part[name] for part in parts.values()) for name in columns},
        "parts": parts,
        "config": to_json(config),
    }


def describe(model: Detector) -> list[str]:
    """A model, described in lines of text."""
    config = model.config
    parts = count_parameters(model)
    dtypes, size = _storage(model)
    rows = [
        ("architecture", f"{type(model).__name__}, {_backbone(model.backbone)}"),
        ("heads", _heads(config)),
        *_quantized(model),
        ("source", model.source or "built, not loaded"),
        ("classes", _classes(config.num_classes, model.class_names)),
        ("dtype", f"{' and '.join(dtypes)}, {size / 1e6:.1f} MB"),
        ("input", _input(config)),
        _found(config),
    ]
    rows.append(("runs on", runs_on()))
    lines = [f"{name:<13} {value}" for name, value in rows]
    width = max(map(len, [*parts, "total"]))
    lines += ["", f"{'part':<{width}} {'parameters':>12} {'running statistics':>19}"]
    total = [sum(column) for column in zip(*parts.values(), strict=True)]
    for name, (parameters, statistics) in [*parts.items(), ("total", tuple(total))]:
        lines.append(f"{name:<{width}} {parameters:>12,} {statistics:>19,}")
    return lines


def _quantized(model: Detector) -> list[tuple[str, str]]:
    """In how many bits the box head is, if it is."""
    how = quantization_of(model)
    if how is None:
        return []
    text = (
        f"the box head's linear layers in {how.bits} bits, {how.mode}, groups of {how.group_size}"
    )
    return [("quantised", text)]


def _least(config: BoxConfig) -> str:
    """The least score, or the range of those by class."""
    each = config.box_score_thresh
    if not isinstance(each, tuple):
        return f"{each:g}"
    return f"{min(each):g} to {max(each):g} by class"


def _suppression(config: BoxConfig) -> str:
    """How overlapping detections are suppressed, in a few words."""
    overlap = f"IoU {config.box_nms_thresh:g}"
    kind = {
        "hard": f"NMS at {overlap}",
        "linear": f"linear Soft-NMS from {overlap}",
        "gaussian": f"Gaussian Soft-NMS of sigma {config.box_nms_sigma:g}",
    }[config.box_nms_kind]
    return f"{kind} over all classes" if config.box_nms_agnostic else kind


def runs_on() -> str:
    """MLX's device, and whether its products round to TF32 (10 bits), which MLX does by default."""
    device = mx.default_device()
    if device.type == mx.cpu:
        return "CPU, products in float32"
    found = mx.device_info()
    chip, kind = found.get("device_name", "unknown"), str(found.get("architecture", ""))
    apple = re.match(r"applegpu_g(\d+)", kind)
    if apple and int(apple[1]) < _WITH_TF32:
        return f"GPU, {chip}, products in float32"
    if os.environ.get("MLX_ENABLE_TF32", "1") == "0":
        return f"GPU, {chip}, products in float32 (MLX_ENABLE_TF32=0)"
    return f"GPU, {chip}, products in TF32: MLX_ENABLE_TF32=0 makes them float32, and slower"


def _input(config: DetectorConfig) -> str:
    """What the network sees of an image."""
    if isinstance(config, RCNNConfig):
        side, around = config.crop_size, config.crop_context
        return f"a crop of {side} x {side} pixels of each proposal, {around} of them around its box"
    min_size = config.min_size if isinstance(config.min_size, int) else config.min_size[-1]
    return f"short side {min_size} pixels, long side at most {config.max_size}"


def _found(config: DetectorConfig) -> tuple[str, str]:
    """What is found, and which of it is kept."""
    if isinstance(config, BoxConfig):
        return "detections", (
            f"at most {config.box_detections_per_img} an image, score {_least(config)} or more, "
            f"{_suppression(config)}"
        )
    assert isinstance(config, ProposingConfig)  # there is no third
    return "proposals", (
        f"at most {config.rpn_post_nms_top_n_test} an image, NMS at IoU {config.rpn_nms_thresh:g}"
    )


def _heads(config: DetectorConfig) -> str:
    """The structure of RPN, box and mask head in a few words."""
    parts = []
    if isinstance(config, ProposingConfig):
        parts.append(f"RPN {_convs(config.rpn_conv_depth, None)}")
    if isinstance(config, FastRCNNConfig):
        parts.append(_box_head(config))
    if isinstance(config, RCNNConfig):
        svm = config.rcnn_scores == "svm"
        parts.append("a linear SVM a class" if svm else "box a linear layer over the classifier")
    if isinstance(config, MaskRCNNConfig):
        parts.append(f"mask {_convs(config.mask_num_convs, config.mask_head_norm)}")
    if isinstance(config, KeypointRCNNConfig):
        head = _convs(len(config.keypoint_layers), None)
        parts.append(f"{config.num_keypoints} keypoints by {head}")
    if isinstance(config, BoxConfig) and not isinstance(config, ProposingConfig):
        parts.append("proposals from elsewhere")
    return ", ".join(parts)


def _box_head(config: FastRCNNConfig) -> str:
    """The box head, or how often it stands."""
    if config.res5_head:
        box = "the ResNet's fourth stage"
    elif config.box_head_convs:
        convs = _convs(config.box_head_convs, config.box_head_norm)
        box = f"{convs} and a linear layer of {config.hidden_dim}"
    else:
        box = f"2 linear layers of {config.hidden_dim}"
    stages = len(config.box_stages)
    return f"box {box}" if stages == 1 else f"{stages} times box {box}"


def _convs(count: int, norm: str | None) -> str:
    plural = "s" if count != 1 else ""
    return f"{count} convolution{plural}" + (f" with {norm} norm" if norm else "")


def _backbone(module: nn.Module) -> str:
    """The backbone in a few words."""
    config = getattr(module, "config", None)
    if isinstance(config, ResNetFPNConfig):
        plain = (config.groups, config.width_per_group) == (1, 64)
        wide = "" if plain else f" {config.groups}x{config.width_per_group}d"
        name = f"{'ResNet' if config.groups == 1 else 'ResNeXt'}-{config.depth}{wide}"
    elif isinstance(config, MobileNetFPNConfig):
        name = f"MobileNetV3-{config.variant}"
    elif isinstance(config, VGGConfig):
        return f"VGG-{config.depth}, {f'{config.norm} norm' if config.norm else 'no norms'}"
    else:
        return "AlexNet" if isinstance(config, AlexNetConfig) else type(module).__name__
    pyramid = f" with {config.fpn_norm} norm" if config.fpn_norm else ""
    return f"{name}, {config.norm} norm, epsilon {config.norm_eps:g}, FPN{pyramid}"


def count_parameters(model: nn.Module) -> dict[str, tuple[int, int]]:
    """How many parameters, and running means and variances, each part has, as ``backbone.fpn``."""
    parts: dict[str, tuple[int, int]] = {}
    for name, array in restored(model).items():
        part = ".".join(step for step in name.split(".")[:-1][:2] if not step.isdigit())
        parameters, statistics = parts.get(part, (0, 0))
        if name.rsplit(".", 1)[-1] in ("running_mean", "running_var"):
            statistics += array.size
        else:
            parameters += array.size
        parts[part] = (parameters, statistics)
    return parts


def _storage(model: Detector) -> tuple[list[str], int]:
    """The dtypes of a model's arrays and their bytes."""
    dtypes = {str(array.dtype).rsplit(".", 1)[-1] for array in restored(model).values()}
    return sorted(dtypes), sum(array.nbytes for array in flat_parameters(model).values())


def _classes(count: int, names: tuple[str, ...] | None) -> str:
    text = f"{count} with the background"
    if names is None:
        return f"{text}, without names"
    real = [name for name in names[1:] if name != "N/A"]
    more = ", ..." if len(real) > _NAMES_SHOWN else ""
    named = "" if len(real) == count - 1 else f" ({len(real)} in use)"
    return f"{text}{named}: {', '.join(real[:_NAMES_SHOWN])}{more}"
