"""detectron2's and mmdetection's keys: all consumed or dropped, architectures told from them."""

from __future__ import annotations

from types import ModuleType

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from library_recipe import cascade_shapes, library_shapes, one_map_shapes
from mlx_rcnn import FasterRCNN, KeypointRCNN, MaskRCNN, ResNetFPNConfig
from mlx_rcnn.checkpoints.weights import assign
from mlx_rcnn.config.categories import COCO_KEYPOINTS, COCO_PERSON
from mlx_rcnn.convert.libraries import detectron2, mmdetection
from mlx_rcnn.convert.libraries.architecture import Hints
from mlx_rcnn.convert.libraries.recognise import LIBRARIES, recognise, unprefixed
from mlx_rcnn.convert.rename import Renamed, rename, rename_back
from mlx_rcnn.layers import weights_to_come

State = dict[str, mx.array]
NAMES = {"detectron2": detectron2, "mmdet": mmdetection}
libraries = pytest.mark.parametrize("library", NAMES)
kinds = pytest.mark.parametrize("kind", ["faster", "mask"])
HEADS = {
    "detectron2": (
        "roi_heads.box_predictor.cls_score",
        "roi_heads.box_predictor.bbox_pred",
        "roi_heads.mask_head.predictor",
    ),
    "mmdet": (
        "roi_head.bbox_head.fc_cls",
        "roi_head.bbox_head.fc_reg",
        "roi_head.mask_head.conv_logits",
    ),
}


def published(library: str, kind: str) -> State:
    """Unevaluated zeros under the library's keys: they take no memory."""
    return {key: mx.zeros(shape) for key, shape in library_shapes(library, kind).items()}


def convert(state: State, hints: Hints | None = None) -> tuple[FasterRCNN, Renamed]:
    """What `load` does with a state dict."""
    found = recognise(state, hints=hints or Hints())
    renamed = rename(state, found.rules, found.detector["pool_size"])
    cls = MaskRCNN if found.model == "mask_rcnn" else FasterRCNN
    body = {k: v for k, v in found.backbone.items() if k != "type"}
    with weights_to_come():
        model = cls(ResNetFPNConfig(**body), **found.detector)
    assign(model, renamed.weights, "file")
    return model, renamed


def small(classes: int = 4, mask: bool = False, agnostic: bool = False, **backbone) -> FasterRCNN:
    net = {"depth": 18, "num_classes": 0, "norm": "frozen", "width": 8, "out_channels": 8}
    options = {"use_fpn": True, "hidden_dim": 16, "class_agnostic_bbox": agnostic}
    if mask:
        options |= {"mask_hidden_channels": 8, "mask_num_convs": 2}
    cls = MaskRCNN if mask else FasterRCNN
    with weights_to_come():
        return cls(ResNetFPNConfig(**{**net, **backbone}), 8, classes, **options)


def their_state(model: FasterRCNN, module: ModuleType) -> State:
    """A model's weights, every number another, as a library would name and lay them out."""
    random = np.random.default_rng(0)
    weights = {
        key: mx.array(random.standard_normal(value.shape).astype(np.float32))
        for key, value in tree_flatten(model.parameters())
    }
    return rename_back(weights, module.RULES)


@libraries
@kinds
def test_published_models_fill_every_parameter(library: str, kind: str) -> None:
    state = published(library, kind)
    model, renamed = convert(state)
    assert type(model) is (MaskRCNN if kind == "mask" else FasterRCNN)
    assert all(key.endswith("num_batches_tracked") for key in renamed.dropped)
    assert len(renamed.dropped) == (53 if library == "mmdet" else 0)
    assert len(renamed.weights) + len(renamed.dropped) == len(state)
    assert len(renamed.weights) == len(tree_flatten(model.parameters()))
    config = model.config
    assert (config.num_classes, config.class_names) == (81, None)
    assert (config.pool_size, config.hidden_dim, config.feat_channels) == ((7, 7), 1024, 256)
    assert model.backbone.config == ResNetFPNConfig(
        depth=50, num_classes=0, norm="frozen", stride_in_1x1=library == "detectron2"
    )


@libraries
def test_which_library_is_told_by_keys(library: str) -> None:
    found = recognise(published(library, "faster"))
    assert LIBRARIES[found.library] is NAMES[library]
    inside = {f"detector.{key}": value for key, value in published(library, "faster").items()}
    assert unprefixed(inside).keys() == published(library, "faster").keys()


@libraries
@pytest.mark.parametrize("mask", [False, True])
def test_rules_read_both_ways(library: str, mask: bool) -> None:
    """Back to the library's keys and forth again is the identity, bit for bit."""
    state = their_state(small(mask=mask), NAMES[library])
    found = recognise(state)
    weights = rename(state, found.rules).weights
    again = rename_back(weights, found.rules)
    assert again.keys() == state.keys()
    assert all(mx.array_equal(again[key], state[key]).item() for key in state)


@libraries
def test_background_moves_to_the_front(library: str) -> None:
    module = NAMES[library]
    state = their_state(small(mask=True), module)
    weights = rename(state, module.RULES).weights
    classes, boxes, masks = (state[f"{head}.weight"] for head in HEADS[library])
    ours = weights["roi_heads.box_predictor.cls_score.weight"]
    assert mx.array_equal(ours[0], classes[-1]) and mx.array_equal(ours[1:], classes[:-1])
    ours = weights["roi_heads.box_predictor.bbox_pred.weight"]
    assert boxes.shape[0] == 12 and ours.shape[0] == 16
    assert not ours[:4].any() and mx.array_equal(ours[4:], boxes)
    ours = weights["roi_heads.mask_predictor.mask_fcn_logits.weight"]
    assert masks.shape[0] == 3 and not ours[0].any()
    assert mx.array_equal(ours[1:, 0, 0], masks[:, :, 0, 0])


@libraries
@pytest.mark.parametrize("agnostic", [False, True])
@pytest.mark.parametrize("classes", [2, 4])
def test_fine_tunes_with_other_classes(library: str, classes: int, agnostic: bool) -> None:
    state = their_state(small(classes, agnostic=agnostic), NAMES[library])
    rows = state[f"{HEADS[library][1]}.weight"].shape[0]
    assert rows == (4 if agnostic else 4 * (classes - 1))
    model, _ = convert(state)
    assert model.config.num_classes == classes and model.class_names is None
    assert model.config.class_agnostic_bbox == (rows == 4)
    names = tuple("abc"[: classes - 1])
    named, _ = convert(state, Hints(class_names=names))
    assert named.class_names == ("__background__", *names)
    other, _ = convert(state, Hints(class_names=("too", "many", "names", "here")))
    assert other.class_names is None


@libraries
@pytest.mark.parametrize("depth", [18, 34, 101, 152])
def test_depths(library: str, depth: int) -> None:
    state = their_state(small(depth=depth), NAMES[library])
    model, _ = convert(state)
    assert model.backbone.config.depth == depth
    assert f"ResNet-{depth} and FPN, 3 classes" in recognise(state).note


RESNEXT = {"groups": 32, "width_per_group": 4, "width": 64}


@libraries
@pytest.mark.parametrize("per_group", [4, 8])
def test_resnext(library: str, per_group: int) -> None:
    """By the shape of its grouped convolutions; Caffe2's 32x8d is BGR with a deviation."""
    state = their_state(
        small(depth=101, groups=32, width_per_group=per_group, width=64), NAMES[library]
    )
    model, _ = convert(state)
    net, config = model.backbone.config, model.config
    assert (net.depth, net.groups, net.width_per_group) == (101, 32, per_group)
    assert not net.stride_in_1x1
    assert f"ResNeXt-101-32x{per_group}d" in recognise(state).note
    bgr = library == "detectron2" or per_group == 8
    assert config.channel_order == ("bgr" if bgr else "rgb")
    np.testing.assert_allclose(np.array(config.image_std) * 255, (58.395, 57.12, 57.375))


def test_detectron2_reads_the_constants_of_old_files() -> None:
    state = their_state(small(), detectron2)
    assert detectron2.recognise(state).detector["channel_order"] == "bgr"
    cell = [
        [-22.627417, -11.313708, 22.627417, 11.313708],
        [-16, -16, 16, 16],
        [-11.313708, -22.627417, 11.313708, 22.627417],
    ]
    state |= {
        f"proposal_generator.anchor_generator.cell_anchors.{i}": mx.array(cell) * 2**i
        for i in range(5)
    }
    state |= {
        "pixel_mean": mx.array([123.675, 116.28, 103.53]).reshape(3, 1, 1),
        "pixel_std": mx.array([58.395, 57.12, 57.375]).reshape(3, 1, 1),
    }
    model, renamed = convert(state)
    assert len(renamed.dropped) == 7
    config = model.config
    assert config.anchor_sizes == ((32,), (64,), (128,), (256,), (512,))
    assert config.aspect_ratios == (0.5, 1.0, 2.0)
    assert config.channel_order == "rgb" and not model.backbone.config.stride_in_1x1
    np.testing.assert_allclose(np.array(config.image_mean) * 255, (123.675, 116.28, 103.53))
    state["pixel_mean"] = state["pixel_mean"][::-1]
    state["pixel_std"] = mx.ones((3, 1, 1))
    config = convert(state)[0].config
    assert config.channel_order == "bgr"
    np.testing.assert_allclose(np.array(config.image_mean) * 255, (123.675, 116.28, 103.53))
    np.testing.assert_allclose(np.array(config.image_std) * 255, (1, 1, 1))


CAFFE_CONFIG = """
data_preprocessor = dict(bgr_to_rgb=False, mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0])
backbone = dict(depth=50, style='caffe', type='ResNet')
"""
PYTORCH_2 = """img_norm_cfg = dict(
    mean=[100.0, 110.0, 120.0], std=[58.395, 57.12, 57.375], to_rgb=True)
model = dict(backbone=dict(style="pytorch"))"""


@pytest.mark.parametrize(
    ("hints", "caffe", "why"),
    [
        (Hints(), False, "give style='caffe'"),
        (Hints("faster_rcnn_r50_caffe_fpn_1x.pth"), True, "by the file's name"),
        (Hints("x.pth", CAFFE_CONFIG), True, "by the config in the file"),
        (Hints("caffe.pth", PYTORCH_2), False, "by the config in the file"),
        (Hints("x.pth", PYTORCH_2, style="caffe"), True, "as given"),
        (Hints("caffe.pth", style="pytorch"), False, "as given"),
    ],
)
def test_styles_of_mmdetection(hints: Hints, caffe: bool, why: str) -> None:
    found = mmdetection.recognise(published("mmdet", "faster"), hints)
    assert found.backbone["stride_in_1x1"] == caffe
    assert found.detector["channel_order"] == ("bgr" if caffe else "rgb")
    std = np.array(found.detector["image_std"]) * 255
    np.testing.assert_allclose(std, (1, 1, 1) if caffe else (58.395, 57.12, 57.375))
    mean = np.array(found.detector["image_mean"]) * 255
    own = hints.config == PYTORCH_2 and hints.style is None
    np.testing.assert_allclose(mean, (100, 110, 120) if own else (123.675, 116.28, 103.53))
    assert why in found.note and ("caffe style" in found.note) == caffe


def test_styles_are_of_mmdetection_only() -> None:
    with pytest.raises(ValueError, match="'latin': expected one of"):
        recognise(published("mmdet", "faster"), hints=Hints(style="latin"))
    with pytest.raises(ValueError, match="is for mmdetection, got keys of detectron2"):
        recognise(published("detectron2", "faster"), hints=Hints(style="caffe"))


@libraries
def test_every_missing_key_is_named(library: str) -> None:
    whole = their_state(small(mask=True), NAMES[library])
    for key in whole:
        state = {k: v for k, v in whole.items() if k != key}
        ours = next(iter(rename({key: whole[key]}, NAMES[library].RULES).weights))
        with pytest.raises(ValueError, match="missing|no ResNet") as caught:
            convert(state)
        assert key in str(caught.value) or ours in str(caught.value)


@libraries
def test_every_misshaped_key_is_refused(library: str) -> None:
    whole = their_state(small(mask=True), NAMES[library])
    for key, value in whole.items():
        longer = mx.zeros((value.shape[0] + 1, *value.shape[1:]))
        for wrong in (longer, value[None], mx.zeros((0, 1, 1))):
            with pytest.raises(ValueError) as caught:
                convert({**whole, key: wrong})
            assert len(str(caught.value)) < 1500


@libraries
@pytest.mark.parametrize(
    "key", ["backbone.extra.weight", "roi_heads.box_head.fc3.weight", "rpn.weight", "scale"]
)
def test_extra_keys_are_named(library: str, key: str) -> None:
    state = {**their_state(small(), NAMES[library]), key: mx.zeros((2, 2))}
    with pytest.raises(ValueError, match="(no rule for|unexpected)") as caught:
        convert(state)
    assert key.removeprefix("backbone.") in str(caught.value)


OTHERS = {
    "detectron2": {
        "head.cls_score.weight": "RetinaNet",
        "sem_seg_head.predictor.weight": "semantic or panoptic segmentation",
        "roi_heads.mask_head.point_head.fc1.weight": "PointRend",
        "roi_heads.densepose_head.body_conv_fcn1.weight": "DensePose",
        "proposal_generator.fcos_head.cls_logits.weight": "FCOS",
        "roi_heads.box_head.conv1.weight": "convolutional box head",
        "proposal_generator.rpn_head.conv.conv0.weight": "deep RPN head",
        "backbone.fpn_lateral2.norm.weight": "norms in its FPN",
        "backbone.bottom_up.res3.0.conv2_offset.weight": "deformable",
    },
    "mmdet": {
        "bbox_head.fc_cls.weight": "mmdetection 1",
        "bbox_head.retina_cls.weight": "RetinaNet",
        "bbox_head.multi_level_conv_cls.0.weight": "one-stage",
        "panoptic_fusion_head.x.weight": "panoptic",
        "semantic_head.conv_logits.weight": "semantic",
        "roi_head.mask_iou_head.fc_mask_iou.weight": "Mask Scoring",
        "roi_head.grid_head.convs.0.conv.weight": "Grid R-CNN",
        "roi_head.point_head.fcs.0.conv.weight": "PointRend",
        "roi_head.shared_head.layer4.0.conv1.weight": "C4",
        "roi_head.bbox_head.shared_convs.0.conv.weight": "convolutional box head",
        "rpn_head.rpn_conv.0.conv.weight": "deep RPN head",
        "neck.lateral_convs.0.bn.weight": "norms in its FPN",
        "backbone.layer2.0.conv2.conv_offset.weight": "deformable",
    },
}


@pytest.mark.parametrize(("library", "key"), [(n, k) for n, keys in OTHERS.items() for k in keys])
def test_relatives_are_named_in_one_line(library: str, key: str) -> None:
    state = {**published(library, "mask"), key: mx.zeros((1, 1))}
    with pytest.raises(ValueError, match=OTHERS[library][key]) as caught:
        recognise(state)
    message = str(caught.value)
    assert message.startswith("this is ") and "expected a" in message and "\n" not in message


@libraries
def test_halves_are_models_of_their_own(library: str) -> None:
    state = published(library, "faster")
    rpn, roi = {
        "detectron2": ("proposal_generator.", "roi_heads."),
        "mmdet": ("rpn_head.", "roi_head."),
    }[library]
    found = recognise({k: v for k, v in state.items() if not k.startswith(roi)})
    assert found.model == "proposal_network" and "RPN, ResNet-50 and FPN, objects of" in found.note
    assert "num_classes" not in found.detector and "pool_size" not in found.detector
    found = recognise({k: v for k, v in state.items() if not k.startswith(rpn)})
    assert found.model == "fast_rcnn" and "Fast R-CNN, ResNet-50 and FPN, 80" in found.note
    assert "rpn_nms_thresh" not in found.detector and found.detector["num_classes"] == 81
    masks = published(library, "mask")
    with pytest.raises(ValueError, match="Fast R-CNN with masks"):
        recognise({k: v for k, v in masks.items() if not k.startswith(rpn)})


@pytest.mark.parametrize("kind", ["cascade", "cascade_mask"])
@libraries
def test_cascades_with_a_stage_missing(library: str, kind: str) -> None:
    state = {k: mx.zeros(shape) for k, shape in cascade_shapes(library, kind).items()}
    part = {"detectron2": "box_predictor.", "mmdet": "bbox_head."}[library]

    def without(stage: int) -> dict[str, mx.array]:
        return {k: v for k, v in state.items() if f"{part}{stage}." not in k}

    assert recognise(state).model == f"{kind}_rcnn"
    for stage, message in (
        (0, rf"a cascade with box heads 1, 2: missing .*{part}0"),
        (1, rf"a cascade with box heads 0, 2: missing .*{part}1"),
        (2, rf"a cascade of 2 box heads, .*{part}0 to 1: expected 3; is a stage missing\?"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            recognise(without(stage))
        assert "\n" not in str(caught.value)
    two = {"cascade_ious": (0.5, 0.6), "cascade_reg_weights": ((10, 10, 5, 5),) * 2}
    assert recognise(without(2), hints=Hints(settings=two)).model == f"{kind}_rcnn"
    layer = {"detectron2": "box_head.1.fc2.weight", "mmdet": "bbox_head.1.shared_fcs.1.weight"}
    with pytest.raises(ValueError, match=rf"missing .*{layer[library]}"):
        recognise({k: v for k, v in state.items() if not k.endswith(layer[library])})


def test_a_proposal_network_without_a_pyramid() -> None:
    """detectron2's rpn_R_50_C4: three stages and nothing over RoIs."""
    state = {k: mx.zeros(v) for k, v in one_map_shapes("c4").items() if "roi_heads" not in k}
    found = recognise(state)
    assert found.model == "proposal_network" and "ResNet-50 C4" in found.note
    assert found.backbone["last_stage"] == 3 and found.detector["anchor_stride"] == 16


@libraries
def test_one_mask_for_all_classes_is_refused(library: str) -> None:
    state = published(library, "mask")
    key = f"{HEADS[library][2]}.weight"
    state[key] = state[key][:1]
    with pytest.raises(ValueError, match="80 classes and 1 channels of masks"):
        recognise(state)


KEYPOINT_BODY = {"depth": 18, "num_classes": 0, "norm": "frozen", "width": 8, "out_channels": 8}


@pytest.mark.parametrize(("classes", "count"), [(2, 17), (3, 17), (2, 5)])
def test_keypoint_models_of_detectron2(classes: int, count: int) -> None:
    ours = KeypointRCNN(
        ResNetFPNConfig(**KEYPOINT_BODY),
        8,
        classes,
        use_fpn=True,
        hidden_dim=16,
        num_keypoints=count,
        keypoint_layers=(16, 24),
    )
    state = their_state(ours, detectron2)
    assert state["roi_heads.keypoint_head.conv_fcn2.weight"].shape == (24, 16, 3, 3)
    assert state["roi_heads.keypoint_head.score_lowres.weight"].shape == (24, count, 4, 4)
    assert "class_names" not in recognise(state).detector  # a number is no name
    found = recognise(state, hints=Hints(coco=True))
    assert found.model == "keypoint_rcnn" and "Keypoint R-CNN, ResNet-18 and FPN" in found.note
    fields = found.detector
    assert fields["keypoint_layers"] == (16, 24) and fields["num_keypoints"] == count
    assert fields["keypoint_score"] == "probability" and fields["keypoint_offset"] == 0.5
    assert fields["min_size"] == 800
    person = (classes, count) == (2, 17)
    assert fields.get("class_names") == (COCO_PERSON if person else None)
    assert fields.get("keypoint_names") == (COCO_KEYPOINTS if person else None)
    body = {k: v for k, v in found.backbone.items() if k != "type"}
    model = KeypointRCNN(ResNetFPNConfig(**body), **fields)
    renamed = rename(state, found.rules, fields["pool_size"])
    assign(model, renamed.weights, "file")
    again = rename_back(renamed.weights, found.rules, fields["pool_size"])
    assert all(mx.array_equal(again[key], state[key]).item() for key in state)


def test_masks_and_keypoints_together_are_refused() -> None:
    state = {
        **published("detectron2", "mask"),
        "roi_heads.keypoint_head.conv_fcn1.weight": mx.zeros((1,)),
    }
    with pytest.raises(ValueError, match="masks and keypoints"):
        recognise(state)


@pytest.mark.parametrize("anchors", [1, 4, 6, 15])
def test_anchors_that_nobody_told_are_refused(anchors: int) -> None:
    """A file without its anchors is of the usual ones, or their number shows that it is not."""
    state = published("detectron2", "faster")
    for part, numbers in (("objectness_logits", 1), ("anchor_deltas", 4)):
        state[f"proposal_generator.rpn_head.{part}.weight"] = mx.zeros(
            (anchors * numbers, 256, 1, 1)
        )
        state[f"proposal_generator.rpn_head.{part}.bias"] = mx.zeros((anchors * numbers,))
    with pytest.raises(ValueError, match=f"{anchors} anchors a cell: expected 1 size of 3"):
        recognise(state)
