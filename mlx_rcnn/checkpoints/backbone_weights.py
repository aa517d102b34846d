"""Classification weights as the start of a detector's backbone."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import mlx.core as mx
import mlx.nn as nn

from ..backbones import VGG, AlexNet, MobileNetV3, ResNet
from ..layers import BatchNorm, GroupNorm
from ..models import RCNN
from .downloads import fetch
from .published import PUBLISHED_BACKBONES
from .weights import assign, flat_parameters

Network = ResNet | MobileNetV3 | VGG | AlexNet
NETWORKS = (ResNet, MobileNetV3, VGG, AlexNet)
TOP = ("fc.", "classifier.")  # the layers that detection does not use
FILES = ("model.safetensors", "pytorch_model.bin")

if TYPE_CHECKING:
    from mlx_rcnn.convert.libraries.classifiers import Classifier


def load_backbone(
    model: nn.Module, source: str | os.PathLike[str], *, classifier: bool = True
) -> str:
    """Load classification weights into ``model.backbone.net``, all of them or none.

    ResNet-18 to 152, ResNeXt, MobileNetV3, VGG-11 to 19 and AlexNet with the keys of torchvision,
    timm or transformers. The norms of the backbone take the epsilon the weights were made with
    (1e-3 for torchvision's MobileNetV3, 1e-5 otherwise), so that ``backbone.net(images)`` gives the
    classifier's logits.

    A box head of two linear layers that are as large as the hidden ones of VGG's or AlexNet's
    classifier, 7 x 7 x 512 to 4096 to 4096 of VGG, starts from these, as in the papers of Fast and
    Faster R-CNN; the line returned says so. An R-CNN has them in its backbone.

    >>> model = faster_rcnn_resnet_50_fpn(num_classes=5, backbone_num_classes=0)
    >>> load_backbone(model, "resnet50-0676ba61.pth")
    'ResNet-50 with the keys of torchvision or timm, 1000 classes'

    Args:
        model: a detector, its backbone, or a bare ``ResNet``, ``MobileNetV3``, ``VGG`` or
            ``AlexNet``; changed in place.
        source: a file (``.pth``, ``.bin``, ``.safetensors``); a directory with
            ``model.safetensors`` or ``pytorch_model.bin``, as the Hugging Face Hub has them; or a
            name such as ``"resnet50"`` (``mlx_rcnn.checkpoints.published.PUBLISHED_BACKBONES``),
            downloaded once.
        classifier: whether the last layers are loaded too, if the model has any
            (``backbone_num_classes=0`` leaves them out); without them an R-CNN still takes the
            hidden ones. Default: ``True``.

    Returns:
        One line that says what was recognised.

    Raises:
        FileNotFoundError: nothing of that name.
        TypeError: the model has no network of those.
        ValueError: weights of another network, of another depth or with other norms, incomplete
            ones, or ones for another number of classes; offenders are listed.
    """
    body, net = _find(model)
    path = _find_file(source)
    from mlx_rcnn.convert.checkpoint import read_state
    from mlx_rcnn.convert.libraries.classifiers import read_classifier

    try:
        found = read_classifier(read_state(path)[0])
    except ValueError as error:
        prefix = "" if str(error).startswith(str(path)) else f"{path}: "
        raise ValueError(f"{prefix}{error}") from error
    note = f"{found.network} with the keys of {found.library}"
    _check_network(found, net, path, note)
    expected = flat_parameters(net)
    kept = _kept(expected, classifier, isinstance(model, RCNN))
    if classifier:
        _check_classes(found, expected, f"{path} ({note})")
    weights = {**found.weights, **kept}
    weights = {k: v for k, v in weights.items() if k in expected or not k.startswith(TOP)}
    assign(net, _cast(weights, expected), f"{path} ({note})")
    _set_epsilon(model, body, net, found.norm_eps)
    end = ", its hidden layers in the box head" if _fill_box_heads(model, found) else ""
    return f"{note}, {found.classes or 'no'} classes{end}"


def _fill_box_heads(model: nn.Module, found: Classifier) -> bool:
    """Start box heads from a plain classifier's hidden layers; whether there were any that fit."""
    layers = sorted({int(k.split(".")[1]) for k in found.weights if k.startswith("classifier.")})
    if found.family not in ("VGG", "AlexNet") or len(layers) < 2:
        return False
    weights = {
        f"{ours}.{kind}": found.weights[f"classifier.{theirs}.{kind}"]
        for ours, theirs in zip(("fc6", "fc7"), layers[:2], strict=True)
        for kind in ("weight", "bias")
    }
    heads = model.roi_heads.get("box_head", []) if "roi_heads" in model else []
    fit = []
    for head in heads if isinstance(heads, list) else [heads]:
        expected = flat_parameters(head)
        if {k: v.shape for k, v in expected.items()} == {k: v.shape for k, v in weights.items()}:
            assign(head, _cast(weights, expected), "the classifier")
            fit.append(head)
    return bool(fit)


def _find(model: nn.Module) -> tuple[nn.Module, Network]:
    """The backbone, or the bare network, and the network in it."""
    body = model.backbone if "backbone" in model else model
    net = body.net if "net" in body else body
    if not isinstance(net, NETWORKS):
        raise TypeError(
            f"backbone {type(body).__name__}: expected one with a ResNet, MobileNetV3, VGG or "
            "AlexNet"
        )
    return body, net


def _check_network(found: Classifier, net: Network, path: Path, note: str) -> None:
    """Refuse another network, a VGG of another depth, and norms where the other has none."""
    ours = next(kind.__name__ for kind in NETWORKS if isinstance(net, kind))
    if found.family != ours:
        raise ValueError(f"{path} is {_a(note)}, and the model's backbone {_a(ours)}")
    if isinstance(net, VGG) and (depth := found.network.split("-")[1]) != str(net.depth):
        raise ValueError(
            f"{path} is a {note}, and the model's backbone a VGG-{net.depth}: build it with "
            f"depth={depth}"
        )
    given = any(name.endswith(".running_var") for name in found.weights)
    group = any(isinstance(m, GroupNorm) for m in net.modules())
    own = group or any(isinstance(m, BatchNorm) for m in net.modules())
    if given and (group or not own):
        raise ValueError(
            f"{path} ({note}) has batch norms, and the model's backbone "
            f"{'group norms' if group else 'none'}: build it with norm='batch' or norm='frozen'"
        )
    if isinstance(net, VGG) and own and not given:
        raise ValueError(
            f"{path} ({note}) has no batch norms, and the model's backbone has norms: build it "
            "with norm=None"
        )


def _a(name: str) -> str:
    """A network's name with its article."""
    return f"{'an' if name.startswith('A') else 'a'} {name}"


def _find_file(source: str | os.PathLike[str]) -> Path:
    """The file that a path or name stands for."""
    path, name = Path(source), str(source).removeprefix("torchvision/")
    if path.is_dir():
        file = next((path / name for name in FILES if (path / name).is_file()), None)
        if file is None:
            raise FileNotFoundError(f"{path} has none of {', '.join(FILES)}")
    elif path.is_file():
        file = path
    elif name in PUBLISHED_BACKBONES:
        file = fetch(name, PUBLISHED_BACKBONES[name])
    else:
        raise FileNotFoundError(
            f"no weights {str(source)!r}: expected a file, a directory with one of "
            f"{', '.join(FILES)}, or one of {', '.join(PUBLISHED_BACKBONES)}"
        )
    _refuse_tensorflow(path)
    return file


def _refuse_tensorflow(path: Path) -> None:
    """Timm's ``tf_`` models have the keys and shapes of the others, but pad unevenly."""
    config = path / "config.json"
    text = path.name
    if config.is_file():
        text += str(json.loads(config.read_text(encoding="utf-8")).get("architecture", ""))
    if "tf_mobilenet" in text:
        raise ValueError(
            f"{path} is one of timm's tf_ models, whose convolutions pad as TensorFlow's do: "
            "expected one without tf_, such as mobilenetv3_large_100"
        )


def _kept(expected: dict[str, mx.array], classifier: bool, hidden: bool) -> dict[str, mx.array]:
    """The last layers that the model keeps as they are; ``hidden``: it needs those before."""
    own = {key: value for key, value in expected.items() if key.startswith(TOP)}
    if classifier or not hidden or not own:
        return {} if classifier else own
    from mlx_rcnn.convert.libraries.classifiers import LAST

    last = next(name for name in LAST if name in own).removesuffix("weight")
    return {key: value for key, value in own.items() if key.startswith(last)}


def _check_classes(found: Classifier, expected: dict[str, mx.array], name: str) -> None:
    """Refuse a last layer for other classes than the model's, if it has one."""
    from mlx_rcnn.convert.libraries.classifiers import last_weight

    last = last_weight({k: v for k, v in expected.items() if k.startswith(TOP)})
    if last is not None and found.classes != last.shape[0]:
        has = f"has {found.classes} classes" if found.classes else "has no classifier"
        raise ValueError(
            f"{name} {has}, and the model's backbone.net {last.shape[0]}: build the model with "
            f"backbone_num_classes={found.classes or 0}"
            + (", or 0 to leave the classifier out," if found.classes else "")
            + " or pass classifier=False to keep its own"
        )


def _cast(weights: dict[str, mx.array], expected: dict[str, mx.array]) -> dict[str, mx.array]:
    """Floating-point weights in the model's dtypes."""
    return {
        key: value.astype(expected[key].dtype)
        if key in expected and mx.issubdtype(value.dtype, mx.floating)
        else value
        for key, value in weights.items()
    }


def _set_epsilon(model: nn.Module, body: nn.Module, net: nn.Module, eps: float) -> None:
    """Give the backbone's norms an epsilon, in the configs too: it must outlive a save."""
    for module in body.modules():
        if isinstance(module, BatchNorm):
            module.eps = eps
    if body is net:
        return
    old = body.config
    if not hasattr(old, "norm_eps"):  # an AlexNet has no norms
        return
    body.config = replace(old, norm_eps=eps)
    if body is not model and model.config.backbone == old:
        model.config = replace(model.config, backbone=body.config)
