"""mmdetection's configs of 2.x and 3.x: what they say becomes fields of ours, the rest is said."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

import mlx_rcnn
from mlx_rcnn import FasterRCNN, MaskRCNN, ResNetFPNConfig
from mlx_rcnn.convert.files.torch_writer import save_torch_file
from mlx_rcnn.convert.libraries.mmdetection import RULES
from mlx_rcnn.convert.libraries.mmdetection_config import read_mmdet_config
from mlx_rcnn.convert.rename import rename_back

THREE = """
dataset_type = 'CocoDataset'
metainfo = dict(classes=('ant', 'bee', 'cow'))
scale = (640, 480)
model = dict(
    type='FasterRCNN',
    data_preprocessor=dict(
        type='DetDataPreprocessor', mean=[10.0, 20.0, 30.0], std=[2.0, 3.0, 4.0],
        bgr_to_rgb=False, pad_size_divisor=16),
    backbone=dict(type='ResNet', depth=18, style='pytorch'),
    rpn_head=dict(anchor_generator=dict(
        type='AnchorGenerator', scales=[4, 6], ratios=[0.5, 2.0], strides=[4, 8, 16, 32, 64])),
    roi_head=dict(
        bbox_roi_extractor=dict(
            roi_layer=dict(type='RoIAlign', output_size=7, sampling_ratio=2),
            featmap_strides=[4, 8, 16, 32]),
        bbox_head=dict(bbox_coder=dict(target_stds=[0.05, 0.05, 0.1, 0.1])),
        mask_roi_extractor=dict(roi_layer=dict(output_size=10))),
    train_cfg=dict(rpn=dict(assigner=dict(pos_iou_thr=0.8), sampler=dict(num=64))),
    test_cfg=dict(
        rpn=dict(nms_pre=300, max_per_img=200, nms=dict(type='nms', iou_threshold=0.6)),
        rcnn=dict(score_thr=0.02, nms=dict(type='nms', iou_threshold=0.4), max_per_img=7)))
test_pipeline = [dict(type='Resize', scale=scale, keep_ratio=True), dict(type='Pack')]
test_dataloader = dict(dataset=dict(type=dataset_type, pipeline=test_pipeline, metainfo=metainfo))
"""
TWO = """
img_norm_cfg = dict(mean=[10.0, 20.0, 30.0], std=[2.0, 3.0, 4.0], to_rgb=True)
model = dict(
    rpn_head=dict(anchor_generator=dict(scales=[8], ratios=[1.0], strides=[4, 8, 16, 32, 64])),
    roi_head=dict(bbox_head=dict(num_classes=3)),
    test_cfg=dict(
        rpn=dict(nms_pre=300, max_num=200, nms_thr=0.6),
        rcnn=dict(score_thr=0.02, nms=dict(type='nms_match', iou_thr=0.4), max_per_img='all')))
data = dict(test=dict(type='CocoDataset', pipeline=[dict(
    type='MultiScaleFlipAug', img_scale=(640, 480),
    transforms=[dict(type='Resize', keep_ratio=True), dict(type='Normalize', **img_norm_cfg),
                dict(type='Pad', size_divisor=64)])]))
"""


def test_a_config_of_3() -> None:
    found = read_mmdet_config(THREE)
    assert found is not None and found.differs == () and not found.coco
    assert found.class_names == ("ant", "bee", "cow") and found.style == "pytorch"
    assert found.image == ((30.0, 20.0, 10.0), (4.0, 3.0, 2.0), "bgr")
    assert found.mask_pool_size == 10
    assert found.fields == {
        "anchor_sizes": ((16, 24), (32, 48), (64, 96), (128, 192), (256, 384)),
        "aspect_ratios": (0.5, 2.0),
        "anchor_stride": (4, 8, 16, 32, 64),
        "pool_size": (7, 7),
        "roi_sampling_ratio": 2,
        "roi_levels": 4,
        "bbox_reg_weights": (20.0, 20.0, 10.0, 10.0),
        "size_divisible": 16,
        "rpn_fg_iou_thresh": 0.8,
        "rpn_batch_size_per_image": 64,
        "rpn_pre_nms_top_n_test": 300,
        "rpn_post_nms_top_n_test": 200,
        "rpn_nms_thresh": 0.6,
        "box_score_thresh": 0.02,
        "box_nms_thresh": 0.4,
        "box_detections_per_img": 7,
        "min_size": 480,
        "max_size": 640,
    }


def test_a_config_of_2() -> None:
    found = read_mmdet_config(TWO)
    assert found is not None and found.class_names is None and found.coco
    assert found.image == ((10.0, 20.0, 30.0), (2.0, 3.0, 4.0), "rgb")
    assert found.fields["size_divisible"] == 64 and found.fields["rpn_nms_thresh"] == 0.6
    assert found.fields["anchor_sizes"] == ((32,), (64,), (128,), (256,), (512,))
    assert "box_detections_per_img" not in found.fields
    assert len(found.differs) == 2
    assert "max_per_img='all'" in found.differs[0] and "nms.type='nms_match'" in found.differs[1]


@pytest.mark.parametrize("text", ["", "no python (", "  \n"])
def test_none_that_can_be_read(text: str) -> None:
    assert read_mmdet_config(text) is None


def file(path: Any, meta: dict[str, Any], kind: type[FasterRCNN] = FasterRCNN, **options) -> str:
    body = ResNetFPNConfig(depth=18, width=8, num_classes=0, norm="frozen", out_channels=8)
    model = kind(body, 8, 4, use_fpn=True, hidden_dim=8, **options)
    state = rename_back(dict(tree_flatten(model.parameters())), RULES)
    save_torch_file({"meta": meta, "state_dict": state}, path)
    return str(path)


def test_a_file_is_built_as_its_config_says(folder) -> None:
    two = {"anchor_sizes": (16, 24), "aspect_ratios": (0.5, 2.0)}
    path = file(
        folder / "x.pth", {"cfg": THREE}, MaskRCNN, **two, mask_pool_size=(10, 10), mask_out_size=20
    )
    model = mlx_rcnn.load(path, box_nms_thresh=0.3)
    config = model.config
    assert config.anchor_sizes[1] == (32, 48) and config.mask_pool_size == (10, 10)
    assert (config.min_size, config.max_size, config.box_score_thresh) == (480, 640, 0.02)
    assert config.box_nms_thresh == 0.3  # the user's word comes first
    assert config.class_names == ("__background__", "ant", "bee", "cow")
    assert config.channel_order == "bgr" and config.image_mean == (30 / 255, 20 / 255, 10 / 255)
    assert "settings by the config in the file" in model.source
    model.predict(mx.zeros((40, 50, 3), dtype=mx.uint8))


def test_what_is_assumed_is_said(folder) -> None:
    model = mlx_rcnn.load(file(folder / "x.pth", {}))
    assert "anchors, strides, sizes and thresholds assumed" in model.source
    odd = "model = dict(test_cfg=dict(rcnn=dict(nms=dict(type='nms_match'))))"
    model = mlx_rcnn.load(file(folder / "y.pth", {"config": odd}))
    assert "not read: model.test_cfg.rcnn.nms.type='nms_match'" in model.source
    with pytest.raises(ValueError, match=r"anchors a cell.*--set anchor_sizes"):
        mlx_rcnn.load(file(folder / "z.pth", {}, anchor_sizes=(16, 24)))


CASCADE = """
model = dict(
    rpn_head=dict(loss_bbox=dict(type='SmoothL1Loss', beta=0.25, loss_weight=1.0)),
    roi_head=dict(
        type='CascadeRoIHead', num_stages=2, stage_loss_weights=[1, 0.25],
        bbox_head=[
            dict(bbox_coder=dict(target_stds=[0.1, 0.1, 0.2, 0.2]),
                 loss_bbox=dict(type='GIoULoss', loss_weight=10.0)),
            dict(bbox_coder=dict(target_stds=[0.05, 0.05, 0.1, 0.1]))]),
    train_cfg=dict(rcnn=[
        dict(assigner=dict(pos_iou_thr=0.4), sampler=dict(num=128, pos_fraction=0.5)),
        dict(assigner=dict(pos_iou_thr=0.6))]),
    test_cfg=dict(rcnn=dict(
        score_thr=0.001, nms=dict(type='soft_nms', iou_threshold=0.5, method='gaussian', sigma=0.3),
        max_per_img=100)))
"""


def test_stages_losses_and_suppression_of_a_cascade() -> None:
    config = read_mmdet_config(CASCADE)
    assert config is not None and config.differs == ()
    assert config.fields == {
        "rpn_reg_loss": "smooth_l1",
        "rpn_smooth_l1_beta": 0.25,
        "box_reg_loss": "giou",
        "bbox_reg_weights": (10.0, 10.0, 5.0, 5.0),
        "cascade_reg_weights": ((10.0, 10.0, 5.0, 5.0), (20.0, 20.0, 10.0, 10.0)),
        "cascade_loss_weights": (1, 0.25),
        "cascade_ious": (0.4, 0.6),
        "box_fg_iou_thresh": 0.4,
        "box_batch_size_per_image": 128,
        "box_positive_fraction": 0.5,
        "box_score_thresh": 0.001,
        "box_nms_thresh": 0.5,
        "box_nms_kind": "gaussian",
        "box_nms_sigma": 0.3,
        "box_detections_per_img": 100,
    }
