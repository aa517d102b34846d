"""Config fields as text: typed by the field, refused in one line, the nearest name said."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, get_type_hints

import pytest

from mlx_rcnn import FasterRCNNConfig, KeypointRCNNConfig, MaskRCNNConfig, ResNetFPNConfig
from mlx_rcnn.config.backbone import (
    AlexNetConfig,
    MobileNetFPNConfig,
    ResNetConfig,
    VGGConfig,
)
from mlx_rcnn.config.keywords import (
    BackboneSettings,
    DetectorSettings,
    KeypointSettings,
    MaskSettings,
    Settings,
)
from mlx_rcnn.config.settings import cure, fields_named, kinds, read_setting


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("norm_groups=4", 4),
        (" box_nms_thresh = 1 ", 1.0),
        ("min_size=600", 600),
        ("min_size=600,800", (600, 800)),
        ("width=0.5", 0.5),
        ("width=24", 24),
        ("use_fpn=True", True),
        ("clip_results=no", False),
        ("norm=group", "group"),
        ("norm='group'", "group"),
        ("fpn_norm=none", None),
        ("anchor_sizes=None", None),
        ("anchor_sizes=32,64", (32, 64)),
        ("anchor_sizes=[[8, 16.5], [32, 64]]", ((8, 16.5), (32, 64))),
        ("anchor_sizes=(8,),(16,)", ((8,), (16,))),
        ("aspect_ratios=1", (1.0,)),
        ("pool_size=7,14", (7, 14)),
        ("keypoint_skeleton=(0,1),(1,2)", ((0, 1), (1, 2))),
        ("keypoint_names=nose, left eye", ("nose", "left eye")),
        ("class_names=cat,dog", "cat,dog"),  # as --classes: perhaps a file
    ],
)
def test_values_have_the_type_of_their_field(text: str, value: Any) -> None:
    name, got = read_setting(text)
    assert name == text.partition("=")[0].strip()
    assert got == value and type(got) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("norm_groups=four", "norm_groups=four: expected a whole number"),
        ("norm_groups=4.0", "expected a whole number"),
        ("norm_groups=True", "expected a whole number"),
        ("norm_groups=none", "expected a whole number"),
        ("box_nms_thresh=none", "expected a number"),
        ("box_nms_thresh=", "expected a number"),
        ("clip_results=perhaps", "expected true or false"),
        ("pool_size=7", "expected 2 whole numbers between commas"),
        ("pool_size=(7,7),(7,7)", "expected 2 whole numbers"),
        ("keypoint_skeleton=0,1", "expected pairs"),
        ("anchor_sizes=__import__('os')", "numbers between commas, or rows"),
        ("anchor_sizes=" + "(" * 5000, "numbers between commas"),
        ("nrm_groups=4", "has a field 'nrm_groups'; did you mean 'norm_groups'"),
        ("norm_groups", "expected FIELD=VALUE; did you mean 'norm_groups'"),
        ("backbone=resnet", "has a field 'backbone'"),
        ("dtype=float16", "expected --dtype float16"),
        ("=4", "has a field ''"),
    ],
)
def test_what_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        read_setting(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 250


def test_every_field_can_be_set() -> None:
    for config in (FasterRCNNConfig, ResNetFPNConfig):
        assert {item.name for item in fields(config)} - {"backbone"} <= set(kinds())


@pytest.mark.parametrize(
    "config",
    [
        MaskRCNNConfig,
        KeypointRCNNConfig,
        ResNetFPNConfig,
        MobileNetFPNConfig,
        VGGConfig,
        AlexNetConfig,
    ],
)
def test_every_field_has_its_rule_beside_it(config: type[Any]) -> None:
    bare = [item.name for item in fields(config) if "rule" not in item.metadata]
    assert set(bare) <= {"backbone", "keypoint_skeleton"}  # a module; pairs of two fields


def test_the_fields_a_message_is_about() -> None:
    assert fields_named("x.pth: norm_groups=32: does not divide 24 channels") == ["norm_groups"]
    assert fields_named("its width is 24, state='ema'") == []
    assert "--set norm_groups=..." in cure(["norm_groups"]) and cure([]) == cure(["other"]) == ""


def test_the_keywords_are_the_fields() -> None:
    """What type checkers are told of keywords agrees with the configs."""
    every = get_type_hints(Settings)
    for keywords, configs in (
        (DetectorSettings, [FasterRCNNConfig]),
        (MaskSettings, [MaskRCNNConfig]),
        (KeypointSettings, [KeypointRCNNConfig]),
        (
            BackboneSettings,
            [ResNetFPNConfig, ResNetConfig, MobileNetFPNConfig, AlexNetConfig, VGGConfig],
        ),
    ):
        told, types = get_type_hints(keywords), {}
        for config in configs:
            types |= {name: get_type_hints(config)[name] for name in get_type_hints(config)}
        if keywords is BackboneSettings:
            types = {**types, "width": int | float}
            for name in ("num_classes", "hidden_dim"):  # the detector's, where both could be meant
                del types[name]
        else:
            types["class_names"] = types["class_names"] | str  # a file's name, when loading
        named = ("backbone", "feat_channels", "num_classes", "num_keypoints")  # by who builds
        told |= {name: every[name] for name in named if name in types}
        assert told == types
    assert set(kinds()) | {"backbone"} == set(get_type_hints(Settings))
