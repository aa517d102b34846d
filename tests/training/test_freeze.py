"""What learns, and what never moves."""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_rcnn import (
    AlexNetConfig,
    FasterRCNN,
    MobileNetFPNConfig,
    ResNetFPNConfig,
    VGGConfig,
    set_trainable,
)


def build(norm: str, **options) -> FasterRCNN:
    backbone = ResNetFPNConfig(
        depth=18, width=8, out_channels=8, norm=norm, norm_groups=4, **options
    )
    return FasterRCNN(backbone, 8, 3, use_fpn=True, hidden_dim=8, dropout=0.0, min_size=64)


def trainable(model: FasterRCNN) -> set[str]:
    return {name for name, _ in tree_flatten(model.trainable_parameters())}


# torchvision's order of thawing: from the last stage to the stem, whose norm comes with it.
@pytest.mark.parametrize(
    ("count", "stages"),
    [
        (0, set()),
        (1, {"layer4"}),
        (3, {"layer4", "layer3", "layer2"}),
        (4, {"layer4", "layer3", "layer2", "layer1"}),
        (5, {"layer4", "layer3", "layer2", "layer1", "conv1", "bn1"}),
    ],
)
@pytest.mark.parametrize("norm", ["frozen", "batch", "group"])
def test_stages(norm, count, stages):
    model = build(norm)
    set_trainable(model, count)
    names = trainable(model)
    prefix = "backbone.net."
    body = {name.removeprefix(prefix).split(".")[0] for name in names if name.startswith(prefix)}
    assert body == (stages - {"bn1"} if norm == "frozen" else stages)
    assert not any("running" in name for name in names)
    assert {n for n in names if not n.startswith(prefix)} == {
        name for name, _ in tree_flatten(model.parameters()) if not name.startswith(prefix)
    }


@pytest.mark.parametrize("count", [-1, 6, 2.0, True])
def test_count_out_of_range(count):
    with pytest.raises(ValueError, match=r"trainable_backbone_layers.*0\.\.5"):
        set_trainable(build("frozen"), count)


def test_backbone_of_ones_own_is_refused():
    model = FasterRCNN(nn.Conv2d(3, 8, 3, 2, 1), 8, 3, hidden_dim=8)
    with pytest.raises(TypeError, match="expected one with a ResNet, MobileNetV3, VGG or A"):
        set_trainable(model, 3)


def step(model: FasterRCNN) -> None:
    """One optimizer step with a weight decay that would move anything it reaches."""
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    target = {"boxes": np.array([[8.0, 8, 40, 48]]), "labels": np.array([1])}
    optimizer = optim.SGD(0.1, momentum=0.9, weight_decay=0.1)
    loss = nn.value_and_grad(
        model, lambda: model.get_loss([image], [target], key=mx.random.key(0))["total_loss"]
    )
    _, gradients = loss()
    optimizer.update(model, gradients)
    mx.eval(model.parameters())


def test_frozen_norms_never_move():
    model = build("frozen")
    before = {k: np.array(v) for k, v in tree_flatten(model.parameters()) if "bn" in k}
    model.unfreeze()
    model.train()
    set_trainable(model, 5)
    model.unfreeze()
    weight = np.array(model.backbone.net.conv1.weight)
    step(model)
    after = dict(tree_flatten(model.parameters()))
    assert np.abs(np.array(model.backbone.net.conv1.weight) - weight).max() > 0
    for name, value in before.items():
        np.testing.assert_array_equal(np.array(after[name]), value, err_msg=name)


def test_batch_norms_of_frozen_stages_follow_the_batch():
    """As torchvision's v2 models in training mode: scale and shift stay, the statistics do not."""
    model = build("batch")
    model.train()
    set_trainable(model, 2)  # layer4 and layer3
    before = {k: np.array(v) for k, v in tree_flatten(model.backbone.net.parameters())}
    step(model)
    after = dict(tree_flatten(model.backbone.net.parameters()))
    moved = {name for name in before if np.abs(np.array(after[name]) - before[name]).max() > 0}
    assert {n.split(".")[0] for n in moved if "running" not in n} == {"layer3", "layer4"}
    statistics = {name for name in before if "running" in name}
    assert {"bn1.running_mean", "layer1.0.bn1.running_var"} < statistics <= moved


# torchvision freezes `features` before the stage's first block: 0, 2, 4, 7, 13, 16 of the large
# network and 0, 1, 2, 4, 9, 12 of the small one.
@pytest.mark.parametrize(
    ("variant", "count", "first"),
    [
        ("large", 0, 17),
        ("large", 1, 16),
        ("large", 3, 7),
        ("large", 5, 2),
        ("large", 6, 0),
        ("small", 2, 9),
        ("small", 3, 4),
        ("small", 5, 1),
    ],
)
def test_stages_of_mobilenet(variant, count, first):
    net = MobileNetFPNConfig(variant, 10, width=0.5, norm="batch", out_channels=8)
    model = FasterRCNN(net, 8, 3, use_fpn=True, hidden_dim=8)
    set_trainable(model, count)
    names = trainable(model)
    prefix = "backbone.net.blocks."
    learning = {int(n.removeprefix(prefix).split(".")[0]) for n in names if n.startswith(prefix)}
    assert learning == set(range(first, len(model.backbone.net.blocks)))
    assert not any("classifier" in n or "running" in n for n in names)
    assert "backbone.fpn.inner_blocks.0.0.weight" in names
    with pytest.raises(ValueError, match=r"trainable_backbone_layers=7: .* 0\.\.6"):
        set_trainable(model, 7)


# Fast R-CNN's paper learns VGG-16 from conv3_1, its third block, and CaffeNet from conv2.
@pytest.mark.parametrize(
    ("config", "count", "learning"),
    [
        (VGGConfig(16, 3, width=4), 0, set()),
        (VGGConfig(16, 3, width=4), 1, {24, 26, 28}),
        (VGGConfig(16, 3, width=4), 3, {10, 12, 14, 17, 19, 21, 24, 26, 28}),
        (VGGConfig(11, 3, width=4), 5, {0, 3, 6, 8, 11, 13, 16, 18}),
        (VGGConfig(11, 3, "batch", width=4), 2, {15, 16, 18, 19, 22, 23, 25, 26}),
        (VGGConfig(11, 3, "frozen", width=4), 2, {15, 18, 22, 25}),
        (AlexNetConfig(3, width=4), 4, {3, 6, 8, 10}),
        (AlexNetConfig(3, width=4), 5, {0, 3, 6, 8, 10}),
    ],
)
def test_stages_of_vgg_and_alexnet(config, count, learning):
    model = FasterRCNN(replace(config, hidden_dim=4), config.channels, 3, hidden_dim=8)
    set_trainable(model, count)
    names, prefix = trainable(model), "backbone.net.features."
    found = {int(n.removeprefix(prefix).split(".")[0]) for n in names if n.startswith(prefix)}
    assert found == learning
    assert not any("classifier" in n or "running" in n for n in names)
    assert "roi_heads.box_head.fc6.weight" in names
    with pytest.raises(ValueError, match=r"trainable_backbone_layers=6: .* 0\.\.5"):
        set_trainable(model, 6)


def test_norms_of_the_heads_learn_and_follow():
    backbone = ResNetFPNConfig(18, 0, width=8, out_channels=8, norm="frozen", fpn_norm="batch")
    model = FasterRCNN(
        backbone,
        8,
        3,
        use_fpn=True,
        hidden_dim=8,
        box_head_convs=1,
        box_head_norm="batch",
        dropout=0.0,
        min_size=64,
    )
    model.train()
    set_trainable(model, 0)
    keys = ("backbone.fpn.layer_blocks.0.1", "roi_heads.box_head.norms.0")
    before = {k: np.array(v) for k, v in tree_flatten(model.parameters())}
    names = trainable(model)
    assert all(f"{key}.weight" in names and f"{key}.running_var" not in names for key in keys)
    step(model)
    after = dict(tree_flatten(model.parameters()))
    for key in keys:
        for part in ("weight", "bias", "running_mean", "running_var"):
            moved = np.abs(np.array(after[f"{key}.{part}"]) - before[f"{key}.{part}"]).max()
            assert moved > 0, (key, part)
    frozen = [k for k in before if k.startswith("backbone.net.")]
    assert all(np.array_equal(np.array(after[k]), before[k]) for k in frozen)
