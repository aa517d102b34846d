import json
from dataclasses import FrozenInstanceError, fields, replace

import mlx.nn as nn
import pytest

from mlx_rcnn import (
    FasterRCNN,
    FasterRCNNConfig,
    MaskRCNNConfig,
    MobileNetFPNConfig,
    ResNetFPNConfig,
    faster_rcnn_resnet_50_fpn,
)
from mlx_rcnn.config.detector import make_config, to_json

NAN, INF = float("nan"), float("inf")


class Tiny(nn.Module):
    """Two maps of 4 channels."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, stride=4, padding=1)

    def __call__(self, x):
        x = self.stem(x)
        return [x, x[:, ::2, ::2]]


def faster(**options):
    return FasterRCNNConfig(**{"backbone": None, "feat_channels": 4, "num_classes": 3, **options})


def mask(**options):
    return MaskRCNNConfig(**{"backbone": None, "feat_channels": 4, "num_classes": 3, **options})


# Field, value, error, what the message says beside the field and the value. A count is wrong when
# it is not a whole number or less than 1, a fraction when it is not a number in [0, 1].
COUNTS = [
    "feat_channels",
    "roi_levels",
    "rpn_conv_depth",
    "hidden_dim",
    "max_size",
    "size_divisible",
    "rpn_pre_nms_top_n_train",
    "rpn_pre_nms_top_n_test",
    "rpn_post_nms_top_n_train",
    "rpn_post_nms_top_n_test",
    "rpn_batch_size_per_image",
    "box_detections_per_img",
    "box_batch_size_per_image",
]
FRACTIONS = [
    "rpn_nms_thresh",
    "rpn_fg_iou_thresh",
    "rpn_bg_iou_thresh",
    "rpn_positive_fraction",
    "rpn_score_thresh",
    "box_score_thresh",
    "box_nms_thresh",
    "box_fg_iou_thresh",
    "box_bg_iou_thresh",
    "box_positive_fraction",
]
MASK_COUNTS = ["mask_hidden_channels", "mask_out_size"]


def count_rules(names):
    for name in names:
        yield from ((name, v, ValueError, "integer of at least 1") for v in (0, -3))
        yield from ((name, v, TypeError, "expected an integer") for v in (2.0, "2", None, True))


RULES = [
    *count_rules(COUNTS),
    *((n, v, ValueError, r"number in \[0, 1\]") for n in FRACTIONS for v in (-0.01, 1.01, NAN)),
    *((n, v, TypeError, "expected a number") for n in FRACTIONS for v in ("0.5", None, True)),
    ("num_classes", 1, ValueError, "integer of at least 2"),
    ("num_classes", 2.5, TypeError, "expected an integer"),
    ("roi_sampling_ratio", -2, ValueError, "integer of at least -1"),
    ("roi_sampling_ratio", 2.0, TypeError, "expected an integer"),
    ("box_head_convs", -1, ValueError, "integer of at least 0"),
    ("box_head_norm", "layer", ValueError, "expected one of .*None, 'batch', 'frozen', 'group'"),
    ("dropout", 1.0, ValueError, r"\[0, 1\)"),
    ("dropout", -0.1, ValueError, "expected a number"),
    ("dropout", "no", TypeError, "expected a number"),
    ("rpn_min_size", -1, ValueError, "expected a number"),
    ("box_min_size", -1e-9, ValueError, "expected a number"),
    ("box_min_size", NAN, ValueError, "expected a number"),
    ("min_size", 0, ValueError, "expected positive numbers"),
    ("min_size", (), ValueError, "empty"),
    ("min_size", (640, 0), ValueError, "expected positive numbers, got 0"),
    ("min_size", "800", TypeError, "expected positive numbers"),
    ("aspect_ratios", (0.5, -1.0), ValueError, "expected positive numbers, got -1"),
    ("aspect_ratios", (), ValueError, "empty"),
    ("aspect_ratios", 1.0, ValueError, "expected a tuple of numbers"),
    # torchvision's one tuple a level: taken for ratios it would give anchors of no level
    ("aspect_ratios", ((0.5, 1.0, 2.0),) * 2, ValueError, "expected a tuple of numbers"),
    ("aspect_ratios", (0.5, NAN), ValueError, "expected positive numbers, got nan"),
    ("anchor_sizes", ((32,), (0,)), ValueError, "expected positive numbers, got 0"),
    ("anchor_sizes", ((32,), ()), ValueError, "empty"),
    ("anchor_sizes", (32, "64"), TypeError, "expected positive numbers, got '64'"),
    ("anchor_sizes", (32, INF), ValueError, "expected positive numbers, got inf"),
    ("anchor_stride", 0, ValueError, "expected positive numbers"),
    ("anchor_stride", (4, -8), ValueError, "expected positive numbers, got -8"),
    ("pool_size", 7, ValueError, "expected 2 numbers"),
    ("pool_size", (7,), ValueError, "expected 2 numbers"),
    ("pool_size", (7, 7, 7), ValueError, "expected 2 numbers"),
    ("pool_size", (7, 0), ValueError, "expected positive numbers, got 0"),
    ("pool_size", (7, 7.5), TypeError, "expected positive numbers, got 7.5"),
    ("image_mean", (0.5, 0.5), ValueError, "expected 3 numbers"),
    ("image_std", (0.5, 0.5), ValueError, "expected 3 numbers"),
    ("image_std", (0.5, 0.5, 0.0), ValueError, "expected positive numbers, got 0"),
    ("bbox_reg_weights", (10.0, 10.0, 5.0), ValueError, "expected 4 numbers"),
    ("bbox_reg_weights", (10.0, 10.0, 5.0, 0.0), ValueError, "expected positive numbers, got 0"),
    ("channel_order", "grb", ValueError, "expected one of .*'rgb', 'bgr'"),
    ("resize_rule", "pil", ValueError, "expected one of .*'torch', 'pillow', 'opencv'"),
]


@pytest.mark.parametrize(("name", "value", "error", "rule"), RULES)
@pytest.mark.parametrize("build", [faster, mask])
def test_every_rule_names_field_value_and_rule(build, name, value, error, rule):
    with pytest.raises(error, match=rule) as raised:
        build(**{name: value})
    assert str(raised.value).startswith(f"{name}={value!r}: ")


@pytest.mark.parametrize(
    ("name", "value", "error", "rule"),
    [
        *count_rules(MASK_COUNTS),
        ("mask_pool_size", 14, ValueError, "expected 2 numbers"),
        ("mask_pool_size", (14, 7), ValueError, "expected a square"),
        ("mask_pool_size", (7, 7), ValueError, "expected twice mask_pool_size, 14"),
        ("mask_head_norm", "none", ValueError, "expected one of .*None, 'batch', 'frozen'"),
        ("mask_out_size", 27, ValueError, "expected twice mask_pool_size, 28"),
    ],
)
def test_rules_of_the_mask_branch(name, value, error, rule):
    with pytest.raises(error, match=rule) as raised:
        mask(**{name: value})
    given = 28 if name == "mask_pool_size" and value == (7, 7) else value
    assert str(raised.value).startswith(
        f"mask_out_size={given!r}: " if "twice" in rule else f"{name}={value!r}: "
    )


@pytest.mark.parametrize(
    ("name", "value", "error", "rule"),
    [
        ("depth", 20, ValueError, r"expected one of \(18, 34, 50, 101, 152\)"),
        ("depth", "50", ValueError, "expected one of"),
        ("norm", "layer", ValueError, "expected one of .*'batch', 'frozen', 'group'"),
        ("num_classes", -1, ValueError, "integer of at least 0"),
        ("num_classes", 1.5, TypeError, "expected an integer"),
        ("fpn_norm", "layer", ValueError, "expected one of .*None, 'batch', 'frozen', 'group'"),
        *count_rules(["norm_groups", "groups", "width_per_group", "width", "out_channels"]),
        ("norm_eps", -1e-9, ValueError, "expected a number"),
        ("norm_eps", "0", TypeError, "expected a number"),
        *(
            ("returned_layers", v, ValueError, "expected rising stages out of 1, 2, 3, 4")
            for v in ((), (0, 1), (2, 1), (1, 1), (3, 4, 5))
        ),
    ],
)
def test_rules_of_the_backbone(name, value, error, rule):
    with pytest.raises(error, match=rule) as raised:
        ResNetFPNConfig(**{name: value})
    assert str(raised.value).startswith(f"{name}={value!r}: ")


@pytest.mark.parametrize(
    ("name", "value", "error", "rule"),
    [
        ("variant", "huge", ValueError, "expected one of .*'large', 'small'"),
        ("norm", "layer", ValueError, "expected one of .*'batch', 'frozen', 'group'"),
        ("fpn_norm", "layer", ValueError, "expected one of .*None, 'batch', 'frozen', 'group'"),
        ("num_classes", -1, ValueError, "integer of at least 0"),
        *count_rules(["norm_groups", "out_channels"]),
        ("width", 0, ValueError, "expected positive numbers"),
        ("width", (1, 2), TypeError, "expected a number"),
        ("norm_eps", -1e-9, ValueError, "expected a number"),
        ("reduced_tail", 1, ValueError, "expected one of"),
        *(
            ("returned_layers", v, ValueError, "expected rising stages out of 0, 1, 2, 3, 4, 5")
            for v in ((), (4, 6), (5, 4), (5, 5))
        ),
    ],
)
def test_rules_of_mobilenet(name, value, error, rule):
    with pytest.raises(error, match=rule) as raised:
        MobileNetFPNConfig(**{name: value})
    assert str(raised.value).startswith(f"{name}={value!r}: ")


def test_class_names_are_one_a_class():
    names = ["background", "cat", "dog"]
    assert faster(class_names=names).class_names == tuple(names)
    with pytest.raises(ValueError, match="class_names has 2 entries: expected num_classes=3"):
        faster(class_names=("cat", "dog"))


def test_values_at_the_edge_of_a_rule():
    config = faster(
        roi_sampling_ratio=-1,
        dropout=0,
        rpn_min_size=0,
        box_min_size=0,
        box_score_thresh=0,
        box_nms_thresh=1,
        num_classes=2,
        box_detections_per_img=1,
        min_size=(480, 800),
        aspect_ratios=[1],
        anchor_sizes=[[32.5], [64]],
        anchor_stride=(4, 8),
    )
    assert config.num_classes == 2 and config.anchor_sizes == ((32.5,), (64,))
    assert ResNetFPNConfig(norm_eps=0, num_classes=0, returned_layers=[4]).returned_layers == (4,)
    assert mask(mask_pool_size=[7, 7], mask_out_size=14).mask_pool_size == (7, 7)


def test_defaults_are_torchvisions():
    config = faster()
    expected = {
        "min_size": 800,
        "max_size": 1333,
        "image_mean": (0.485, 0.456, 0.406),
        "image_std": (0.229, 0.224, 0.225),
        "rpn_pre_nms_top_n_train": 2000,
        "rpn_pre_nms_top_n_test": 1000,
        "rpn_post_nms_top_n_train": 2000,
        "rpn_post_nms_top_n_test": 1000,
        "rpn_nms_thresh": 0.7,
        "rpn_fg_iou_thresh": 0.7,
        "rpn_bg_iou_thresh": 0.3,
        "rpn_batch_size_per_image": 256,
        "rpn_positive_fraction": 0.5,
        "rpn_score_thresh": 0.0,
        "box_score_thresh": 0.05,
        "box_nms_thresh": 0.5,
        "box_detections_per_img": 100,
        "box_fg_iou_thresh": 0.5,
        "box_bg_iou_thresh": 0.5,
        "box_batch_size_per_image": 512,
        "box_positive_fraction": 0.25,
        "bbox_reg_weights": (10.0, 10.0, 5.0, 5.0),
        # what torchvision fixes in its code
        "rpn_min_size": 1e-3,
        "box_min_size": 1e-2,
        "size_divisible": 32,
        "roi_sampling_ratio": 2,
        "roi_aligned": False,
        "anchor_rounding": True,
        "anchor_offset": 0.0,
        "roi_levels": 4,
        "aspect_ratios": (0.5, 1.0, 2.0),
        "pool_size": (7, 7),
        "class_agnostic_bbox": False,
        "channel_order": "rgb",
        "resize_rule": "torch",
        "bbox_clamp_both": False,
        "rpn_ranking": "torchvision",
        "clip_results": False,
        # this package's
        "use_fpn": False,
        "anchor_sizes": None,
        "anchor_stride": None,
        "stride_rule": "exact",
        "hidden_dim": 4096,
        "dropout": 0.5,
        "image_levels": None,
        "class_names": None,
        "res5_head": False,
        "rpn_conv_depth": 1,
        "box_head_convs": 0,
        "box_head_norm": None,
        "roi_pooling": "align",
        "rpn_reg_loss": "smooth_l1",
        "rpn_smooth_l1_beta": 1 / 9,
        "box_reg_loss": "smooth_l1",
        "box_smooth_l1_beta": 1 / 9,
        "box_nms_kind": "hard",
        "box_nms_sigma": 0.5,
        "box_nms_agnostic": False,
    }
    given = {"backbone", "feat_channels", "num_classes"}
    assert set(expected) | given == {f.name for f in fields(config)}
    assert {name: getattr(config, name) for name in expected} == expected
    extra = {f.name for f in fields(MaskRCNNConfig)} - {f.name for f in fields(config)}
    values = {name: getattr(mask(), name) for name in extra}
    assert values == {
        "mask_pool_size": (14, 14),
        "mask_hidden_channels": 256,
        "mask_out_size": 28,
        "mask_num_convs": 4,
        "mask_paste_rule": "torchvision",
        "mask_head_norm": None,
    }
    assert {name: getattr(mask(), name) for name in expected} == expected


def test_a_config_is_frozen_hashable_and_equal_by_value():
    lists = faster(anchor_sizes=[[32], [64]], min_size=[640, 800])
    tuples = faster(anchor_sizes=((32,), (64,)), min_size=(640, 800))
    assert lists == tuples and hash(lists) == hash(tuples) and lists != faster()
    with pytest.raises(FrozenInstanceError):
        lists.num_classes = 4
    with pytest.raises(ValueError, match="num_classes=1"):
        replace(lists, num_classes=1)  # a copy is checked again


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("box_nms_threshold", "box_nms_thresh"),
        ("hidden_dims", "hidden_dim"),
        ("anchor_size", "anchor_sizes"),
        ("rpn_nms_tresh", "rpn_nms_thresh"),
    ],
)
def test_an_unknown_field_suggests_the_nearest(name, near):
    calls = [
        lambda: make_config(FasterRCNNConfig, Tiny(), 4, 3, {name: 1}),
        lambda: make_config(FasterRCNNConfig, faster(), None, None, {name: 1}),
        lambda: FasterRCNN(Tiny(), 4, 3, **{name: 1}),
        lambda: FasterRCNN(faster(backbone=Tiny()), **{name: 1}),
        lambda: faster_rcnn_resnet_50_fpn(3, **{name: 1}),
    ]
    for call in calls:
        with pytest.raises(
            TypeError, match=f"FasterRCNNConfig has no field '{name}'; did you mean '{near}'"
        ):
            call()


def test_an_unknown_field_without_a_near_one():
    with pytest.raises(TypeError, match="^FasterRCNNConfig has no field 'zzz'$"):
        FasterRCNN(Tiny(), 4, 3, zzz=1)
    # A Faster R-CNN has no mask branch
    with pytest.raises(TypeError, match="FasterRCNNConfig has no field 'mask_num_convs'"):
        FasterRCNN(Tiny(), 4, 3, mask_num_convs=2)


def test_make_config():
    config = make_config(FasterRCNNConfig, "net", 4, 3, {"hidden_dim": 9})
    assert config == faster(backbone="net", hidden_dim=9)
    assert make_config(FasterRCNNConfig, config, None, None, {}) == config
    changed = make_config(FasterRCNNConfig, config, None, 7, {"dropout": 0.0})
    assert changed == replace(config, num_classes=7, dropout=0.0)
    with pytest.raises(ValueError, match="feat_channels=0: "):  # not "missing"
        make_config(FasterRCNNConfig, "net", 0, 3, {})
    with pytest.raises(ValueError, match="hidden_dim=0"):
        make_config(FasterRCNNConfig, config, None, None, {"hidden_dim": 0})
    for given, missing in (
        ((4, None), "num_classes"),
        ((None, 3), "feat_channels"),
        ((None, None), "feat_channels and num_classes"),
    ):
        with pytest.raises(TypeError, match=f"FasterRCNNConfig: missing {missing}$"):
            make_config(FasterRCNNConfig, "net", *given, {})
    with pytest.raises(TypeError, match="got a FasterRCNNConfig, expected a MaskRCNNConfig"):
        make_config(MaskRCNNConfig, config, None, None, {})


@pytest.mark.parametrize("build", [faster, mask])
def test_json_round_trip(build):
    config = build(
        backbone=Tiny(),
        anchor_sizes=((32,), (64,)),
        class_names=("background", "a", "b"),
        min_size=(640, 800),
        anchor_stride=(4, 8),
    )
    values = json.loads(json.dumps(to_json(config)))
    assert values.pop("backbone") is None
    assert type(config)(config.backbone, **values) == config
