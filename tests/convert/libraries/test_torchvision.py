"""torchvision's keys: every one consumed or dropped, every architecture told from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

import recipe
from mlx_rcnn import FasterRCNN, MaskRCNN, ResNetFPNConfig
from mlx_rcnn.checkpoints.weights import assign
from mlx_rcnn.convert.libraries.torchvision import RULES, recognise
from mlx_rcnn.convert.rename import Renamed, rename, rename_back
from mlx_rcnn.layers import weights_to_come
from small import BACKBONE, old_name, torch_state, untrained, with_counts

State = dict[str, mx.array]
KINDS = ("faster_rcnn", "mask_rcnn")
PUBLISHED = {"fasterrcnn_resnet50_fpn": FasterRCNN, "maskrcnn_resnet50_fpn": MaskRCNN}


def published(name: str) -> State:
    """Unevaluated zeros under torchvision's keys: they take no memory."""
    return {key: mx.zeros(shape) for key, shape in recipe.shapes(name).items()}


def convert(state: State) -> tuple[FasterRCNN, Renamed]:
    """What `load` does with a state dict."""
    found = recognise(state)
    renamed = rename(state, RULES, found.detector["pool_size"])
    cls = MaskRCNN if found.model == "mask_rcnn" else FasterRCNN
    body = {k: v for k, v in found.backbone.items() if k != "type"}
    with weights_to_come():
        model = cls(ResNetFPNConfig(**body), **found.detector)
    assign(model, renamed.weights, "file")
    return model, renamed


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_fill_every_parameter(name: str) -> None:
    state = published(name)
    model, renamed = convert(state)
    assert type(model) is PUBLISHED[name]
    assert renamed.dropped == []
    assert len(renamed.weights) == len(state) == len(tree_flatten(model.parameters()))
    config = model.config
    assert (config.num_classes, config.class_names) == (91, None)
    assert (config.pool_size, config.hidden_dim, config.feat_channels) == ((7, 7), 1024, 256)
    assert model.backbone.config == ResNetFPNConfig(
        depth=50, num_classes=0, norm="frozen", norm_eps=0.0
    )


def test_epsilon_of_frozen_norms(small_state: Callable[[str], State]) -> None:
    """0 is of the published ResNet-50s alone, resnet_fpn_backbone's of other depths is 1e-5."""
    assert recognise(published("maskrcnn_resnet50_fpn")).backbone["norm_eps"] == 0.0
    small = recognise(small_state("faster_rcnn"))
    assert (small.backbone["depth"], small.backbone["norm"]) == (18, "frozen")
    assert small.backbone["norm_eps"] == 1e-5 and "epsilon 1e-5" in small.note


@pytest.mark.parametrize("name", PUBLISHED)
def test_names_of_2019(name: str) -> None:
    """Three places changed: the pyramid, the shared convolution of the RPN, the mask head."""
    state = published(name)
    old = {old_name(key): value for key, value in state.items()}
    assert "backbone.fpn.inner_blocks.0.weight" in old and "rpn.head.conv.bias" in old
    assert ("roi_heads.mask_head.mask_fcn4.weight" in old) == (name.startswith("mask"))
    assert recognise(old) == recognise(state)
    new_weights, old_weights = (rename(s, RULES).weights for s in (state, old))
    assert {k: v.shape for k, v in old_weights.items()} == {
        k: v.shape for k, v in new_weights.items()
    }


def test_both_names_at_once(small_state: Callable[[str], State]) -> None:
    state = dict(small_state("faster_rcnn"))
    state["rpn.head.conv.weight"] = state["rpn.head.conv.0.0.weight"]
    with pytest.raises(ValueError, match="'rpn.head.conv.weight' and 'rpn.head.conv.0.0.weight'"):
        rename(state, RULES)


def test_batch_counts_mean_batch_norm() -> None:
    state = with_counts(published("fasterrcnn_resnet50_fpn"))
    model, renamed = convert(state)
    assert (model.backbone.config.norm, model.backbone.config.norm_eps) == ("batch", 1e-5)
    assert renamed.dropped == [k for k in state if k.endswith("num_batches_tracked")]
    assert len(renamed.dropped) == 53
    assert len(renamed.weights) + 53 == len(state)
    assert "BatchNorm2d, epsilon 1e-5" in recognise(state).note


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_depths(depth: int) -> None:
    net = ResNetFPNConfig(depth=depth, num_classes=0, out_channels=8)
    state = torch_state(FasterRCNN(net, 8, 3, use_fpn=True, hidden_dim=16))
    found = recognise(state)
    assert found.backbone["depth"] == depth and found.backbone["out_channels"] == 8
    assert f"ResNet-{depth} and FPN, 3 classes" in found.note
    assert (found.detector["hidden_dim"], found.detector["num_classes"]) == (16, 3)
    assert "class_names" not in found.detector


def test_other_sizes_are_read_from_shapes() -> None:
    model = untrained("mask_rcnn", 7, mask_num_convs=3, mask_hidden_channels=24)
    found = recognise(torch_state(model))
    assert found.model == "mask_rcnn"
    assert found.detector["mask_num_convs"] == 3
    assert found.detector["mask_hidden_channels"] == 24
    pooled = FasterRCNN(BACKBONE, 32, 7, use_fpn=True, hidden_dim=8, pool_size=(5, 5))
    assert recognise(torch_state(pooled, 5)).detector["pool_size"] == (5, 5)
    assert found.backbone["width"] == BACKBONE.width == 16


def test_group_norm_is_told_by_what_it_lacks() -> None:
    net = replace(BACKBONE, norm="group", norm_groups=4, norm_eps=1e-5)
    state = torch_state(FasterRCNN(net, 32, 3, use_fpn=True, hidden_dim=8))
    found = recognise(state)
    assert found.backbone["norm"] == "group" and "norm_groups" in found.note
    body = {k: v for k, v in found.backbone.items() if k != "type"}
    model = FasterRCNN(ResNetFPNConfig(**body, norm_groups=4), **found.detector)
    assign(model, rename(state, RULES).weights, "file")


@pytest.mark.parametrize("kind", KINDS)
def test_every_missing_key_is_named(small_state: Callable[[str], State], kind: str) -> None:
    whole = small_state(kind)
    for key in whole:
        state = {k: v for k, v in whole.items() if k != key}
        ours = next(iter(rename({key: whole[key]}, RULES).weights))
        with pytest.raises(ValueError, match="missing") as caught:
            convert(state)
        assert key in str(caught.value) or ours in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_every_misshaped_key_is_refused(small_state: Callable[[str], State], kind: str) -> None:
    whole = small_state(kind)
    for key, value in whole.items():
        longer = mx.zeros((value.shape[0] + 1, *value.shape[1:]))
        for wrong in (longer, value[None], mx.zeros((0, 1, 1))):
            with pytest.raises(ValueError) as caught:
                convert({**whole, key: wrong})
            message = str(caught.value)
            assert any(word in message for word in ("misshaped", "has shape", "columns", "missing"))
            assert len(message) < 1500


@pytest.mark.parametrize(
    "key",
    [
        "extra",
        "backbone.body.layer5.0.conv1.weight",
        "backbone.fpn.extra_blocks.p6.weight",
        "backbone.fpn.layer_blocks.4.0.weight",
        "rpn.head.conv.1.weight",
        "roi_heads.box_predictor.other.weight",
        "backbone.body.fc.weight",
        "rpn.head.cls_logits.x",
    ],
)
def test_extra_keys_are_named(small_state: Callable[[str], State], key: str) -> None:
    state = {**small_state("faster_rcnn"), key: mx.zeros((2, 2))}
    with pytest.raises(ValueError, match="(no rule for|unexpected)") as caught:
        convert(state)
    assert key.removeprefix("backbone.body.") in str(caught.value)


@pytest.mark.parametrize(
    ("keys", "name"),
    [
        (("backbone.body.conv1.weight", "head.classification_head.cls_logits.weight"), "RetinaNet"),
        (("conv1.weight", "layer1.0.conv1.weight", "fc.weight"), "a ResNet classifier"),
        (("backbone.body.0.0.weight", "backbone.body.1.conv.0.0.weight"), "MobileNetV2"),
        (("model.0.conv.weight", "model.1.conv.weight"), "not a Faster, Mask or Key.*'model.0"),
        (("backbone.body.conv1.weight",), "not a Faster, Mask or Keypoint R-CNN"),
    ],
)
def test_other_networks_are_named(keys: tuple[str, ...], name: str) -> None:
    with pytest.raises(ValueError, match=name) as caught:
        recognise({key: mx.zeros((2, 2)) for key in keys})
    assert "expected" in str(caught.value)


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("backbone.body.1.conv.0.0.weight", "MobileNetV2"),
    ],
)
def test_relatives_are_named(small_state: Callable[[str], State], key: str, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        recognise({**small_state("faster_rcnn"), key: mx.zeros((1, 1, 1, 1))})


def test_an_unknown_body_is_told_by_its_blocks(small_state: Callable[[str], State]) -> None:
    state = {k: v for k, v in small_state("faster_rcnn").items() if ".layer3.1." not in k}
    with pytest.raises(ValueError, match=r"no ResNet has stages of \[2, 2, 1, 2\] blocks"):
        recognise(state)


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("style", ["new", "2019"])
def test_back_to_torchvision_is_the_identity(name: str, style: str) -> None:
    """In today's names, which the file of either style has after a round trip."""
    today = recipe.state_dict(name)
    today = {key: mx.array(value) for key, value in today.items()}
    given = {old_name(key): v for key, v in today.items()} if style == "2019" else today
    back = rename_back(rename(given, RULES).weights, RULES)
    assert back.keys() == today.keys()
    for key, value in today.items():
        assert back[key].dtype == value.dtype and mx.array_equal(back[key], value)


@pytest.mark.parametrize("pool", [5, 7])
def test_back_with_another_pool_size(pool: int) -> None:
    model = FasterRCNN(BACKBONE, 32, 7, use_fpn=True, hidden_dim=8, pool_size=(pool, pool))
    weights = dict(tree_flatten(model.parameters()))
    back = rename_back(weights, RULES, (pool, pool))
    expected = torch_state(model, pool)
    assert back.keys() == expected.keys()
    assert all(mx.array_equal(back[key], expected[key]) for key in expected)
