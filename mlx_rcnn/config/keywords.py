"""The keywords that models are loaded and built with, for type checkers: each config field once."""

from __future__ import annotations

from typing import TypedDict

from .proposals import AnchorSizes


class BackboneSettings(TypedDict, total=False):
    """Fields of the backbones' configs."""

    depth: int
    norm: str | None
    norm_eps: float
    norm_groups: int
    stride_in_1x1: bool
    groups: int
    width_per_group: int
    width: int | float
    out_channels: int
    returned_layers: tuple[int, ...]
    fpn_norm: str | None
    last_stage: int
    dilated: bool
    variant: str
    reduced_tail: bool


class DetectorSettings(TypedDict, total=False):
    """Fields of :class:`~mlx_rcnn.FasterRCNNConfig`, but those whoever builds one names."""

    use_fpn: bool
    anchor_sizes: tuple[AnchorSizes, ...] | None
    aspect_ratios: tuple[float, ...]
    anchor_stride: int | tuple[int, ...] | None
    stride_rule: str
    anchor_rounding: bool
    anchor_offset: float
    pool_size: tuple[int, int]
    roi_levels: int
    roi_sampling_ratio: int
    roi_aligned: bool
    rpn_conv_depth: int
    box_head_convs: int
    box_head_norm: str | None
    res5_head: bool
    roi_pooling: str
    hidden_dim: int
    dropout: float
    class_agnostic_bbox: bool
    bbox_clamp_both: bool
    min_size: int | tuple[int, ...]
    max_size: int
    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]
    channel_order: str
    resize_rule: str
    size_divisible: int
    image_levels: str | None
    rpn_pre_nms_top_n_train: int
    rpn_pre_nms_top_n_test: int
    rpn_post_nms_top_n_train: int
    rpn_post_nms_top_n_test: int
    rpn_nms_thresh: float
    rpn_fg_iou_thresh: float
    rpn_bg_iou_thresh: float
    rpn_batch_size_per_image: int
    rpn_positive_fraction: float
    rpn_score_thresh: float
    rpn_min_size: float
    rpn_ranking: str
    rpn_reg_loss: str
    rpn_smooth_l1_beta: float
    box_score_thresh: float | tuple[float, ...]
    box_nms_thresh: float
    box_detections_per_img: int
    box_fg_iou_thresh: float
    box_bg_iou_thresh: float
    box_batch_size_per_image: int
    box_positive_fraction: float
    bbox_reg_weights: tuple[float, float, float, float]
    box_min_size: float
    box_nms_kind: str
    box_nms_sigma: float
    box_nms_agnostic: bool
    box_reg_loss: str
    box_smooth_l1_beta: float
    clip_results: bool
    class_names: tuple[str, ...] | str | None


class MaskSettings(DetectorSettings, total=False):
    """Fields of :class:`~mlx_rcnn.MaskRCNNConfig`."""

    mask_pool_size: tuple[int, int]
    mask_hidden_channels: int
    mask_out_size: int
    mask_num_convs: int
    mask_paste_rule: str
    mask_head_norm: str | None


class KeypointSettings(DetectorSettings, total=False):
    """Fields of :class:`~mlx_rcnn.KeypointRCNNConfig`."""

    keypoint_pool_size: tuple[int, int]
    keypoint_layers: tuple[int, ...]
    keypoint_score: str
    keypoint_offset: float
    keypoint_names: tuple[str, ...] | None
    keypoint_skeleton: tuple[tuple[int, int], ...] | None


class CascadeSettings(DetectorSettings, total=False):
    """Fields of :class:`~mlx_rcnn.CascadeMaskRCNNConfig` beside those of a Mask R-CNN."""

    cascade_ious: tuple[float, ...]
    cascade_reg_weights: tuple[tuple[float, ...], ...]
    cascade_loss_weights: tuple[float, ...]
    cascade_scores: str
    cascade_resample: bool
    cascade_grad_scale: float
    cascade_mask_heads: bool


class RCNNSettings(TypedDict, total=False):
    """Fields of :class:`~mlx_rcnn.RCNNConfig` beside those of every detector of boxes."""

    crop_size: int
    crop_context: int
    crops_at_once: int
    crops_per_batch: int
    box_reg_iou_thresh: float
    ridge: float
    rcnn_scores: str
    svm_bg_iou_thresh: float


class AllSettings(MaskSettings, KeypointSettings, CascadeSettings, RCNNSettings, total=False):
    """Any field of a detector's config, but those whoever builds one names."""


class ModelSettings(AllSettings, total=False):
    """Keywords of the models beside ``backbone``, ``feat_channels`` and ``num_classes``."""

    num_keypoints: int


class BuildSettings(AllSettings, BackboneSettings, total=False):
    """Any field of a detector's config or of its backbone's, but those a builder names itself."""


class Settings(BuildSettings, total=False):
    """Any field of a detector's config or of its backbone's."""

    backbone: object
    feat_channels: int
    num_classes: int
    num_keypoints: int


class LoadSettings(Settings, total=False):
    """Keywords of :func:`mlx_rcnn.load`."""

    dtype: str | None
    style: str | None
    state: str | None
