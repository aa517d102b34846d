"""Weights of VGG and AlexNet into `backbone.net`: what is left out, refused, and kept."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_rcnn import AlexNetConfig, FasterRCNN, VGGConfig, load_backbone
from mlx_rcnn.backbones import ResNet
from mlx_rcnn.convert.libraries.classifiers import (
    TORCHVISION_ALEXNET_RULES,
    TORCHVISION_VGG_RULES,
    read_classifier,
)
from mlx_rcnn.convert.libraries.timm import VGG_RULES
from mlx_rcnn.convert.rename import Rule, rename_back
from recipe import fill_alive, shapes

State = dict[str, mx.array]


def state_of(name: str) -> State:
    keys = shapes(f"backbone_{name}")
    return {key: mx.array(fill_alive(key, shape)) for key, shape in keys.items()}


def save(path: Path, state: State) -> Path:
    mx.save_safetensors(str(path), state, metadata={"format": "pt"})
    return path


def plain(config: VGGConfig | AlexNetConfig) -> FasterRCNN:
    return FasterRCNN(config, config.channels, 3, hidden_dim=8, min_size=64)


@pytest.mark.parametrize("name", ["torchvision_vgg11_bn_slim", "timm_vgg11_bn_slim"])
def test_the_linear_layers_of_vgg_are_optional(name: str, folder: Path) -> None:
    state = state_of(name)
    bare = {k: v for k, v in state.items() if k.startswith("features.")}
    paths = [
        save(folder / f"{i}.safetensors", given)
        for i, given in enumerate(
            (state, bare, {k: v for k, v in state.items() if not k.startswith("head.")})
        )
    ]
    for path in paths:
        model = plain(VGGConfig(11, norm="frozen", norm_eps=0.5, width=8))
        load_backbone(model, path)
        net = model.backbone.net
        assert "classifier" not in net and mx.array_equal(
            net.features[1].running_var, state["features.1.running_var"]
        )
        assert model.backbone.config.norm_eps == model.config.backbone.norm_eps == 1e-5
    kept = plain(VGGConfig(11, 7, norm="frozen", width=8, hidden_dim=32))
    mine = [np.array(kept.backbone.net.classifier[i].weight) for i in (0, 3, 6)]
    with pytest.raises(ValueError, match="has 20 classes, and the model's backbone.net 7: build"):
        load_backbone(kept, paths[0])
    with pytest.raises(ValueError, match="has no classifier, and the model's backbone.net 7"):
        load_backbone(kept, paths[1])
    load_backbone(kept, paths[0], classifier=False)
    for i, value in zip((0, 3, 6), mine, strict=True):
        np.testing.assert_array_equal(np.array(kept.backbone.net.classifier[i].weight), value)


def test_plain_networks_are_named(folder: Path) -> None:
    names = ("torchvision_vgg16_slim", "torchvision_vgg16_bn_slim", "torchvision_alexnet_slim")
    vgg, bn, alexnet = (save(folder / f"{name}.safetensors", state_of(name)) for name in names)
    resnet = save(folder / "resnet.safetensors", state_of("transformers_resnet18"))
    narrow = VGGConfig(16, width=8)
    resnet18 = ResNet(18, 20, width=8)
    for model, path, message in (
        (resnet18, vgg, "is a VGG-16 with .*torchvision, and the model's backbone a ResNet"),
        (resnet18, alexnet, "is an AlexNet with the keys .*, and the model's backbone a ResNet"),
        (plain(narrow), resnet, "is a ResNet-18 with .*, and the model's backbone a VGG"),
        (plain(narrow), alexnet, "is an AlexNet with .*, and the model's backbone a VGG"),
        (plain(AlexNetConfig(width=8)), vgg, "VGG-16 .*, and the model's backbone an AlexNet"),
        (plain(VGGConfig(11, width=8)), vgg, "backbone a VGG-11: build it with depth=16$"),
        (plain(narrow), bn, "has batch norms, and the model's backbone none: .*norm='batch' or"),
        (plain(VGGConfig(norm="batch", width=8)), vgg, "has no batch norms, .*with norm=None$"),
        (plain(VGGConfig(norm="group", norm_groups=4, width=8)), vgg, "no batch norms, .*=None$"),
        (plain(VGGConfig(norm="group", norm_groups=4, width=8)), bn, "backbone group norms: b"),
        (plain(VGGConfig(width=4)), vgg, "VGG-16 with .* does not fit the model: misshaped"),
    ):
        with pytest.raises(ValueError, match=message):
            load_backbone(model, path)
    state = state_of(names[0])
    del state["features.28.weight"]
    with pytest.raises(ValueError, match="12 convolutions in a row at features 0, 2, 5, .*VGG-11"):
        load_backbone(plain(narrow), save(folder / "x.safetensors", state))
    state = state_of(names[0])
    state["classifier.0.weight"] = state["classifier.0.weight"][:, :64]  # of other images
    with pytest.raises(
        ValueError, match=r"classifier.0.weight' has shape .*\(units, C \* 7 \* 7\)"
    ):
        load_backbone(plain(narrow), save(folder / "y.safetensors", state))


@pytest.mark.parametrize(
    ("name", "rules", "side"),
    [
        ("torchvision_vgg13_bn_slim", TORCHVISION_VGG_RULES, 7),
        ("timm_vgg16_slim", VGG_RULES, 7),
        ("timm_vgg11_bn_slim", VGG_RULES, 7),
        ("torchvision_alexnet_slim", TORCHVISION_ALEXNET_RULES, 6),
    ],
)
def test_keys_there_and_back(name: str, rules: tuple[Rule, ...], side: int) -> None:
    state = state_of(name)
    found = read_classifier(state).weights
    back = rename_back(found, rules, (side, side))
    assert back.keys() == {key for key in state if "num_batches" not in key}
    assert all(mx.array_equal(value, state[key]).item() for key, value in back.items())
    assert {"classifier.6.weight", "classifier.6.bias"} < found.keys()  # nothing is left out
