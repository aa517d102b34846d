"""Recomputed stages: the same steps bit for bit, in less memory."""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

import tiny
from mlx_rcnn import FasterRCNN, MobileNetFPNConfig
from mlx_rcnn.backbones import ResNet
from mlx_rcnn.config.backbone import ResNetConfig, VGGConfig
from mlx_rcnn.layers.recompute import recomputing
from mlx_rcnn.training.config import changes
from mlx_rcnn.training.optimizer import make_optimizer
from mlx_rcnn.training.prepare import prepare_model
from mlx_rcnn.training.step import TrainStep


def mobilenet():
    body = MobileNetFPNConfig(
        variant="small",
        width=0.25,
        out_channels=8,
        num_classes=0,
        norm="batch",
        returned_layers=(4, 5),
    )
    return FasterRCNN(body, 8, 4, use_fpn=True, anchor_sizes=((16,), (32,), (64,)), **SMALL)


def vgg():
    body = VGGConfig(depth=11, width=4, num_classes=0, norm="group", norm_groups=2)
    return FasterRCNN(body, 32, 4, roi_pooling="pool", **SMALL)


def c4():
    body = ResNetConfig(depth=18, width=8, num_classes=0, last_stage=3, norm="frozen")
    return FasterRCNN(body, 32, 4, **SMALL)


SMALL = {
    "hidden_dim": 8,
    "min_size": 64,
    "max_size": 96,
    "rpn_pre_nms_top_n_train": 50,
    "rpn_post_nms_top_n_train": 20,
    "box_batch_size_per_image": 16,
}
MODELS = {
    "group": lambda: tiny.build(),
    "batch": lambda: tiny.build(norm="batch"),
    "frozen stages": lambda: tiny.build(norm="batch"),
    "bfloat16": lambda: tiny.build(norm="batch"),
    "mask": lambda: tiny.build("mask_rcnn", norm="frozen"),  # the host reads its RoIs
    "mobilenet": mobilenet,
    "vgg": vgg,
    "one map": c4,
}


@pytest.mark.parametrize("name", MODELS)
def test_steps_are_the_same_bit_for_bit(name: str) -> None:
    data = tiny.batches(2, 2)
    config = replace(
        tiny.CONFIG,
        freeze=2 if name == "frozen stages" else 0,
        dtype="bfloat16" if name == "bfloat16" else "float32",
    )
    results = []
    for recompute in (False, True):
        mx.random.seed(5)
        model = MODELS[name]()
        used = prepare_model(model, tiny.shapes().class_names, replace(config, recompute=recompute))
        take = TrainStep(model, make_optimizer(model, used), used)
        steps = [take([batch], i, 0.01) for i, batch in enumerate(data)]
        results.append((tiny.arrays(take), [(s.losses, s.norm) for s in steps]))
    (kept, losses), (again, same) = results
    assert losses == same
    assert all(np.array_equal(kept[k], again[k]) for k in kept) and kept.keys() == again.keys()


def test_running_statistics_move_once_and_less_is_kept() -> None:
    net = ResNet(18, 0, width=8)
    x = mx.random.normal((2, 96, 96, 3), key=mx.random.key(0))
    weights = net.trainable_parameters()
    start = net.parameters()
    mx.eval(weights, start, x)
    values = leaves(weights)  # now: inside the loss MLX has traced arrays in their places

    def run(again: bool) -> tuple[list[mx.array], list[mx.array], int]:
        net.update(start)

        def loss(parameters):
            pairs = zip(leaves(parameters), values, strict=True)
            net.update(parameters)
            with recomputing(pairs if again else None):
                maps = net.features(x)
                mx.eval(maps)  # as a host that reads what comes of them: all before it is kept
                kept.append(mx.get_active_memory())
            return sum(mx.mean(m * m) for m in maps)

        kept: list[int] = []
        before = mx.get_active_memory()
        gradient = mx.grad(loss)(weights)
        mx.eval(gradient)
        net.update(weights)
        return leaves(gradient), leaves(net.parameters()), kept[0] - before

    (one, after, much), (other, after_too, little) = run(False), run(True)
    for a, b in zip([*one, *after], [*other, *after_too], strict=True):
        assert mx.array_equal(a, b)
    assert not mx.array_equal(start["bn1"]["running_mean"], net.bn1.running_mean)
    assert little < 0.1 * much


def leaves(tree) -> list[mx.array]:
    return [v for _, v in tree_flatten(tree)]


def test_a_resumed_run_may_take_it_up() -> None:
    assert changes(tiny.CONFIG, replace(tiny.CONFIG, recompute=True)) == []


def test_a_backbone_of_ones_own_has_no_stages() -> None:
    model = tiny.build()
    model.backbone = Own(model.backbone)
    with pytest.raises(TypeError, match="recompute: backbone Own: expected one with a ResNet"):
        prepare_model(model, tiny.shapes().class_names, replace(tiny.CONFIG, recompute=True))


class Own(nn.Module):
    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def __call__(self, x: mx.array) -> list[mx.array]:
        return self.inner(x)
